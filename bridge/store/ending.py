"""The end of a watch, settled or cancelled: it is final, and its pending status events are superseded."""

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

    `wants_status`: it asked for status events, so one of them may still be pending.
    """

    watch_id: str
    state: WatchState
    outcome: Outcome | None
    at: float
    wants_status: bool


_END_WATCHES = updating(watches, ("id", "state", "outcome", "ended_at"), IS_ACTIVE)
# The row of the outbox is what gets locked: while an attempt is recorded its transaction holds that row, and after it
# the delivery may no longer be pending.
_PENDING = (
    select(outbox.c.id)
    .join(deliveries, deliveries.c.id == outbox.c.id)
    .where(deliveries.c.watch_id.in_(bindparam("those", expanding=True)))
    .order_by(outbox.c.id)
    .with_for_update(of=outbox)
)
_REMOVE_PENDING = delete(outbox).where(outbox.c.id.in_(bindparam("those", expanding=True)))
_SUPERSEDE = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("those", expanding=True)))
    .values(state="dead", next_attempt_at=None, dead_at=bindparam("at"), error=problem_text(SUPERSEDED))
)

GIVEN_UP = deliveries.c.error.is_distinct_from(problem_text(SUPERSEDED))
"""Which dead deliveries failed. A superseded one is no failure: sent later, its event would be wrong."""


def end_watches(connection: Connection, ends: Sequence[WatchEnd]) -> None:
    """Write the end of watches that are locked and active, and supersede their pending status events."""
    if not ends:
        return
    _END_WATCHES.execute(
        connection,
        [(end.watch_id, end.state.value, None if end.outcome is None else end.outcome.value, end.at) for end in ends],
    )
    asked = [end.watch_id for end in ends if end.wants_status]
    pending = connection.execute(_PENDING, {"those": asked}).scalars().all() if asked else ()
    if pending:
        connection.execute(_REMOVE_PENDING, {"those": pending})
        connection.execute(_SUPERSEDE, {"those": pending, "at": max(end.at for end in ends)})
