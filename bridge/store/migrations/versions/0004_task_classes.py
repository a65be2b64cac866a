"""Facts from amux's record of a task, the model that an app names, and how long tasks of each class take."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns, which are null for the tasks and watches that exist, and the table."""
    for name in ("task_model", "task_class"):
        op.add_column("tasks", sa.Column(name, sa.Text(), nullable=True))
    for name in ("submitted_at", "finished_at", "seen_at"):
        op.add_column("tasks", sa.Column(name, sa.Double(), nullable=True))
    op.add_column("watches", sa.Column("model", sa.Text(), nullable=True))
    op.create_table(
        "class_histories",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("weights", sa.Text(), nullable=False),
        sa.Column("ends", sa.Integer(), nullable=False),
        sa.Column("extra_polls", sa.Double(), nullable=False),
        sa.Column("polls", sa.Double(), nullable=False),
        sa.Column("last_end_at", sa.Double(), nullable=False),
    )
