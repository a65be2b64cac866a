"""Fewer indexes to write for each watch. `schema.py` says what the others are for."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Drop the indexes. With SQLite the outbox becomes a table that is ordered by its key."""
    op.drop_index("ix_outbox_due", "outbox")
    op.drop_index("ix_outbox_holder", "outbox")
    if op.get_bind().dialect.name != "sqlite":
        return
    op.drop_index("ix_tasks_owner", "tasks")
    without_owner = sa.text("closed_at IS NULL AND owner IS NULL")
    op.create_index("ix_tasks_owner", "tasks", ["owner"], sqlite_where=without_owner)
    op.drop_index("ix_outbox_host", "outbox")
    op.rename_table("outbox", "outbox_before")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("set_at", sa.Double(), nullable=False),
        sa.Column("lease", sa.Text()),
        sa.Column("holder", sa.Text()),
        sqlite_with_rowid=False,
    )
    names = "id, host, due_at, set_at, lease, holder"
    op.execute(sa.text(f"INSERT INTO outbox ({names}) SELECT {names} FROM outbox_before ORDER BY id"))  # noqa: S608
    op.drop_table("outbox_before")
    op.create_index("ix_outbox_host", "outbox", ["host", "due_at"])
