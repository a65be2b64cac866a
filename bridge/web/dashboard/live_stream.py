"""`GET /page/live`: the dashboard's server-sent events, for the overview, the charts, the table and the open watch.

The server reads the data once a second and sends an event when they have changed. So browsers do not poll.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.handlers import one_watch
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.sessions import Session
from bridge.web.dashboard.watch_table import FILTERS, WatchTable
from bridge.web.requests import Query, check_watch_id
from bridge.web.sse import EventStream, stream_events

_NO_WATCH = ""


async def stream(request: web.Request, session: Session) -> web.StreamResponse:
    """Answers `GET /page/live`. The query has the table's filters, and in `watch` the id of the open watch."""
    filters = Query.of(request, (*FILTERS, "watch")).without_empty()
    watch_id = filters.read("watch", lambda text: check_watch_id(text, "watch")) or _NO_WATCH
    table = WatchTable(request.app, filters, session)
    table.check()  # a bad filter is a 422, not a stream of errors

    async def send_events(events: EventStream) -> None:
        await _LiveData(request.app, events, session, table, watch_id).run()

    return await stream_events(request, send_events)


class _LiveData:
    """The data of one browser's stream. `_sent` has the digest of the data that were sent last, by event name."""

    def __init__(
        self,
        app: web.Application,
        events: EventStream,
        session: Session,
        table: WatchTable,
        watch_id: str,
    ) -> None:
        self._app = app
        self._events = events
        self._session = session
        self._table = table
        self._watch_id = watch_id
        self._sent: dict[str, bytes] = {}

    async def run(self) -> None:
        """Sends changes once a second, and at once if the open watch changes. Ends with the session or the bridge."""
        notifier, dashboard = self._app[CONTEXT].change_notifier, self._app[DASHBOARD]
        with notifier.listening(self._watch_id) as changed:
            while not dashboard.sessions.is_over(self._session):
                changed.clear()
                await self._send_changes()
                await notifier.wait(changed, dashboard.refresh_seconds)
                if notifier.ended:
                    return

    async def _send_changes(self) -> None:
        await self._send("overview", self._app[OVERVIEW].current)
        await self._send("charts", self._charts)
        await self._send("watches", self._table.read, ignored="now")
        if self._watch_id:
            await self._send("watch", lambda: one_watch(self._app, self._watch_id), ignored="now")
        await self._events.keep_alive()

    async def _charts(self) -> dict[str, Any]:
        return {"minutes": charts(self._app[DASHBOARD].history.minutes())}

    async def _send(self, name: str, read: Callable[[], Awaitable[dict[str, Any]]], *, ignored: str = "") -> None:
        """Sends the data that `read` returns, if they differ from the last event. The field `ignored` is not compared.

        A BridgeError is sent once, as the event `{name}-failed`. The browser then keeps the data that it has.
        """
        failed = f"{name}-failed"
        try:
            event, data, other = name, await read(), failed
        except BridgeError as error:
            event, data, other = failed, {"detail": str(error), "code": error.code}, name
        compared = {key: value for key, value in data.items() if key != ignored}
        digest = hashlib.blake2b(orjson.dumps(compared), digest_size=16).digest()
        if self._sent.get(event) == digest:
            return
        self._sent[event] = digest
        self._sent.pop(other, None)
        await self._events.send(event, data)
