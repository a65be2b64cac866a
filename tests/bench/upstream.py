"""A bare stand-in for amux: a protocol that reads the task's id and answers at once, or after a delay.

A task whose id ends in `-<Unix milliseconds>` is completed from then on. Every other task never ends.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.bench.processes import LOADING, Child, serve

PATH = b"/v1/video/generations/"
# Form C, as the server answers for most channels (see `bridge/amux/record.py`).
_BODY = (
    b'{"code":"success","message":"","data":{"id":4711,"created_at":1764000000,"updated_at":1764000030,'
    b'"task_id":"%b","platform":"kling","user_id":1,"group":"default","channel_id":3,"quota":500000,'
    b'"action":"textGenerate","status":"%b","fail_reason":"","result_url":"%b","submit_time":1764000000,'
    b'"start_time":1764000004,"finish_time":0,"progress":"%b","properties":{"input":"a lighthouse at dusk",'
    b'"upstream_model_name":"kling-v1-6"},"data":{"task_status":"processing"}}}'
)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
    b"X-Oneapi-Request-Id: 20261123150405000000000bench\r\n\r\n"
)
_STALL_CHECK_SECONDS = 0.01
_VIDEO = b"https://cdn.example.com/v/4711.mp4"


@dataclass(frozen=True)
class Counts:
    """The counts of the stand-in: requests, the most at a time, and the tasks polled since the last `reset`.

    `widest_gap` is the longest time between two polls of one task, `stall` the longest time that its event loop was
    blocked, both in seconds. `arrivals` are monotonic seconds.
    """

    requests: int
    most_at_a_time: int
    tasks: int
    widest_gap: float
    stall: float
    arrivals: list[float] = field(default_factory=list)


class _State:
    """The state that all connections share."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.requests = 0
        self.at_a_time = 0
        self.most_at_a_time = 0
        self.reset()

    def reset(self) -> None:
        self.last: dict[bytes, float] = {}
        self.widest_gap = 0.0
        self.arrivals: list[float] = []
        self.most_at_a_time = self.at_a_time
        self.stall = 0.0
        self._last_check = time.monotonic()

    def check_stall(self) -> None:
        """Records how long the event loop was blocked. Calls itself every 10 ms."""
        now = time.monotonic()
        self.stall = max(self.stall, now - self._last_check)
        self._last_check = now
        asyncio.get_running_loop().call_later(_STALL_CHECK_SECONDS, self.check_stall)

    def answer(self, request: Any) -> Any:
        if request == "reset":
            self.reset()
            return None
        arrivals = self.arrivals if request == "arrivals" else []
        return Counts(self.requests, self.most_at_a_time, len(self.last), self.widest_gap, self.stall, arrivals)

    def record(self, task: bytes) -> bytes:
        """Counts a poll and returns its answer."""
        now = time.monotonic()
        self.requests += 1
        self.arrivals.append(now)
        before = self.last.get(task)
        self.last[task] = now
        if before is not None and now - before > self.widest_gap:
            self.widest_gap = now - before
        _, _, ends = task.partition(b"-")
        if ends and time.time() * 1000 >= int(ends):
            body = _BODY % (task, b"SUCCESS", _VIDEO, b"100%")
        else:
            body = _BODY % (task, b"IN_PROGRESS", b"", b"30%")
        return _HEAD % len(body) + body


class _Connection(asyncio.Protocol):
    """One kept connection. Requests have no body and come one at a time."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, which does not inherit from it

    def data_received(self, data: bytes) -> None:
        state = self._state
        at = data.index(PATH) + len(PATH)
        answer = state.record(data[at : data.index(b" ", at)])
        if not state.delay:
            self._transport.write(answer)
            return
        state.at_a_time += 1
        state.most_at_a_time = max(state.most_at_a_time, state.at_a_time)
        self._loop.call_later(state.delay, self._send_late, answer)

    def _send_late(self, answer: bytes) -> None:
        self._state.at_a_time -= 1
        self._transport.write(answer)


def amux(pipe: Connection, delay: float, certificate: tuple[str, str] | None) -> None:
    """Listens on loopback until the process ends. The ready message is the base URL."""
    state = _State(delay)

    async def start() -> str:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
        loop = asyncio.get_running_loop()
        state.check_stall()
        server = await loop.create_server(lambda: _Connection(state), "127.0.0.1", 0, ssl=context, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        return f"http{'s' if certificate else ''}://127.0.0.1:{port}"

    serve(pipe, start, state.answer)


def upstream(*, delay: float = 0.0, certificate: tuple[str, str] | None = None) -> Child:
    """Starts a stand-in in its own process. Its ready message is its base URL."""
    return Child(LOADING, amux, delay, certificate)


def counts_of(child: Child, request: str = "count") -> Counts:
    """Returns the counts of a stand-in so far, with "arrivals" also the time of each poll."""
    answer = child.ask(request)
    assert isinstance(answer, Counts)
    return answer
