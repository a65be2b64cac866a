"""When each status of a task was first seen. `schema.py` describes the columns."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the two columns; they are null for tasks that were seen before."""
    for name in ("queued_at", "in_progress_at"):
        op.add_column("tasks", sa.Column(name, sa.Double(), nullable=True))
