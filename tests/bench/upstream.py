"""A bare stand-in for amux: a protocol that reads the task's id and answers at once, or after a delay.

A task whose id ends in `-<Unix milliseconds>` is completed from then on. The request `Ends` makes other tasks end: so
many a second, each when it is read. With `batch` the stand-in has the batch route. Each task has its own submission
time and its own progress. One task has a new progress each second: amux asks the vendors about its tasks one after the
other, with a second between. After the request `NewProgress` each read of a task brings a new one.
"""

import asyncio
import json
import ssl
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, cast

from tests.bench.processes import LOADING, Child, serve

PATH = b"/v1/video/generations/"
# Form C, as the server answers for most channels (see `bridge/amux/record.py`).
_ROW = (
    b'{"id":4711,"created_at":1764000000,"updated_at":1764000030,'
    b'"task_id":"%b","platform":"kling","user_id":1,"group":"default","channel_id":3,"quota":500000,'
    b'"action":"textGenerate","status":"%b","fail_reason":"","result_url":"%b","submit_time":%d,'
    b'"start_time":1764000004,"finish_time":0,"progress":"%b","properties":{"input":"a lighthouse at dusk",'
    b'"upstream_model_name":"kling-v1-6"},"data":{"task_status":"processing"}}'
)
_BEFORE, _AFTER = b'{"code":"success","message":"","data":', b"}"
_NO_ROUTE = b'{"error":{"message":"Invalid URL (POST /suno/fetch)","type":"invalid_request_error"}}'
_HEAD = (
    b"HTTP/1.1 %d OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
    b"X-Oneapi-Request-Id: 20261123150405000000000bench\r\n\r\n"
)
_STALL_CHECK_SECONDS = 0.01
_SWEEP_SECONDS = 1.0
_SUBMITTED = 1764000000
_VIDEO = b"https://cdn.example.com/v/4711.mp4"


@dataclass(frozen=True)
class Counts:
    """The counts of the stand-in: requests, the most at a time, and the tasks polled since the last `reset`.

    `widest_gap` is the longest time between two polls of one task, `stall` the longest time that its event loop was
    blocked, both in seconds. `arrivals` are monotonic seconds. `reads` counts the tasks of all polls, `sent` the bytes
    of all answers. `delays` are the seconds from the end of each task to the poll that saw it.
    """

    requests: int
    most_at_a_time: int
    tasks: int
    widest_gap: float
    stall: float
    arrivals: list[float] = field(default_factory=list)
    reads: int = 0
    sent: int = 0
    delays: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Ends:
    """A request to end so many tasks a second from now on. The answer is how many tasks such requests have ended."""

    a_second: float


@dataclass(frozen=True)
class NewProgress:
    """A request to give a task a new progress at each read, if `always`, or only to one task each second."""

    always: bool


class _State:
    """The state that all connections share."""

    def __init__(self, delay: float, *, batch: bool) -> None:
        self.delay = delay
        self.batch = batch
        self.requests = 0
        self.reads = 0
        self.sent = 0
        self.at_a_time = 0
        self.most_at_a_time = 0
        self.ends_a_second = 0.0
        self.always_new = False
        self._grown: dict[bytes, int] = {}
        self._grew_at = time.monotonic()
        self._ended: set[bytes] = set()
        self._may_end = 0.0
        self._counted_at = time.monotonic()
        self.reset()

    def reset(self) -> None:
        self.last: dict[bytes, float] = {}
        self.widest_gap = 0.0
        self.arrivals: list[float] = []
        self.delays: dict[bytes, float] = {}
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
        if isinstance(request, Ends):
            self.ends_a_second, self._may_end, self._counted_at = request.a_second, 0.0, time.monotonic()
            return len(self._ended)
        if isinstance(request, NewProgress):
            self.always_new = request.always
            return None
        arrivals = self.arrivals if request == "arrivals" else []
        delays = list(self.delays.values()) if request == "delays" else []
        return Counts(
            *(self.requests, self.most_at_a_time, len(self.last), self.widest_gap, self.stall, arrivals),
            *(self.reads, self.sent, delays),
        )

    def record(self, task: bytes) -> bytes:
        """Counts a single poll and returns its answer."""
        now = time.monotonic()
        self.arrivals.append(now)
        return self._answer(200, _BEFORE + self._row(task, now) + _AFTER)

    def records(self, body: bytes) -> bytes:
        """Counts a batch and returns its answer."""
        if not self.batch:
            return self._answer(404, _NO_ROUTE)
        now = time.monotonic()
        rows = [self._row(each.encode(), now) for each in json.loads(body)["ids"]]
        return self._answer(200, _BEFORE + b"[" + b",".join(rows) + b"]" + _AFTER)

    def _answer(self, status: int, body: bytes) -> bytes:
        self.requests += 1
        self.sent += len(body)
        return _HEAD % (status, len(body)) + body

    def _row(self, task: bytes, now: float) -> bytes:
        self.reads += 1
        before = self.last.get(task)
        self.last[task] = now
        if before is not None and now - before > self.widest_gap:
            self.widest_gap = now - before
        _, _, ends = task.partition(b"-")
        number = hash(task)
        submitted, progress = _SUBMITTED + number % 3600, (number + self._growth(task, now)) % 90
        if ends and (late := time.time() - int(ends) / 1000) >= 0:
            self.delays.setdefault(task, late)
        elif not self._ends(task, now):
            return _ROW % (task, b"IN_PROGRESS", b"", submitted, b"%d%%" % progress)
        return _ROW % (task, b"SUCCESS", _VIDEO, submitted, b"100%")

    def _growth(self, task: bytes, now: float) -> int:
        """Returns how much the progress of a task has grown."""
        if self.always_new:
            return self.reads
        if now - self._grew_at >= _SWEEP_SECONDS:
            self._grew_at = now
            self._grown[task] = self._grown.get(task, 0) + 7
        return self._grown.get(task, 0)

    def _ends(self, task: bytes, now: float) -> bool:
        if self.ends_a_second:
            self._may_end = min(self._may_end + (now - self._counted_at) * self.ends_a_second, self.ends_a_second)
            self._counted_at = now
            if self._may_end >= 1.0 and task not in self._ended:
                self._may_end -= 1.0
                self._ended.add(task)
        return task in self._ended


class _Connection(asyncio.Protocol):
    """One kept connection, on which requests come one at a time."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, which does not inherit from it

    def data_received(self, data: bytes) -> None:
        state = self._state
        if self._received or data.startswith(b"POST"):
            answer = self._batch(data)
            if answer is None:
                return
        else:
            at = data.index(PATH) + len(PATH)
            answer = state.record(data[at : data.index(b" ", at)])
        if not state.delay:
            self._transport.write(answer)
            return
        state.at_a_time += 1
        state.most_at_a_time = max(state.most_at_a_time, state.at_a_time)
        self._loop.call_later(state.delay, self._send_late, answer)

    def _batch(self, data: bytes) -> bytes | None:
        """Returns the answer to a batch if its last bytes have come, else None."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length:")[2].split(None, 1)[0]):
            return None
        self._received = b""
        return self._state.records(body)

    def _send_late(self, answer: bytes) -> None:
        self._state.at_a_time -= 1
        self._transport.write(answer)


def amux(
    pipe: Connection,
    delay: float,
    certificate: tuple[str, str] | None,
    batch: bool,  # noqa: FBT001
    watch_stalls: bool,  # noqa: FBT001
) -> None:
    """Listens on loopback until the process ends. The ready message is the base URL."""
    state = _State(delay, batch=batch)

    async def start() -> str:
        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
        loop = asyncio.get_running_loop()
        if watch_stalls:
            state.check_stall()
        server = await loop.create_server(lambda: _Connection(state), "127.0.0.1", 0, ssl=context, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        return f"http{'s' if certificate else ''}://127.0.0.1:{port}"

    serve(pipe, start, state.answer)


def upstream(
    *,
    delay: float = 0.0,
    certificate: tuple[str, str] | None = None,
    batch: bool = False,
    watch_stalls: bool = True,
) -> Child:
    """Starts a stand-in in its own process. Its ready message is its base URL.

    Watching for stalls takes about 0.3 s of CPU a minute, more than the requests for a hundred tasks.
    """
    return Child(LOADING, amux, delay, certificate, batch, watch_stalls)


def counts_of(child: Child, request: str = "count") -> Counts:
    """Returns the counts of a stand-in so far. The request "arrivals" or "delays" fills the list of that name too."""
    answer = child.ask(request)
    assert isinstance(answer, Counts)
    return answer
