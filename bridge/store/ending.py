"""The end of a watch, whether it settles or is cancelled: final, and what it still owed of its status is superseded."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, update

from bridge.core.model import Outcome, WatchState
from bridge.store.bulk_statements import updating
from bridge.store.row_mapping import SUPERSEDED, problem_text
from bridge.store.schema import IS_ACTIVE, deliveries, outbox, watches


@dataclass(frozen=True, slots=True)
class WatchEnd:
    """How and when (Unix seconds) a watch ended; a cancelled one has no outcome.

    `owed_status`: it asked for status events, so one of them may still be pending.
    """

    watch_id: str
    state: WatchState
    outcome: Outcome | None
    at: float
    owed_status: bool


_END_WATCHES = updating(watches, ("id", "state", "outcome", "ended_at"), IS_ACTIVE)
# The outbox' row is what may be taken away: whoever records an attempt holds it, and when that one has ended the
# delivery is owed no more.
_STILL_OWED = (
    select(outbox.c.id)
    .join(deliveries, deliveries.c.id == outbox.c.id)
    .where(deliveries.c.watch_id.in_(bindparam("those", expanding=True)))
    .order_by(outbox.c.id)
    .with_for_update(of=outbox)
)
_NO_LONGER_OWED = delete(outbox).where(outbox.c.id.in_(bindparam("those", expanding=True)))
_SUPERSEDE = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("those", expanding=True)))
    .values(state="dead", next_attempt_at=None, dead_at=bindparam("at"), error=problem_text(SUPERSEDED))
)

GIVEN_UP = deliveries.c.error.is_distinct_from(problem_text(SUPERSEDED))
"""Of dead deliveries those that failed; a superseded one is nobody's loss, and sent again it would tell an untruth."""


def end_watches(connection: Connection, ends: Sequence[WatchEnd]) -> None:
    """Write the end of watches that are locked and active; status events still pending are superseded."""
    if not ends:
        return
    _END_WATCHES.execute(
        connection,
        [(end.watch_id, end.state.value, None if end.outcome is None else end.outcome.value, end.at) for end in ends],
    )
    asked = [end.watch_id for end in ends if end.owed_status]
    pending = connection.execute(_STILL_OWED, {"those": asked}).scalars().all() if asked else ()
    if pending:
        connection.execute(_NO_LONGER_OWED, {"those": pending})
        connection.execute(_SUPERSEDE, {"those": pending, "at": max(end.at for end in ends)})
