"""Bodies in a receiver's own form, and the trace context of a watch's registration."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns, which are null for the watches and events that exist."""
    op.add_column("watches", sa.Column("body", sa.LargeBinary(), nullable=True))
    op.add_column("watches", sa.Column("traceparent", sa.Text(), nullable=True))
    op.add_column("watches", sa.Column("tracestate", sa.Text(), nullable=True))
    op.add_column("events", sa.Column("body", sa.LargeBinary(), nullable=True))
