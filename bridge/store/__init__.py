"""The store: SQLAlchemy Core on SQLite or PostgreSQL, one set of statements."""
