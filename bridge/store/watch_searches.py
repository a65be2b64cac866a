"""Searches for watches. They run in their own threads, one at a time for each caller, within a time limit."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar
from weakref import WeakValueDictionary

from bridge.aio.timeouts import TimeoutSweep
from bridge.store import queries
from bridge.store.database import ReadLimit
from bridge.store.reader import Reader
from bridge.store.records import FoundWatches, WatchList, WatchQuery, WatchView
from bridge.store.watch_scan import scan

Result = TypeVar("Result")

SCAN_SECONDS = 1.75  # the answer is promised within 2 s
THREADS = 2
_CALL_SECONDS = SCAN_SECONDS + 2.5  # the limit if the database does not answer


class WatchSearches:
    """Lists of watches.

    `reader` does the short reads. Long searches have their own threads, so they do not delay short reads. Calls raise
    StoreUnavailable.
    """

    def __init__(self, reader: Reader) -> None:
        self._database = reader.database
        self._reader = reader
        system = reader.database.system
        self._scan_limits = TimeoutSweep(_CALL_SECONDS, system.monotonic)
        self._searcher = Reader(reader.database, system.threads(THREADS, "bridge-search"), self._scan_limits)
        # Weak references, because locks belong to an event loop: they must not outlive the searches that use them.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._free_threads: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()

    async def page(self, query: WatchQuery, by: str) -> WatchList:
        """Returns a page of watches. `by` is the caller, whose searches run one at a time."""
        if query.needs_scan:
            return await self._found_page(query, by)
        one_more = replace(query, limit=query.limit + 1)
        views = await self._reader.run(queries.page_of_watches, one_more)
        return WatchList(views[: query.limit], more=len(views) > query.limit)

    async def all(self, query: WatchQuery, by: str, enough: int | None = None) -> FoundWatches:
        """Returns the ids of all watches of a query, newest first, at most `enough`. Ignores its cursor and limit."""
        return await self._in_turn(by, partial(scan, self._database, replace(query, cursor=None), enough=enough))

    async def close(self) -> None:
        """Wait for the searches in progress."""
        await self._searcher.close()
        self._scan_limits.close()

    async def _found_page(self, query: WatchQuery, by: str) -> WatchList:
        if query.oldest_first:
            found = await self.all(query, by)
            ids = [watch_id for watch_id in reversed(found.ids) if query.cursor is None or watch_id > query.cursor]
        else:
            found = await self._in_turn(by, partial(scan, self._database, query, enough=query.limit + 1))
            ids = list(found.ids)
        more = len(ids) > query.limit
        return WatchList(await self.views(ids[: query.limit]), more, None if more else found.looked_back_to)

    async def views(self, ids: Sequence[str]) -> Sequence[WatchView]:
        """Returns the watches of these ids that still exist, in the order of the ids."""
        found = await self._reader.run(queries.several_watches, ids)
        return [found[watch_id] for watch_id in ids if watch_id in found]

    async def _in_turn(self, by: str, search: Callable[[ReadLimit], Result]) -> Result:
        """Run a search in a thread, after the caller's earlier searches, as soon as a thread is free."""
        turn = self._turns.setdefault(by, asyncio.Lock())
        free = self._free_threads.setdefault(THREADS, asyncio.Semaphore(THREADS))
        async with turn, free:
            limit = ReadLimit(SCAN_SECONDS, self._database.system.monotonic)
            try:
                return await self._searcher.call(partial(search, limit))
            finally:
                limit.stop()  # if the caller has given up, the thread ends its search at its next check
