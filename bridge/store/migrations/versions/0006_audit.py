"""The audit trail: who cancelled, resent, paused and resumed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and its indexes."""
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("watch_id", sa.Text(), nullable=True),
        sa.Column("delivery_id", sa.Text(), nullable=True),
        sa.Column("receiver", sa.Text(), nullable=True),
    )
    for name, columns, condition in (
        ("ix_audit_watch", ["watch_id"], "watch_id IS NOT NULL"),
        ("ix_audit_receiver", ["receiver", "at"], "receiver IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "audit", columns, sqlite_where=where, postgresql_where=where)
