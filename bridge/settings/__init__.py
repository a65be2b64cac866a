"""The settings: environment variables, `.env` and their rules."""
