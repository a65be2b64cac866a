"""The operators' page: who may see it, what it asks, what it can do, and its files."""
