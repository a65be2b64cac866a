"""When each status of a task was first seen; `schema.py` says what for."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the two columns; a task that was seen before has none."""
    for name in ("queued_at", "in_progress_at"):
        op.add_column("tasks", sa.Column(name, sa.Double(), nullable=True))
