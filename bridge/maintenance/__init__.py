"""What runs beside the path of a watch: scheduled jobs, retention, the replica lease, health."""
