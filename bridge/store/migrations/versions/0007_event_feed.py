"""The order of the event feed. `schema.py` describes the columns, the table and the indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# The events so far, in the order in which they happened. `type` is the order of the ids of one watch's events.
_NUMBER = sa.text("""
    UPDATE events SET number = ordered.number, app = ordered.app
    FROM (
        SELECT events.watch_id, events.type, watches.app,
            row_number() OVER (ORDER BY events.created_at, events.watch_id, events.type) AS number
        FROM events JOIN watches ON watches.id = events.watch_id
    ) AS ordered
    WHERE events.watch_id = ordered.watch_id AND events.type = ordered.type
""")


def upgrade() -> None:
    """Add the columns, number the events, and add the table and the indexes."""
    op.add_column("events", sa.Column("app", sa.Text(), nullable=True))
    op.add_column("events", sa.Column("number", sa.BigInteger(), nullable=True))
    op.execute(_NUMBER)
    op.create_table(
        "removed_events",
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("removal", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("app", "number", name="pk_removed_events"),
    )
    numbered, unnumbered = sa.text("number IS NOT NULL"), sa.text("number IS NULL")
    of_all = sa.text("number IS NOT NULL AND watch_id <> ''")
    for name, columns, condition, unique in (
        ("ux_events_number", ["number"], of_all, True),
        ("ix_events_app", ["app", "number", "type"], numbered, False),
        ("ix_events_unnumbered", ["created_at"], unnumbered, False),
    ):
        op.create_index(name, "events", columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
