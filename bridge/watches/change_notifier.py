"""Waiting for a watch to change: told by this process at once, and by the store where others may change it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from bridge.core.errors import StoreUnavailable
from bridge.store.store import Store

ASK_EVERY_SECONDS = 1.0  # one query for all who wait; a change at another replica is seen within it


class ChangeNotifier:
    """Who waits for which watch. `ask_every_seconds` counts with a shared store only. Use it from one event loop."""

    def __init__(self, store: Store, *, ask_every_seconds: float = ASK_EVERY_SECONDS) -> None:
        self._store = store
        self._ask_every_seconds = ask_every_seconds
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._marks: dict[str, str | None] = {}
        self._asking: asyncio.Task[None] | None = None
        self.ended = False

    def announce(self, watch_ids: Sequence[str]) -> None:
        """Wake who waits for these watches: something about them has changed."""
        if not self._listeners:
            return
        for watch_id in watch_ids:
            for heard in self._listeners.get(watch_id, ()):
                heard.set()

    def end(self) -> None:
        """Wake everyone for good: the bridge stops, and who waits answers with what is so now."""
        self.ended = True
        for listeners in self._listeners.values():
            for heard in listeners:
                heard.set()

    async def close(self) -> None:
        """End, and stop asking the store."""
        self.end()
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    @contextmanager
    def listening(self, watch_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change from now on; clear it, then look, so that no change is missed."""
        heard = asyncio.Event()
        self._listeners.setdefault(watch_id, set()).add(heard)
        if self._store.shared:
            self._marks.pop(watch_id, None)  # the next answer wakes this one: a change may lie between look and query
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
        try:
            yield heard
        finally:
            listeners = self._listeners[watch_id]
            listeners.discard(heard)
            if not listeners:
                del self._listeners[watch_id]
                self._marks.pop(watch_id, None)

    async def change(self, heard: asyncio.Event, seconds: float) -> bool:
        """Wait up to `seconds` for an event of `listening`; whether it came. At an end it comes at once."""
        if self.ended:
            return False
        try:
            async with asyncio.timeout(seconds):
                await heard.wait()
        except TimeoutError:
            return False
        return not self.ended

    async def _ask(self) -> None:
        """Ask the store for all who wait, once a second, until nobody does."""
        while self._listeners and not self.ended:
            await asyncio.sleep(self._ask_every_seconds)
            asked = list(self._listeners)
            with suppress(StoreUnavailable):  # asked again in a second; who waits ends by its own time at the latest
                marks = await self._store.versions(asked)
                self._compare(asked, marks)

    def _compare(self, asked: Sequence[str], marks: dict[str, str]) -> None:
        changed = [one for one in asked if one not in self._marks or self._marks[one] != marks.get(one)]
        self._marks |= {one: marks.get(one) for one in asked if one in self._listeners}
        self.announce(changed)
