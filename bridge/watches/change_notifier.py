"""Notifies callers that wait for a change of a watch, or for an app's events.

A change in this process wakes them at once. Changes by other replicas are found by a query.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from bridge.core.errors import StoreUnavailable
from bridge.telemetry import get_logger

QUERY_SECONDS = 1.0  # between two queries, each for all callers: the delay of a change by another replica

_log = get_logger("watches")


class Versions(Protocol):
    """The things that callers wait for: watches by their ids (the store), or events by their apps (its feed)."""

    @property
    def shared(self) -> bool:
        """Whether other replicas change them too."""

    async def versions(self, ids: Sequence[str], /) -> dict[str, str]:
        """Returns a text for each id. It changes when the watch changes, or when the app has new events."""


class ChangeNotifier:
    """Knows which callers wait for which watch, or for which app's events. Use it from one event loop.

    If other replicas share the store, versions are queried every `query_seconds` while a caller waits.
    """

    def __init__(self, store: Versions, *, query_seconds: float = QUERY_SECONDS) -> None:
        self._store = store
        self._query_seconds = query_seconds
        self._listeners: dict[str, set[asyncio.Event]] = {}  # by watch
        self._versions: dict[str, str | None] = {}  # by watch, as of the last query
        self._querying: asyncio.Task[None] | None = None
        self.ended = False

    def announce(self, watch_ids: Sequence[str]) -> None:
        """Wakes the callers that wait for these watches, because the watches have changed."""
        if not self._listeners:
            return
        for watch_id in watch_ids:
            for changed in self._listeners.get(watch_id, ()):
                changed.set()

    def end(self) -> None:
        """Wakes all callers, which then answer with the present state: the bridge stops. Later waits end at once."""
        self.ended = True
        for listeners in self._listeners.values():
            for changed in listeners:
                changed.set()

    async def close(self) -> None:
        """Wakes all callers and stops the queries."""
        self.end()
        if self._querying is not None:
            self._querying.cancel()
            with suppress(asyncio.CancelledError):
                await self._querying

    @contextmanager
    def listening(self, watch_id: str) -> Iterator[asyncio.Event]:
        """Yields an event that is set at each change from now on.

        Clear the event before you read the watch, not after it. So no change is missed.
        """
        changed = asyncio.Event()
        self._listeners.setdefault(watch_id, set()).add(changed)
        if self._store.shared:
            # Without a known version the next query wakes this caller. The watch may change before that query.
            self._versions.pop(watch_id, None)
            if self._querying is None or self._querying.done():
                self._querying = asyncio.create_task(self._query())
        try:
            yield changed
        finally:
            listeners = self._listeners[watch_id]
            listeners.discard(changed)
            if not listeners:
                del self._listeners[watch_id]
                self._versions.pop(watch_id, None)

    async def wait(self, changed: asyncio.Event, seconds: float) -> bool:
        """Waits up to `seconds` for an event of `listening`. Returns whether it was set; after `end` False at once."""
        if self.ended:
            return False
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return False
        return not self.ended

    async def _query(self) -> None:
        """Queries the versions of all watches that callers wait for, once a second, as long as callers wait."""
        while self._listeners and not self.ended:
            await asyncio.sleep(self._query_seconds)
            watch_ids = list(self._listeners)
            try:
                self._compare(watch_ids, await self._store.versions(watch_ids))
            except StoreUnavailable:
                pass  # the next query is in a second, and each wait has its own time limit
            except Exception as error:  # noqa: BLE001  a bug must not end the queries of those who wait
                means = "an unexpected error in the bridge; changes by other replicas are seen by a later query"
                _log.event("change_query_failed", level=logging.ERROR, trace=error, means=means)

    def _compare(self, watch_ids: Sequence[str], versions: dict[str, str]) -> None:
        changed = [one for one in watch_ids if one not in self._versions or self._versions[one] != versions.get(one)]
        self._versions |= {one: versions.get(one) for one in watch_ids if one in self._listeners}
        self.announce(changed)
