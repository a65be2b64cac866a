"""Fewer indexes in random order for SQLite. `schema.py` says what the others are for."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Replace four indexes by two. A million active watches take two seconds. PostgreSQL keeps its indexes.

    Replicas of older versions use them while a replica of this version runs.
    """
    if op.get_bind().dialect.name != "sqlite":
        return
    op.drop_index("ux_tasks_open", "tasks")
    op.drop_index("ux_watches_active", "watches")
    op.drop_index("ix_watches_task", "watches")
    op.drop_index("ix_watches_task_id", "watches")
    open_credential = sa.text("CASE WHEN closed_at IS NULL THEN credential END")
    op.create_index("ux_tasks_task_id", "tasks", ["task_id", open_credential], unique=True)
    active_endpoint = sa.text("CASE WHEN state = 'active' THEN endpoint END")
    op.create_index("ux_watches_task", "watches", ["task", active_endpoint], unique=True)
