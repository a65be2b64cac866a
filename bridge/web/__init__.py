"""The HTTP server: the API for apps and operators, and the operators' dashboard."""
