"""`GET /watch/{id}/events`: a watch as it goes on, as server-sent events (HTML standard, 9.2).

`snapshot` is the whole watch: first of all, whenever the watch or its deliveries change, and last of all. `task` is the
task and how its polls go, `attempt` one POST of a delivery. An event's id is `<number>-<attempts told>`, the latter for
each delivery in order, such as `12-2.1`: who comes back with it is told the attempts that were made meanwhile.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from bridge.core.errors import NotFound, StoreUnavailable
from bridge.core.model import Attempt, DeliveryState, WatchState
from bridge.store.records import DeliveryView, WatchView
from bridge.web.api.response_models import AttemptEvent, Polling
from bridge.web.api.serializers import attempt_json, delivery_json, polling_json, watch_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.requests import query_of, secured, watch_id_of

LAST_EVENT_ID: Final = "Last-Event-ID"
RECONNECT_MILLISECONDS: Final = 2000
SNAPSHOT: Final = "snapshot"
_EVENT_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,6}(?:\.[0-9]{1,6}){0,19})")


async def read_events(request: web.Request, caller: Caller) -> web.StreamResponse:
    """`GET /watch/{id}/events`; 204, which ends a browser's asking, for who has had all of a watch that is over."""
    services = request.app[CONTEXT]
    query_of(request)
    watch_id = watch_id_of(request)
    with services.waiting.listening(watch_id) as heard:
        view = await services.store.watch(watch_id, caller.sees)
        had = _EVENT_ID.fullmatch(request.headers.get(LAST_EVENT_ID, ""))
        if had and is_over(view) and had[2] == _counts([one.attempts for one in view.deliveries]):
            return secured(web.Response(status=204))
        answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"})
        secured(answer)
        await answer.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return answer
        stream = _Stream(services, answer, view, had)
        # At its end: the hour is over, the reader has gone, retention was quicker.
        with suppress(TimeoutError, ConnectionError, NotFound):
            async with asyncio.timeout(services.stream_times.longest):
                await stream.run(heard, caller.sees)
    return answer


def is_over(view: WatchView) -> bool:
    """Whether nothing more is to come of a watch: it is final, and no delivery is pending."""
    active = view.watch.state is WatchState.ACTIVE
    return not active and all(one.state is not DeliveryState.PENDING for one in view.deliveries)


def _counts(attempts: Sequence[int]) -> str:
    return ".".join(map(str, attempts)) or "0"


class _Stream:
    """One reader's stream."""

    def __init__(
        self, services: AppContext, answer: web.StreamResponse, view: WatchView, had: re.Match[str] | None
    ) -> None:
        self._services = services
        self._answer = answer
        self._view = view
        self._number = int(had[1]) if had else 0
        # Attempts that the reader has had, by delivery; who says nothing has had all that there are.
        known = [int(count) for count in had[2].split(".")] if had else [one.attempts for one in view.deliveries]
        self._told = {one.id: count for one, count in zip(view.deliveries, known, strict=False)}
        self._task: Polling | None = None
        self._rest: dict[str, bytes] = {}
        self._last_name = ""
        self._clock = asyncio.get_running_loop().time
        self._wrote_at = self._clock()

    async def run(self, heard: asyncio.Event, sees: str | None) -> None:
        """Tell what is, then what changes, until the watch is over or the bridge stops."""
        waiting = self._services.waiting
        await self._write(b"retry: %d\n\n" % RECONNECT_MILLISECONDS)
        self._task = self._polling()
        await self._snapshot()
        await self._tell_attempts()
        changed = False
        while (changed or not is_over(self._view)) and not waiting.ended:
            changed = await waiting.change(heard, self._services.stream_times.look) or changed
            if not changed:
                await self._tell_task()
            else:
                heard.clear()
                with suppress(StoreUnavailable):  # asked again after the next look
                    self._view = await self._services.store.watch(self._view.watch.id, sees)
                    await self._tell()
                    changed = False
            await self._beat()
        if self._last_name != SNAPSHOT:
            await self._snapshot()

    async def _tell(self) -> None:
        """What differs from what was told: the task, the watch itself, then each attempt."""
        await self._tell_task()
        rest = self._without_task()
        if any(told != self._rest.get(name) for name, told in rest.items() if name not in self._attempted()):
            await self._snapshot()
        self._rest = rest
        await self._tell_attempts()

    async def _tell_task(self) -> None:
        task = self._polling()
        if task != self._task:
            self._task = task
            await self._event("task", task)

    async def _tell_attempts(self) -> None:
        for known in self._view.deliveries:
            if known.attempts <= self._told.get(known.id, 0):
                continue
            delivery, attempts = await self._services.store.delivery(known.id, None)
            for number, attempt in enumerate(attempts, 1):
                if number > self._told.get(known.id, 0):
                    self._told[known.id] = number
                    await self._event("attempt", _attempt_event(delivery, attempt, number))

    async def _snapshot(self) -> None:
        self._rest = self._without_task()
        await self._event(SNAPSHOT, watch_json(self._view, self._services.poller.live))

    def _polling(self) -> Polling:
        return polling_json(self._view, self._services.poller.live)

    def _without_task(self) -> dict[str, bytes]:
        """What a snapshot tells beside the task: the watch's own state, and each delivery."""
        watch = self._view.watch
        own = {"": orjson.dumps((watch.state, watch.outcome))}
        return own | {one.id: orjson.dumps(delivery_json(one)) for one in self._view.deliveries}

    def _attempted(self) -> set[str]:
        """Deliveries that the reader knows, and whose change an attempt will tell."""
        changed = (one.id for one in self._view.deliveries if one.attempts > self._told.get(one.id, 0))
        return self._rest.keys() & changed

    async def _event(self, name: str, data: Any) -> None:
        self._number += 1
        self._last_name = name
        counts = _counts([self._told.get(one.id, 0) for one in self._view.deliveries])
        head = f"event: {name}\nid: {self._number}-{counts}\ndata: ".encode()
        await self._write(head + orjson.dumps(data) + b"\n\n")

    async def _beat(self) -> None:
        if self._clock() - self._wrote_at >= self._services.stream_times.heartbeat:
            await self._write(b": still here\n\n")

    async def _write(self, data: bytes) -> None:
        await self._answer.write(data)
        self._wrote_at = self._clock()


def _attempt_event(delivery: DeliveryView, attempt: Attempt, number: int) -> AttemptEvent:
    return {**attempt_json(attempt), "number": number, "delivery": delivery_json(delivery)}
