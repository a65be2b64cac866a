"""Brings committed events into the feed: numbers them, where that is a step of its own, and wakes waiting requests."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from bridge.core.errors import StoreUnavailable
from bridge.store.event_feed import EVERY_APP, NUMBERED_AT_ONCE, EventFeed
from bridge.watches.change_notifier import ChangeNotifier

PAUSE_SECONDS = 0.05  # between two steps: a busy replica numbers many events in one, and a reader waits no longer


class EventNumbering:
    """Numbers events when a commit announces them, on a database that replicas share. Use it from one event loop.

    `notifier` wakes the requests that wait for events. A job calls `number_committed` once a second: it finds events of
    a replica that died between its commit and this step, or whose step failed.
    """

    def __init__(self, feed: EventFeed, notifier: ChangeNotifier) -> None:
        self._feed = feed
        self.notifier = notifier
        self._step = asyncio.Lock()
        self._more = False
        self._running: asyncio.Task[None] | None = None
        feed.on_new_events = self._on_new_events

    async def number_committed(self) -> None:
        """Number all events that are committed. Raises StoreUnavailable."""
        async with self._step:
            count = NUMBERED_AT_ONCE
            while count == NUMBERED_AT_ONCE:
                apps = await self._feed.number_committed()
                count = len(apps)
                self._announce(apps)

    async def catch_up(self) -> bool:
        """Number what is committed, for a reader that has come to the end. Returns whether there may be new events.

        So an app that has seen the end of a watch, at any replica, finds the event in the feed.
        """
        try:
            if not await self._feed.has_unnumbered():
                return False
            await self.number_committed()
        except StoreUnavailable:
            return False  # what the reader has is right, and the job tries again
        return True

    async def close(self) -> None:
        """Stop. Events without a number get one from another replica, or after the next start."""
        self._feed.on_new_events = lambda _: None
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    def _on_new_events(self, apps: Collection[str]) -> None:
        if not self._feed.shared:
            self._announce(apps)
            return
        self._more = True
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="event-numbering")

    async def _run(self) -> None:
        while self._more:
            self._more = False
            with suppress(StoreUnavailable):  # the job tries again, and logs it when it fails as well
                await self.number_committed()
            await asyncio.sleep(PAUSE_SECONDS)

    def _announce(self, apps: Collection[str]) -> None:
        if apps:
            self.notifier.announce([*set(apps), EVERY_APP])
