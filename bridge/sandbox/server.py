"""The stand-in's HTTP server: amux's routes over tasks in memory. Each answer is as the task's behaviour says."""

import asyncio
import hashlib
import itertools
import secrets
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aiohttp import web

from bridge.sandbox.behaviour import Behaviour, BehaviourError, Fault, FaultKind, implied_by, parse
from bridge.sandbox.create_request import read_create_request
from bridge.sandbox.faults import (
    NO_SUCH_ROUTE,
    TASK_NOT_EXIST,
    UNAUTHORIZED,
    Answer,
    Call,
    answer_for,
    flat_error,
    json_answer,
    nested_error,
)
from bridge.sandbox.forms import Task, TaskPhase, documented_record, openai_video, render, view_at
from bridge.sandbox.video import MP4

_MAX_BODY_BYTES = 64 << 20  # of a create body that is parsed: no model takes more; the rest is counted and hashed only
_MAX_CREATE_CALLS = 1000  # kept for tests, with up to 1 MiB of body each: a demo that runs for weeks must not grow
_KEPT_BODY_BYTES = 1 << 20
_PIECE = b" " * 65536


@dataclass(frozen=True, slots=True)
class CreateCall:
    """One create call as it arrived, accepted or not. `body` is its first MiB, `sha256` covers all of it."""

    task_id: str | None
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    size: int
    sha256: str


class Sandbox:
    """One amux account in memory: each of its keys sees every task.

    `keys` are the accepted bearer keys (None: any that is not empty). `clock` is monotonic, in seconds. `default` is
    the behaviour of a task whose create call chooses none.

    Tests may change `keys`, set `outage` (the fault of every status poll while it is set) and read `polls` (status
    requests by task id, refused ones too), `last_key` (the key of a task's last poll), `creates` (the newest 1,000
    create calls) and `unknown_paths` (requests for paths that amux does not have, such as `/moved` of a redirect).
    """

    def __init__(
        self,
        *,
        keys: frozenset[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        default: Behaviour | None = None,
    ) -> None:
        self.keys = keys
        self.outage: Fault | None = None
        self.polls: Counter[str] = Counter()
        self.last_key: dict[str, str] = {}
        self.creates: deque[CreateCall] = deque(maxlen=_MAX_CREATE_CALLS)
        self.unknown_paths: Counter[str] = Counter()
        self._clock = clock
        self._unix = time.time() - clock()  # the times in bodies follow the tests' clock
        self._default = default or Behaviour()
        self._tasks: dict[str, Task] = {}
        self._answered: Counter[str] = Counter()
        self._waiting: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}
        self._rows = itertools.count(1)
        self._requests = itertools.count(1)
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    # --- for programs in the same process -------------------------------------------------------------------------

    def create_task(
        self, behaviour: Behaviour | None = None, task_id: str | None = None, *, model: str = "m", prompt: str = ""
    ) -> str:
        """Creates a task without a request and returns its id, `task_` and 32 characters if none is given."""
        task_id = task_id or f"task_{secrets.token_hex(16)}"
        now = self._clock()
        behaviour = behaviour or self._default
        self._tasks[task_id] = Task(task_id, next(self._rows), model, prompt, behaviour, now, self._unix + now)
        self._answered.pop(task_id, None)
        return task_id

    def change(self, task_id: str, behaviour: Behaviour) -> None:
        """Gives a task another behaviour. Its age stays; its forms and faults start again. Raises KeyError."""
        self._tasks[task_id] = replace(self._tasks[task_id], behaviour=behaviour)
        self._answered.pop(task_id, None)

    async def polled(self, task_id: str, times: int = 1) -> None:
        """Waits until the task was polled `times` times in all. The last answer may not have arrived yet."""
        if self.polls[task_id] < times:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(task_id, []).append((times, waiter))
            await waiter

    def app(self) -> web.Application:
        """Returns a new aiohttp application over these tasks."""
        app = web.Application()
        app.router.add_get("/v1/video/generations/{task_id}", self._status, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}", self._alias, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}/content", self._content, allow_head=False)
        app.router.add_post("/v1/video/generations", self._create)
        app.router.add_post("/v1/videos", self._create)
        app.router.add_get("/files/{task_id}.mp4", self._file, allow_head=False)
        app.router.add_route("*", "/{path:.*}", self._unknown_path)
        app.on_startup.append(self._on_startup)
        app.on_shutdown.append(self._on_shutdown)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serves on an address (port 0: any free port) and returns the base URL. Raises OSError if it is in use."""
        # 1 s: the shutdown ends stalled answers, and nothing else takes long here.
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stops serving and ends stalled answers. The tasks stay and can be served again."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # --- the routes -----------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return await self._poll(request, alias=False)

    async def _alias(self, request: web.Request) -> web.StreamResponse:
        return await self._poll(request, alias=True)

    async def _poll(self, request: web.Request, *, alias: bool) -> web.StreamResponse:
        """Answers a status request. Polls with a refused key or an unknown task do not count for forms and faults."""
        call = self._call(request)
        self._count(call)
        if not self._accepts(call.key):
            return self._reply(UNAUTHORIZED)
        task = self._find(call.task_id)
        if task is None:
            return await self._send(request, TASK_NOT_EXIST, self.outage, call)
        turn = self._answered[task.task_id]
        self._answered[task.task_id] = turn + 1
        view = view_at(task, self._clock() - task.created_clock, call.base_url)
        good = json_answer(render("D" if alias else task.behaviour.form_at(turn), view))
        return await self._send(request, good, self.outage or task.behaviour.fault_at(turn), call)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        """Answers with all bytes of the video: amux supports no ranges here."""
        call = self._call(request)
        if not self._accepts(call.key):
            return self._reply(UNAUTHORIZED)
        task = self._find(call.task_id)
        if task is None:
            return self._reply(nested_error(404, "Task not found", "invalid_request_error"))
        view = view_at(task, self._clock() - task.created_clock, call.base_url)
        if view.phase is TaskPhase.SUCCEEDED:
            good = Answer(200, MP4, "video/mp4")
        else:
            message = f"Task is not completed yet, current status: {view.word('C')}"
            good = nested_error(400, message, "invalid_request_error")
        return await self._send(request, good, task.behaviour.content_fault, call)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request)
        body, size, digest = await _read(request)

        def record(task_id: str | None) -> None:
            start = body[:_KEPT_BODY_BYTES]
            self.creates.append(
                CreateCall(task_id, request.path, request.query_string, request.headers, start, size, digest)
            )

        if not self._accepts(call.key):
            record(None)
            return self._reply(UNAUTHORIZED)
        try:
            fields = read_create_request(request.headers.get("Content-Type", ""), body)
            behaviour = parse(fields.sandbox, fields.prompt, self._default)
        except BehaviourError as error:
            record(None)
            return self._reply(flat_error(400, "invalid_request", str(error)))
        task_id = self.create_task(behaviour, model=fields.model, prompt=fields.prompt)
        record(task_id)
        # A task whose polls answer in form A is answered so here too, but never on `/v1/videos`.
        is_documented = behaviour.form.startswith("A") and request.path != "/v1/videos"
        form = documented_record if is_documented else openai_video
        view = view_at(self._tasks[task_id], -1.0, call.base_url)  # -1: always queued, even if its queue time is 0
        good = json_answer(form(view))
        return await self._send(request, good, behaviour.create_fault, replace(call, task_id=task_id))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Answers with the video as a vendor's storage does: the URL is enough, no key is needed."""
        if self._find(request.match_info["task_id"]) is None:
            return self._reply(Answer(404, b"", "text/plain", by_amux=False))
        return self._reply(Answer(200, MP4, "video/mp4", by_amux=False))

    async def _unknown_path(self, request: web.Request) -> web.StreamResponse:
        self.unknown_paths[request.path] += 1
        return self._reply(NO_SUCH_ROUTE)

    # --- parts of the routes --------------------------------------------------------------------------------------

    def _call(self, request: web.Request) -> Call:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        base_url = f"{request.scheme}://{request.host}"
        key = value.strip() if scheme.lower() == "bearer" else ""
        return Call(base_url, request.match_info.get("task_id", ""), key, self._unix + self._clock())

    def _accepts(self, key: str) -> bool:
        return bool(key) if self.keys is None else key in self.keys

    def _count(self, call: Call) -> None:
        """Counts a poll and wakes the callers of `polled` that waited for it."""
        self.polls[call.task_id] = polls = self.polls[call.task_id] + 1
        self.last_key[call.task_id] = call.key
        if waiting := self._waiting.pop(call.task_id, None):
            for _, waiter in (entry for entry in waiting if entry[0] <= polls and not entry[1].done()):
                waiter.set_result(None)
            if rest := [entry for entry in waiting if entry[0] > polls]:
                self._waiting[call.task_id] = rest

    def _find(self, task_id: str) -> Task | None:
        """Returns the task, or None. A task that is implied by its id begins here; a late one is not found yet."""
        task = self._tasks.get(task_id)
        if task is None:
            behaviour = implied_by(task_id, self._default)
            if behaviour is None:
                return None
            task = self._tasks[self.create_task(behaviour, task_id)]
        return task if self._clock() - task.created_clock >= task.behaviour.late_seconds else None

    def _reply(self, answer: Answer) -> web.Response:
        return web.Response(status=answer.status, body=answer.body, headers=self._headers(answer))

    def _headers(self, answer: Answer) -> dict[str, str]:
        headers = {"Content-Type": answer.content_type, **answer.headers}
        if answer.by_amux:
            headers["X-Oneapi-Request-Id"] = f"sandbox{next(self._requests):010d}"
        return headers

    async def _send(self, request: web.Request, good: Answer, fault: Fault | None, call: Call) -> web.StreamResponse:
        """Sends the good answer, or what the fault makes of it."""
        if fault is None:
            return self._reply(good)
        match fault.kind:
            case FaultKind.SLOW:
                await self._wait(fault.seconds)
                return self._reply(good)
            case FaultKind.RESET:
                _reset(request)
                return self._reply(good)  # never sent, but aiohttp requires an answer
            case FaultKind.ENDLESS_BODY | FaultKind.STALLED_BODY | FaultKind.CUT_BODY:
                return await self._send_broken_body(request, good, fault)
            case _:
                return self._reply(answer_for(fault, good, call))

    async def _send_broken_body(self, request: web.Request, good: Answer, fault: Fault) -> web.StreamResponse:
        """Sends a body that stops half-way, finally or for some time, or that never ends."""
        response = web.StreamResponse(status=good.status, headers=self._headers(good))
        half = len(good.body) // 2
        if fault.kind is not FaultKind.ENDLESS_BODY:
            response.content_length = len(good.body)
        try:
            await response.prepare(request)
            await response.write(good.body[:half])
            if fault.kind is FaultKind.CUT_BODY:
                _reset(request)
                return response
            if fault.kind is FaultKind.STALLED_BODY:
                await self._wait(fault.seconds)
            while fault.kind is FaultKind.ENDLESS_BODY and not self._stopping.is_set():
                await response.write(_PIECE)
                await asyncio.sleep(0)  # a write that does not wait would never let another task run
            await response.write(good.body[half:])
        except ConnectionError:
            pass  # the client closed the connection, as expected
        return response

    async def _wait(self, seconds: float) -> None:
        """Waits, but not longer than the server runs."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _on_startup(self, _app: web.Application) -> None:
        # A new event each time: the server can be started again, in another event loop.
        self._stopping = asyncio.Event()

    async def _on_shutdown(self, _app: web.Application) -> None:
        self._stopping.set()


async def _read(request: web.Request) -> tuple[bytes, int, str]:
    """Returns the first 64 MiB of the body, its size and its SHA-256."""
    start, size, digest = bytearray(), 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        digest.update(chunk)
        if len(start) < _MAX_BODY_BYTES:
            start += chunk[: _MAX_BODY_BYTES - len(start)]
    return bytes(start), size, digest.hexdigest()


def _reset(request: web.Request) -> None:
    """Ends the connection with a TCP reset. Without SO_LINGER, closing could look like an orderly end."""
    transport = request.transport
    if transport is None:
        return
    if (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
