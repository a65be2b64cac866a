"""An index for lists of active and of cancelled watches. `schema.py` says why."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the index."""
    unsettled = sa.text("state <> 'settled'")
    op.create_index(
        "ix_watches_unsettled", "watches", ["state", "id"], sqlite_where=unsettled, postgresql_where=unsettled
    )
