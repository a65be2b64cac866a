"""Work beside the path of a watch: scheduled jobs, retention, the replica lease, health and stuck watches."""
