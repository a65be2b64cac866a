"""Keeps results that the store did not accept. After a pause, the caller writes all of them again."""

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from bridge.core.errors import BridgeError, StoreUnavailable
from bridge.telemetry.outage_log import OutageLog

Key = TypeVar("Key")
Item = TypeVar("Item")

_FIRST_PAUSE: Final = 0.5  # seconds
_LONGEST_PAUSE: Final = 5.0
_MAX_DOUBLINGS: Final = 8  # 2.0 ** 1,024 is an OverflowError


def store_pause(failures: int) -> float:
    """Returns the seconds until the next call, after a number of calls in a row that the store did not accept."""
    return min(_FIRST_PAUSE * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), _LONGEST_PAUSE)


class RetryQueue(Generic[Key, Item]):
    """Items whose write failed. All wait for the same moment: the pause is 0.5 s at first and doubles up to 5 s.

    The queue has one item for each key, such as a task. So its length is bounded by the number of keys, also in a long
    outage.

    `probe` makes one small write before each retry, and raises StoreUnavailable if the write fails. It distinguishes a
    store that refuses every write from a store that refuses one item. `outage` becomes true when a first write or a
    probe fails. It becomes false when a write or a probe succeeds, and `on_recovery` is called. `clock` is monotonic,
    in seconds.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        outage_log: OutageLog,
        *,
        clock: Callable[[], float],
        on_recovery: Callable[[], None] = lambda: None,
    ) -> None:
        self._probe = probe
        self._outage_log = outage_log
        self._clock = clock
        self._on_recovery = on_recovery
        self._items: dict[Key, Item] = {}
        self._failures = 1
        self._retry_at = 0.0
        self._probing = False
        self.outage = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def due(self) -> bool:
        """Whether the items are to be written again now."""
        return bool(self._items) and not self._probing and self._clock() >= self._retry_at

    def add(self, key: Key, item: Item, *, retried: bool) -> None:
        """Keeps an item whose write failed. After a failed first write, call `report_failure` as well.

        `retried` is whether the failed write was a retry. The pause then doubles, once for all items of that retry.
        """
        self._items[key] = item
        if retried and self._clock() >= self._retry_at:
            self._lengthen_pause()

    def report_failure(self, error: BridgeError, *, unwritten: int) -> None:
        """Begins or continues an outage after a failed first write. Logs it; `unwritten` is the number in the log."""
        now = self._clock()
        if not self.outage:
            self.outage = True
            self._failures = 1
            self._retry_at = now + store_pause(self._failures)
        self._outage_log.failed(str(error), now, unwritten=unwritten)

    def report_success(self) -> None:
        """Ends the outage, if there is one, after a write that succeeded. Logs the end and calls `on_recovery`."""
        if self.outage:
            self.outage = False
            self._outage_log.recovered(unwritten=len(self._items))
            self._on_recovery()

    def retry_now(self, key: Key) -> bool:
        """Makes the next retry due now if this item is kept. Returns whether it is kept.

        Call it when the store may accept the item now.
        """
        if key not in self._items:
            return False
        self._retry_at = self._clock()
        return True

    async def take_due(self) -> list[Item]:
        """Probes the store. If the probe succeeds, removes all items from the queue and returns them.

        If the probe raises StoreUnavailable, returns no items, and the pause doubles. Any other error is raised.
        """
        self._probing = True
        try:
            await self._probe()
        except StoreUnavailable as error:
            self.outage = True
            self._outage_log.failed(str(error), self._clock(), unwritten=len(self._items))
            self._lengthen_pause()
            return []
        except BaseException:
            self._lengthen_pause()
            raise
        finally:
            self._probing = False
        self.report_success()
        return self.take_all()

    def take_all(self) -> list[Item]:
        """Removes all items from the queue and returns them, without a probe."""
        items = list(self._items.values())
        self._items.clear()
        return items

    def _lengthen_pause(self) -> None:
        self._failures += 1
        self._retry_at = self._clock() + store_pause(self._failures)
