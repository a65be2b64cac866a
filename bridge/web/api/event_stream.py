"""`GET /watch/{id}/events`: a watch's changes as server-sent events.

- `snapshot`: the whole watch. It is the first and the last event. It is also sent whenever the watch or a delivery
  changes.
- `task`: the task and its polls.
- `attempt`: one POST of a delivery.

An event's id is `<number>-<attempts>`, such as `12-2.1`: the number of the event, then for each delivery the number of
attempts that the client knows. A client that reconnects with `Last-Event-ID` gets the attempts made meanwhile.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from aiohttp import web

from bridge.core.errors import NotFound, StoreUnavailable
from bridge.core.model import Attempt, DeliveryState, WatchState
from bridge.store.records import DeliveryView, WatchView
from bridge.web.api.response_models import AttemptEvent, Polling
from bridge.web.api.serializers import attempt_json, delivery_json, polling_json, shown_task, watch_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.requests import query_of, secured, watch_id_of
from bridge.web.sse import EventStream, stream_events

LAST_EVENT_ID: Final = "Last-Event-ID"
SNAPSHOT: Final = "snapshot"
TASK: Final = "task"
ATTEMPT: Final = "attempt"
_EVENT_ID = re.compile(r"(?P<number>[0-9]{1,9})-(?P<attempts>[0-9]{1,6}(?:\.[0-9]{1,6}){0,19})")


async def read_events(request: web.Request, caller: Caller) -> web.StreamResponse:
    """Answers `GET /watch/{id}/events` with the event stream of a watch.

    Answers 204 if `Last-Event-ID` is the last event of a watch that is over: a browser then stops reconnecting.
    """
    context = request.app[CONTEXT]
    query_of(request)
    watch_id = watch_id_of(request)
    with context.change_notifier.listening(watch_id) as changed:
        view = await context.store.watch(watch_id, caller.visible_app)
        last_id = _EVENT_ID.fullmatch(request.headers.get(LAST_EVENT_ID, ""))
        if last_id and is_over(view) and last_id["attempts"] == _counts([one.attempts for one in view.deliveries]):
            return secured(web.Response(status=204))

        async def send_events(events: EventStream) -> None:
            with suppress(NotFound):  # retention removed the watch
                await _WatchStream(context, events, view, last_id).run(changed, caller.visible_app)

        times = context.stream_times
        return await stream_events(
            request,
            send_events,
            heartbeat_seconds=times.heartbeat_seconds,
            longest_seconds=times.longest_seconds,
        )


def is_over(view: WatchView) -> bool:
    """Returns whether nothing about a watch changes any more: it is final, and no delivery is pending."""
    active = view.watch.state is WatchState.ACTIVE
    return not active and all(one.state is not DeliveryState.PENDING for one in view.deliveries)


def _counts(attempts: Sequence[int]) -> str:
    return ".".join(map(str, attempts)) or "0"


class _WatchStream:
    """The state of one client's stream: what was sent to it last."""

    def __init__(
        self, context: AppContext, events: EventStream, view: WatchView, last_id: re.Match[str] | None
    ) -> None:
        self._context = context
        self._events = events
        self._view = view
        self._number = int(last_id["number"]) if last_id else 0
        # Without Last-Event-ID the first snapshot has all attempts so far.
        sent = (
            [int(count) for count in last_id["attempts"].split(".")]
            if last_id
            else [one.attempts for one in view.deliveries]
        )
        self._sent_attempts = {one.id: count for one, count in zip(view.deliveries, sent, strict=False)}
        self._sent_task: Polling | None = None
        self._sent_parts: dict[str, bytes] = {}
        self._last_name = ""

    async def run(self, changed: asyncio.Event, visible_app: str | None) -> None:
        """Sends the present state, then changes. Ends when nothing can change any more, or when the bridge stops."""
        notifier = self._context.change_notifier
        self._sent_task = self._polling()
        await self._send_snapshot()
        await self._send_attempts()
        unread = False
        while (unread or not is_over(self._view)) and not notifier.ended:
            unread = await notifier.wait(changed, self._context.stream_times.check_seconds) or unread
            if not unread:
                await self._send_task()
            else:
                changed.clear()
                with suppress(StoreUnavailable):  # the change stays unread, and is read after the next check
                    self._view = await self._context.store.watch(self._view.watch.id, visible_app)
                    await self._send_changes()
                    unread = False
            await self._events.keep_alive()
        if self._last_name != SNAPSHOT:
            await self._send_snapshot()

    async def _send_changes(self) -> None:
        """Sends what has changed since the last events: the task, the watch itself, then each attempt."""
        await self._send_task()
        parts = self._parts()
        announced = self._deliveries_with_new_attempts()
        if any(part != self._sent_parts.get(name) for name, part in parts.items() if name not in announced):
            await self._send_snapshot()
        self._sent_parts = parts
        await self._send_attempts()

    async def _send_task(self) -> None:
        task = self._polling()
        if task != self._sent_task:
            self._sent_task = task
            await self._send(TASK, task)

    async def _send_attempts(self) -> None:
        for known in self._view.deliveries:
            if known.attempts <= self._sent_attempts.get(known.id, 0):
                continue
            delivery, attempts = await self._context.store.delivery(known.id, None)
            for number, attempt in enumerate(attempts, 1):
                if number > self._sent_attempts.get(known.id, 0):
                    self._sent_attempts[known.id] = number
                    await self._send(ATTEMPT, _attempt_event(delivery, attempt, number))

    async def _send_snapshot(self) -> None:
        self._sent_parts = self._parts()
        await self._send(SNAPSHOT, watch_json(self._view, self._context.poller.live))

    def _polling(self) -> Polling:
        return polling_json(self._view.watch, shown_task(self._view, self._context.poller.live))

    def _parts(self) -> dict[str, bytes]:
        """Returns the watch's own state, under the key "", and each delivery, under its id."""
        watch = self._view.watch
        own = {"": orjson.dumps((watch.state, watch.outcome))}
        return own | {one.id: orjson.dumps(delivery_json(one)) for one in self._view.deliveries}

    def _deliveries_with_new_attempts(self) -> set[str]:
        """Returns the ids of deliveries that the client knows and that an `attempt` event will update."""
        new = (one.id for one in self._view.deliveries if one.attempts > self._sent_attempts.get(one.id, 0))
        return self._sent_parts.keys() & new

    async def _send(self, name: str, data: Any) -> None:
        self._number += 1
        self._last_name = name
        counts = _counts([self._sent_attempts.get(one.id, 0) for one in self._view.deliveries])
        await self._events.send(name, data, f"{self._number}-{counts}")


def _attempt_event(delivery: DeliveryView, attempt: Attempt, number: int) -> AttemptEvent:
    return {**attempt_json(attempt), "number": number, "delivery": delivery_json(delivery)}
