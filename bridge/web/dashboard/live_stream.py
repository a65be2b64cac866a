"""The live page: server-sent events of the overview, the table as it is filtered, and the watch that is open.

A light poll, made once a second here instead of in each browser: an event is sent when its data differ from the last.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from bridge.core.errors import BridgeError
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.handlers import FILTERS, check_filters, one_watch, table
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import check_watch_id, query_of, secured

LONGEST_SECONDS: Final = 3600.0  # then the browser asks again, and a session that is over shows
HEARTBEAT_SECONDS: Final = 15.0  # proxies let go of connections that are silent for a minute
RECONNECT_MILLISECONDS: Final = 2000
_NO_WATCH: Final = ""


async def stream(request: web.Request, session: Session) -> web.StreamResponse:
    """`GET /page/live`: the table's filters, and `watch` for the one that is open."""
    query = query_of(request, (*FILTERS, "watch"))
    watch_id = check_watch_id(query["watch"], "watch") if query.get("watch") else _NO_WATCH
    filters = {name: value for name, value in query.items() if name != "watch"}
    check_filters(request.app, filters)  # a bad one is a 422, not a stream of complaints
    answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"})
    secured(answer)
    await answer.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return answer
    with suppress(ConnectionError):  # the browser has gone
        await answer.write(f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
        await _Stream(request, answer, session, filters, watch_id).run()
    return answer


class _Stream:
    """One browser's stream."""

    def __init__(
        self,
        request: web.Request,
        answer: web.StreamResponse,
        session: Session,
        filters: dict[str, str],
        watch_id: str,
    ) -> None:
        self._app = request.app
        self._answer = answer
        self._session = session
        self._filters = filters
        self._watch_id = watch_id
        self._sent: dict[str, bytes] = {}
        self._clock = asyncio.get_running_loop().time
        self._wrote_at = self._clock()

    async def run(self) -> None:
        """Look once a second, and at once when the open watch changes, until the hour or the session is over."""
        services, page = self._app[CONTEXT], self._app[DASHBOARD]
        until = self._clock() + LONGEST_SECONDS
        with services.waiting.listening(self._watch_id) as heard:
            while self._clock() < until and not self._is_over():
                heard.clear()
                await self._look()
                await services.waiting.change(heard, page.refresh_seconds)
                if services.waiting.ended:
                    return

    def _is_over(self) -> bool:
        return self._app[DASHBOARD].sessions.is_over(self._session)

    async def _look(self) -> None:
        await self._tell("overview", self._app[OVERVIEW].look, whole=True)
        await self._tell("charts", self._charts, whole=True)
        await self._tell("watches", lambda: table(self._app, self._filters))
        if self._watch_id:
            await self._tell("watch", lambda: one_watch(self._app, self._watch_id))
        if self._clock() - self._wrote_at >= HEARTBEAT_SECONDS:
            await self._write(b": still here\n\n")

    async def _charts(self) -> dict[str, Any]:
        return {"minutes": charts(self._app[DASHBOARD].history.minutes())}

    async def _tell(self, name: str, ask: Callable[[], Awaitable[dict[str, Any]]], *, whole: bool = False) -> None:
        """Send what has changed. A store that does not answer is told once, and its parts stay as they were."""
        try:
            told = await ask()
        except BridgeError as error:
            told = {"detail": str(error), "code": error.code}
            name = f"{name}-failed"
        # The time of asking is no news of its own, but for the overview, which is asked every two seconds.
        news = told if whole else {key: value for key, value in told.items() if key != "now"}
        digest = hashlib.blake2b(orjson.dumps(news), digest_size=16).digest()
        if self._sent.get(name) == digest:
            return
        self._sent[name] = digest
        if name.endswith("-failed"):
            self._sent.pop(name.removesuffix("-failed"), None)
        else:
            self._sent.pop(f"{name}-failed", None)
        await self._write(b"event: " + name.encode() + b"\ndata: " + orjson.dumps(told) + b"\n\n")

    async def _write(self, data: bytes) -> None:
        await self._answer.write(data)
        self._wrote_at = self._clock()
