"""A bare stand-in for amux: a protocol that looks for the task's id and answers at once, or after a while.

A task whose id ends in `-<Unix milliseconds>` is completed from then on, every other one runs for ever.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.bench.processes import LOADING, Child, answer_for_ever

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
_LOOK_SECONDS = 0.01
_VIDEO = b"https://cdn.example.com/v/4711.mp4"


@dataclass(frozen=True)
class Counted:
    """What the stand-in saw: requests, how many at a time, the tasks asked about since the last `forget`.

    `widest_gap` is the longest time between two questions about one task, `stall` the longest that the stand-in did
    not look at its sockets, both in seconds; `arrivals` are monotonic seconds.
    """

    requests: int
    most_at_a_time: int
    tasks: int
    widest_gap: float
    stall: float
    arrivals: list[float] = field(default_factory=list)


class _Station:
    """What all connections share."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.requests = 0
        self.at_a_time = 0
        self.most_at_a_time = 0
        self.forget()

    def forget(self) -> None:
        self.last: dict[bytes, float] = {}
        self.widest_gap = 0.0
        self.arrivals: list[float] = []
        self.most_at_a_time = self.at_a_time
        self.stall = 0.0
        self._looked = time.monotonic()

    def look(self) -> None:
        """Note how long the loop did not turn; every few milliseconds."""
        now = time.monotonic()
        self.stall = max(self.stall, now - self._looked)
        self._looked = now
        asyncio.get_running_loop().call_later(_LOOK_SECONDS, self.look)

    def answer(self, question: Any) -> Any:
        if question == "forget":
            self.forget()
            return None
        arrivals = self.arrivals if question == "arrivals" else []
        return Counted(self.requests, self.most_at_a_time, len(self.last), self.widest_gap, self.stall, arrivals)

    def record(self, task: bytes) -> bytes:
        """Count a question; its answer."""
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
    """One kept connection; requests have no body and come one at a time."""

    def __init__(self, station: _Station) -> None:
        self._station = station
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, which is none by inheritance

    def data_received(self, data: bytes) -> None:
        station = self._station
        at = data.index(PATH) + len(PATH)
        answer = station.record(data[at : data.index(b" ", at)])
        if not station.delay:
            self._transport.write(answer)
            return
        station.at_a_time += 1
        station.most_at_a_time = max(station.most_at_a_time, station.at_a_time)
        self._loop.call_later(station.delay, self._late, answer)

    def _late(self, answer: bytes) -> None:
        self._station.at_a_time -= 1
        self._transport.write(answer)


def amux(pipe: Connection, delay: float, certificate: tuple[str, str] | None) -> None:
    """Listen on loopback until the process is ended; the greeting is the base URL."""
    station = _Station(delay)

    async def start() -> str:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
        loop = asyncio.get_running_loop()
        station.look()
        server = await loop.create_server(lambda: _Connection(station), "127.0.0.1", 0, ssl=context, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        return f"http{'s' if certificate else ''}://127.0.0.1:{port}"

    answer_for_ever(pipe, start, station.answer)


def upstream(*, delay: float = 0.0, certificate: tuple[str, str] | None = None) -> Child:
    """A stand-in in its own process; its greeting is its base URL."""
    return Child(LOADING, amux, delay, certificate)


def counted(child: Child, question: str = "count") -> Counted:
    """What a stand-in saw so far; "arrivals" has it tell each one's time."""
    answer = child.ask(question)
    assert isinstance(answer, Counted)
    return answer
