"""A receiver that records every callback and verifies its signature with the `standardwebhooks` library."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import orjson
from aiohttp import web
from standardwebhooks import Webhook

from tests.waiting import SAFETY_SECONDS

SECRET = "whsec_" + "Q" * 43 + "="
STATUS_TYPES = frozenset({"video.queued", "video.in_progress"})


@dataclass(frozen=True)
class Call:
    """One POST: its path, its headers with names in lower case, its body, and the status of the answer."""

    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @cached_property
    def event(self) -> Any:
        return orjson.loads(self.body)

    @property
    def type(self) -> str:
        return str(self.event.get("type", ""))  # a body in a receiver's own form has no type

    @property
    def watch_id(self) -> str:
        return str(self.event["data"]["watch_id"])

    @property
    def terminal(self) -> bool:
        return self.type.startswith("video.") and self.type not in STATUS_TYPES

    @property
    def accepted(self) -> bool:
        return 200 <= self.status < 300


Responder = Callable[["Receiver", Call], Awaitable[web.StreamResponse]]


async def accept(_receiver: "Receiver", _call: Call) -> web.StreamResponse:
    return web.Response(text="ok")


def answer(status: int, **headers: str) -> Responder:
    async def respond(_receiver: "Receiver", _call: Call) -> web.StreamResponse:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return respond


async def hold(receiver: "Receiver", _call: Call) -> web.StreamResponse:
    """Waits until the receiver's `released` event is set, then answers with 200."""
    await receiver.released.wait()
    return web.Response(text="late")


@dataclass
class Receiver:
    """Answers with `responder`, which a test may change at any time. Verifies signatures with `secret`.

    `arrived` contains each call from its arrival on, `calls` contains it from its answer on. `bodies` maps a watch id
    to the bodies of terminal events. `ended_watches` contains the watches whose terminal event was accepted.
    """

    responder: Responder = accept
    secret: str = SECRET
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    arrived: list[Call] = field(default_factory=list)
    ended_watches: set[str] = field(default_factory=set)
    bodies: dict[str, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    unverified: list[str] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            Webhook(self.secret).verify(body, headers)
        except Exception as error:  # noqa: BLE001  any error of the library; the test reports it
            self.unverified.append(f"{headers.get('webhook-id')}: {error!r}")
        arrived = Call(request.path, request.query_string, headers, body, 0)
        self.arrived.append(arrived)
        if arrived.terminal:
            self.bodies[arrived.watch_id].add(body)
        self._changed.set()
        answer = await self.responder(self, arrived)
        call = replace(arrived, status=answer.status)
        self.calls.append(call)
        if call.accepted and call.terminal:
            self.ended_watches.add(call.watch_id)
        self._changed.set()
        return answer

    async def until(self, condition: Callable[[], bool], seconds: float = SAFETY_SECONDS) -> None:
        """Waits until a condition about the recorded calls is true."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            summary = f"{len(self.arrived)} arrived, {len(self.calls)} answered, {len(self.accepted_ids)} ids accepted"
            raise AssertionError(f"the condition did not come true within {seconds:g} s: {summary}") from None

    async def wait_for_events(self, watch_ids: Iterable[str], seconds: float = SAFETY_SECONDS) -> None:
        """Waits until a terminal event of each of these watches was accepted."""
        expected = set(watch_ids)
        await self.until(lambda: expected <= self.ended_watches, seconds)

    @property
    def accepted_ids(self) -> set[str]:
        return {call.id for call in self.calls if call.accepted}

    def terminal(self, watch_id: str) -> Any:
        """Returns the terminal event of a watch. Fails if two copies have different bytes."""
        [body] = self.bodies[watch_id]
        return orjson.loads(body)

    def check_copies(self) -> None:
        """Checks that all calls are signed, all copies of an event are equal, and no watch has two terminal events."""
        assert not self.unverified, self.unverified
        bodies: dict[str, set[bytes]] = defaultdict(set)
        ids: dict[str, set[str]] = defaultdict(set)
        for call in self.arrived:
            bodies[call.id].add(call.body)
            if call.terminal:
                ids[call.watch_id].add(call.id)
            assert call.event["id"] == call.id
        assert not {id_: len(copies) for id_, copies in bodies.items() if len(copies) > 1}
        assert not {watch_id: found for watch_id, found in ids.items() if len(found) > 1}


@asynccontextmanager
async def receiving(responder: Responder = accept, *, secret: str = SECRET) -> AsyncIterator[Receiver]:
    """Runs a receiver on a free loopback port, and releases held calls at the end."""
    receiver = Receiver(responder, secret)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        receiver.port = runner.addresses[0][1]
        yield receiver
    finally:
        receiver.released.set()
        await runner.cleanup()
