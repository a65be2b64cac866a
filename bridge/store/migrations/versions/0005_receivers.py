"""Receivers: which are paused, and the figures of the attempts at them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "pauses",
        sa.Column("host", sa.Text(), primary_key=True),
        sa.Column("paused_at", sa.Double(), nullable=False),
        sa.Column("paused_by", sa.Text(), nullable=False),
        sa.Column("resumed_at", sa.Double(), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("spread", sa.Integer(), nullable=False),
    )
    op.create_table(
        "receiver_figures",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("durations", sa.Text(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("host", "hour", "process", name="pk_receiver_figures"),
    )
    op.create_index("ix_receiver_figures_hour", "receiver_figures", ["hour"])
