"""Runs revisions on the connection that `bridge/store/migrate.py` passes, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
