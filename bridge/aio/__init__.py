"""Small asyncio tools without knowledge of watches: clocks, timeouts, batching, worker pools and retries."""
