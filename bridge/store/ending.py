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
    """How and when (Unix seconds) a watch ended. A cancelled watch has no outcome.

    `wants_status`: the watch asked for status events, so a delivery of one may be pending.
    """

    watch_id: str
    state: WatchState
    outcome: Outcome | None
    at: float
    wants_status: bool


_END_WATCHES = updating(watches, ("id", "state", "outcome", "ended_at"), IS_ACTIVE)
# This locks the rows of the outbox. The transaction that records an attempt holds that row too, and after its commit
# the delivery may not be pending any more.
_PENDING = (
    select(outbox.c.id)
    .join(deliveries, deliveries.c.id == outbox.c.id)
    .where(deliveries.c.watch_id.in_(bindparam("ids", expanding=True)))
    .order_by(outbox.c.id)
    .with_for_update(of=outbox)
)
_REMOVE_PENDING = delete(outbox).where(outbox.c.id.in_(bindparam("ids", expanding=True)))
_SUPERSEDE = (
    update(deliveries)
    .where(deliveries.c.id.in_(bindparam("ids", expanding=True)))
    .values(state="dead", next_attempt_at=None, dead_at=bindparam("at"), error=problem_text(SUPERSEDED))
)

GIVEN_UP = deliveries.c.error.is_distinct_from(problem_text(SUPERSEDED))
"""The condition that a dead delivery failed. A superseded delivery did not fail: its event is out of date."""


def end_watches(connection: Connection, ends: Sequence[WatchEnd]) -> None:
    """Write the ends of watches, and supersede their pending status events. The caller has locked the watches."""
    if not ends:
        return
    _END_WATCHES.execute(
        connection,
        [(end.watch_id, end.state.value, None if end.outcome is None else end.outcome.value, end.at) for end in ends],
    )
    asked = [end.watch_id for end in ends if end.wants_status]
    pending = connection.execute(_PENDING, {"ids": asked}).scalars().all() if asked else ()
    if pending:
        connection.execute(_REMOVE_PENDING, {"ids": pending})
        connection.execute(_SUPERSEDE, {"ids": pending, "at": max(end.at for end in ends)})
