"""Counts the active watches that are near their deadline, without reading those whose deadline is far away."""

from math import inf

from sqlalchemy import Connection, bindparam, func, literal_column, select

from bridge.store.schema import IS_ACTIVE, watches
from bridge.store.watch_filters import LAST_PART, near_deadline

COUNTED = 1_000  # for more the dashboard says "1,000 and more"
# A watch that is registered after the longest timeout was read may have a longer one. It is not near its deadline
# before nine tenths of this timeout have passed, so reading the longest timeout again after half of it is early enough.
_VALID_PART = 0.5

_LONGEST_TIMEOUT = select(func.max(watches.c.timeout_seconds)).where(IS_ACTIVE)
_COUNT = select(func.count()).select_from(
    select(literal_column("1").label("one"))
    .where(IS_ACTIVE, watches.c.deadline_at <= bindparam("latest"), near_deadline(bindparam("now")))
    .limit(COUNTED)
    .select_from(watches)
    .subquery()
)


class NearDeadlineCount:
    """Counts the active watches that are in the last tenth of their time.

    A later deadline than a tenth of the longest timeout from now cannot be near. So the longest timeout of the active
    watches is kept, and read again when it may have become longer. Several threads may use this at the same time.
    """

    def __init__(self) -> None:
        self._longest_timeout = 0.0  # seconds; 0 before the first read, and without active watches
        self._read_at = -inf  # Unix seconds

    def count(self, connection: Connection, now: float) -> int:
        """Returns the number of these watches, counted up to 1,000. `now` is Unix seconds."""
        # A time before the last read comes after the clock was set back.
        if not 0 <= now - self._read_at < _VALID_PART * self._longest_timeout:
            self._longest_timeout = connection.execute(_LONGEST_TIMEOUT).scalar_one() or 0.0
            self._read_at = now
        latest = now + LAST_PART * self._longest_timeout
        count: int = connection.execute(_COUNT, {"latest": latest, "now": now}).scalar_one()
        return count
