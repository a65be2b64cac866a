"""Counts the attempts of this process at each receiver, until they are written."""

from collections.abc import Callable

from bridge.core.receivers import SLOT_SECONDS, Figures, LastAnswer
from bridge.store.store import Store


class AttemptFigures:
    """The figures of this process, by receiver and hour. `now` returns Unix seconds by the store's clock.

    A write has the totals of an hour, not the difference, so it can be repeated if its result is unknown.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._totals: dict[tuple[str, int], Figures] = {}
        self._changed: set[tuple[str, int]] = set()

    def add(self, host: str, seconds: float, last: LastAnswer, *, delivered: bool) -> None:
        """Counts one attempt."""
        key = host, int(last.at // SLOT_SECONDS)
        totals = self._totals.get(key)
        if totals is None:
            totals = self._totals[key] = Figures()
        totals.add(seconds, last, delivered=delivered)
        self._changed.add(key)

    async def write(self, store: Store) -> None:
        """Writes the totals that have changed. Raises StoreUnavailable; the next call then writes them."""
        changed, self._changed = self._changed, set()
        if changed:
            try:
                await store.receivers.write_figures({key: self._totals[key].copy() for key in changed})
            except BaseException:
                self._changed |= changed
                raise
        present = int(self._now() // SLOT_SECONDS)
        for key in [key for key in self._totals if key[1] < present and key not in self._changed]:
            del self._totals[key]
