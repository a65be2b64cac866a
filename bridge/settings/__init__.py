"""The settings, read from environment variables and `.env`, and their rules."""
