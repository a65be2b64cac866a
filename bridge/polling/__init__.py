"""The poller's parts: tasks in memory and their heap, credentials, pace, workers, endings, writes, deadlines."""
