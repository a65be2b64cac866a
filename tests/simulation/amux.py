"""amux in a simulation: tasks whose course the plan decides, and a client whose requests never leave the process."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.amux.client import AmuxClient
from tests.simulation.hosts import EPOCH
from tests.simulation.loop import HOST, SimulatedLoop
from tests.simulation.videos import Videos

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

IDLE_SECONDS = 75.0  # the bridge waits so long for the next bytes of a video
BAD_KEY = "sk-refused"


class End(StrEnum):
    """How a task ends at amux."""

    COMPLETED = "completed"
    FAILED = "failed"
    NEVER = "never"
    UNKNOWN = "unknown"  # amux knows no such task
    REJECTED = "rejected"  # amux refuses each read of it


@dataclass(frozen=True, slots=True)
class Course:
    """What happens to a task. Times are virtual seconds. `soft` of the live answers before its end say "failed"."""

    task_id: str
    live: bool
    begins_at: float
    ends_at: float
    end: End
    soft: float = 0.0
    model: str = "sora-2"
    key: str = "sk-one"


class Trouble(StrEnum):
    """What is wrong with amux at present."""

    NONE = "none"
    UNAVAILABLE = "503"
    THROTTLED = "429"
    HTML = "html"
    SILENT = "silent"
    BROKEN = "broken"
    REFUSING = "401"


class Route(StrEnum):
    """What the batch route does."""

    READS = "reads"
    MISSING = "missing"
    FILTERED = "filtered"
    OVERLOADED = "overloaded"


@dataclass(eq=False)
class Amux:
    """The server. It notes each read of a task in `ledger`."""

    loop: SimulatedLoop
    random: Random
    ledger: "Ledger"
    route: Route
    videos: Videos
    courses: dict[str, Course] = field(default_factory=dict)
    trouble: Trouble = Trouble.NONE
    slow_share: float = 0.0
    timeout: float = 3.0

    def latency(self) -> float:
        if self.slow_share and self.random.random() < self.slow_share:
            return self.timeout * 1.2 * self.random.random()
        return 0.01 + 0.2 * self.random.random() ** 2

    async def answer(self, method: str, path: str, data: bytes | None) -> "_Response":
        """Answer a request, or raise what aiohttp's client raises."""
        before = self.trouble
        if before is not Trouble.SILENT:
            await self._wait(self.latency())
        met = {before, self.trouble}  # trouble also affects requests that are under way when it begins
        if Trouble.SILENT in met:
            await self.loop.create_future()
        if Trouble.BROKEN in met:
            raise aiohttp.ClientConnectionError("broken")
        words: list[tuple[str, str]] = []
        if self.trouble is not Trouble.NONE:
            response = _in_trouble(self.trouble)
        elif method == "POST":
            response = self._many(orjson.loads(data or b"{}")["ids"], words)
        else:
            response = self._one(path.rpartition("/")[2], words)
        await self._wait(self.latency() / 2)
        for task_id, word in words:  # only now: if the client has given up, this line is not reached
            self.ledger.told(task_id, word, batch=method == "POST")
        return response

    async def video(self, task_id: str, key: str) -> Any:
        """Answer a request for a video."""
        if self.trouble is Trouble.SILENT:
            await self._wait(IDLE_SECONDS)
            self.videos.failed()
            raise aiohttp.SocketTimeoutError("no answer")
        if self.trouble is Trouble.BROKEN:
            self.videos.failed()
            raise aiohttp.ClientConnectionError("broken")
        return await self.videos.answer(
            task_id, key, None if self.trouble is Trouble.NONE else _in_trouble(self.trouble)
        )

    async def _wait(self, seconds: float) -> None:
        passed = self.loop.create_future()
        self.loop.call_external(seconds, _pass, passed)
        await passed

    def _one(self, task_id: str, words: list[tuple[str, str]]) -> "_Response":
        course = self.courses.get(task_id)
        now = self.loop.time()
        if course is None or course.end is End.UNKNOWN:
            words.append((task_id, "not_found"))
            return _json(400, {"code": "task_not_exist", "message": "task_not_exist", "data": None})
        if course.end is End.REJECTED:
            words.append((task_id, "rejected"))
            return _json(400, {"code": "invalid_request", "message": "no", "data": None})
        if course.live:
            over = now >= course.ends_at and course.end is not End.NEVER
            if not over and course.soft and self.random.random() < course.soft:
                words.append((task_id, "soft"))
                return _live(course, "failed")
            if not over:
                words.append((task_id, "running"))
                return _live(course, "queued" if now < course.begins_at else "processing")
            words.append((task_id, course.end.value))
            return _live(course, "succeeded" if course.end is End.COMPLETED else "failed")
        record = _record(course, now)
        words.append((task_id, _WORDS[record["status"]]))
        return _json(200, {"code": "success", "message": "", "data": record})

    def _many(self, task_ids: list[str], words: list[tuple[str, str]]) -> "_Response":
        if self.route is Route.MISSING:
            return _json(404, {"error": {"message": "no route", "type": "invalid_request_error"}})
        if self.route is Route.FILTERED:
            return _json(200, {"code": "success", "message": "", "data": None})
        if self.route is Route.OVERLOADED and self.random.random() < 0.5:
            return _json(503, {"error": {"message": "busy", "type": "x", "code": "system_cpu_overloaded"}})
        now, records = self.loop.time(), []
        for task_id in task_ids:
            course = self.courses.get(task_id)
            if course is not None and course.end not in {End.UNKNOWN, End.REJECTED}:
                record = _record(course, now)
                words.append((task_id, _WORDS[record["status"]]))
                records.append(record)
        return _json(200, {"code": "success", "message": "", "data": records})


_WORDS = {
    "QUEUED": "running",
    "IN_PROGRESS": "running",
    "SUCCESS": "completed",
    "FAILURE": "failed",
}


def _record(course: Course, now: float) -> dict[str, Any]:
    """Return amux's own row of a task."""
    over = now >= course.ends_at and course.end is not End.NEVER
    if over:
        status = "SUCCESS" if course.end is End.COMPLETED else "FAILURE"
    else:
        status = "QUEUED" if now < course.begins_at else "IN_PROGRESS"
    return {
        "id": 7,
        "task_id": course.task_id,
        "platform": "54" if course.live else "58",
        "status": status,
        "fail_reason": "the vendor refused" if status == "FAILURE" else "",
        "result_url": f"https://cdn.example/{course.task_id}.mp4" if status == "SUCCESS" else "",
        "progress": "100%" if over else "30%",
        "submit_time": int(EPOCH + course.begins_at - 2),
        "start_time": int(EPOCH + course.begins_at),
        "finish_time": int(EPOCH + course.ends_at) if over else 0,
        "properties": {"origin_model_name": course.model},
        "data": None,
    }


def _live(course: Course, status: str) -> "_Response":
    url = f"https://cdn.example/{course.task_id}.mp4" if status == "succeeded" else ""
    data = {"task_id": course.task_id, "status": status, "url": url, "format": "mp4", "metadata": None, "error": None}
    message = "the vendor answered 500" if status == "failed" else ""
    return _json(200, {"code": "success", "message": message, "data": data})


def _in_trouble(trouble: Trouble) -> "_Response":
    match trouble:
        case Trouble.UNAVAILABLE:
            return _Response(503, b"<html>503</html>", "text/html")
        case Trouble.THROTTLED:
            return _Response(429, b"", "text/plain", {"Retry-After": "2"})
        case Trouble.HTML:
            return _Response(200, b"<html>welcome</html>", "text/html")
        case Trouble.REFUSING:
            return _json(401, {"error": {"message": "Invalid token", "type": "new_api_error", "code": ""}})
        case _:
            raise AssertionError(f"no answer is sent in the trouble {trouble}")


def _json(status: int, body: Any) -> "_Response":
    return _Response(status, orjson.dumps(body), "application/json")


def _pass(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


# --- the client's side --------------------------------------------------------------------------------------------


class _Response:
    """An answer, with what the client reads from it."""

    def __init__(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.content_length = len(body)
        self.headers = CIMultiDictProxy(
            CIMultiDict({"Content-Type": kind, "X-Oneapi-Request-Id": "r", **(headers or {})})
        )
        self.content = _Content(body)

    def close(self) -> None:
        return None

    release = close


class _Content:
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def at_eof(self) -> bool:
        return not self._body


class _Connections:
    """The client's connections for polls and batches, with what the client calls on them."""

    def __init__(self, amux: Amux) -> None:
        self._amux = amux

    async def send_repeatable(self, _origin: Any, request: bytes) -> _Response:
        ledger, host = self._amux.ledger, HOST.get()
        head, _, data = request.partition(b"\r\n\r\n")
        method, path = head.decode().split(" ", 2)[:2]
        if method == "GET":
            ledger.polled(path.rpartition("/")[2], host)
        else:
            for task_id in orjson.loads(data or b"{}")["ids"]:
                ledger.polled(task_id, host)
        return await self._amux.answer(method, path, data)


class _Session:
    """aiohttp's session, with what the client calls on it for videos."""

    def __init__(self, amux: Amux) -> None:
        self._amux = amux

    async def request(self, _method: str, url: Any, *, headers: Mapping[str, str], **_: Any) -> Any:
        task_id = url.raw_path.split("/")[-2]
        return await self._amux.video(task_id, headers["Authorization"].removeprefix("Bearer "))

    async def close(self) -> None:
        return None


class SimulatedClient(AmuxClient):
    """The real client, with simulated connections."""

    def __init__(self, amux: Amux, base_url: str, **options: Any) -> None:
        super().__init__(base_url, **options)
        self._session.detach()  # the real session has opened no connection
        self._session = _Session(amux)  # type: ignore[assignment]
        self._connections = _Connections(amux)  # type: ignore[assignment]
