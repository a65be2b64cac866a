"""The operators' dashboard: sign-in, data, actions and its static files."""
