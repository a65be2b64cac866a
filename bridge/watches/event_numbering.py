"""Adds committed events to the feed: numbers them (on SQLite the insert does it), and wakes the requests that wait."""

import asyncio
from collections.abc import Collection
from contextlib import suppress

from bridge.core.errors import StoreUnavailable
from bridge.store.event_feed import EVERY_APP, NUMBERED_AT_ONCE, EventFeed
from bridge.watches.change_notifier import ChangeNotifier

CATCH_UP_SECONDS = 0.5  # a step takes milliseconds
PAUSE_SECONDS = 0.05  # between two steps: so a busy replica numbers many events in one step


class EventNumbering:
    """Numbers events after each commit, if replicas share the database. Use it from one event loop.

    `notifier` wakes the requests that wait for events. A job also calls `number_committed` once a second, for the
    events of a replica that died before this step, or whose step failed.
    """

    def __init__(self, feed: EventFeed, notifier: ChangeNotifier) -> None:
        self._feed = feed
        self.notifier = notifier
        self._step = asyncio.Lock()
        self._next: asyncio.Future[None] | None = None  # done with the step that begins next
        self._running: asyncio.Task[None] | None = None
        feed.on_new_events = self._on_new_events

    async def number_committed(self) -> None:
        """Numbers all committed events. Call it only for a shared database. Raises StoreUnavailable."""
        async with self._step:
            count = NUMBERED_AT_ONCE
            while count == NUMBERED_AT_ONCE:
                apps = await self._feed.number_committed()
                count = len(apps)
                self._announce(apps)

    async def catch_up(self) -> bool:
        """Number committed events for a reader at the end of the feed. Returns whether there may be new events.

        So an app that has seen the end of a watch, at any replica, finds the event in the feed.
        """
        try:
            if not await self._feed.has_unnumbered():
                return False
        except StoreUnavailable:
            return False  # the reader's answer is correct without the newest events, and the job tries again
        # One step for all readers. If another replica hangs and holds the lock, readers wait only for the timeout.
        step = self._wake()
        await asyncio.wait({step}, timeout=CATCH_UP_SECONDS)
        return step.done()

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
        self._wake()

    def _wake(self) -> "asyncio.Future[None]":
        """Begin a step soon; returns a future that is done at its end."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="event-numbering")
        return self._next

    async def _run(self) -> None:
        while self._next is not None:
            step, self._next = self._next, None
            with suppress(StoreUnavailable):  # the job tries again, and logs a failure
                await self.number_committed()
            step.set_result(None)
            await asyncio.sleep(PAUSE_SECONDS)

    def _announce(self, apps: Collection[str]) -> None:
        if apps:
            self.notifier.announce([*set(apps), EVERY_APP])
