"""The stand-in's HTTP server: amux's routes, over tasks in memory, with the answers that were asked for."""

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
from bridge.sandbox.faults import (
    NO_SUCH_ROUTE,
    TASK_NOT_EXIST,
    UNAUTHORIZED,
    Answer,
    Call,
    answer_for,
    flat_error,
    nested_error,
    told,
)
from bridge.sandbox.forms import Task, TaskStage, document, look, openai_video, render
from bridge.sandbox.video import MP4
from bridge.sandbox.wanted import read_wanted

_KEPT = 64 << 20  # bytes of a create body that are read: no model takes more; the rest is only counted and hashed
_REMEMBERED = 1000  # create calls kept for tests, with a MiB of body each: a demo of weeks must not grow by them
_REMEMBERED_BODY = 1 << 20
_PIECE = b" " * 65536


@dataclass(frozen=True, slots=True)
class Creation:
    """One create call as it arrived, whatever was answered; `body` is its first MiB, `sha256` is of all of it."""

    task_id: str | None
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    size: int
    sha256: str


class Sandbox:
    """amux in memory, one account of it: any of its keys sees every task.

    `keys` are the bearer keys it takes (None: any that is not empty); `clock` counts seconds and never goes back;
    `default` is how a task goes where its creator says nothing.

    Tests may change `keys`, set `outage` (a fault that every status poll meets while it is set) and read `polls`
    (status requests by task id, refused ones too), `last_key` (the key of a task's last poll), `creates` (the newest
    1,000 create calls) and `strays` (paths asked for that amux does not have, `/moved` of a redirect among them).
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
        self.creates: deque[Creation] = deque(maxlen=_REMEMBERED)
        self.strays: Counter[str] = Counter()
        self._clock = clock
        self._unix = time.time() - clock()  # so that the times in bodies run with the clock of the tests
        self._default = default or Behaviour()
        self._tasks: dict[str, Task] = {}
        self._answered: Counter[str] = Counter()
        self._waiting: dict[str, list[tuple[int, asyncio.Future[None]]]] = {}
        self._rows = itertools.count(1)
        self._requests = itertools.count(1)
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    # --- for those who hold it in their hands ---------------------------------------------------------------------

    def create_task(
        self, behaviour: Behaviour | None = None, task_id: str | None = None, *, model: str = "m", prompt: str = ""
    ) -> str:
        """Create a task, without a request, and return its id: `task_` + 32 characters, if none is given."""
        task_id = task_id or f"task_{secrets.token_hex(16)}"
        now = self._clock()
        chosen = behaviour or self._default
        self._tasks[task_id] = Task(task_id, next(self._rows), model, prompt, chosen, now, self._unix + now)
        self._answered.pop(task_id, None)
        return task_id

    def change(self, task_id: str, behaviour: Behaviour) -> None:
        """Give a task another behaviour: its age stays, its forms and faults start anew. Raises KeyError."""
        self._tasks[task_id] = replace(self._tasks[task_id], behaviour=behaviour)
        self._answered.pop(task_id, None)

    async def polled(self, task_id: str, times: int = 1) -> None:
        """Wait until the task was asked for so many times in all; the last answer may still be on its way."""
        if self.polls[task_id] < times:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(task_id, []).append((times, waiter))
            await waiter

    def app(self) -> web.Application:
        """A new aiohttp application over these tasks."""
        app = web.Application()
        app.router.add_get("/v1/video/generations/{task_id}", self._status, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}", self._alias, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}/content", self._content, allow_head=False)
        app.router.add_post("/v1/video/generations", self._create)
        app.router.add_post("/v1/videos", self._create)
        app.router.add_get("/files/{task_id}.mp4", self._file, allow_head=False)
        app.router.add_route("*", "/{path:.*}", self._stray)
        app.on_startup.append(self._on_startup)
        app.on_shutdown.append(self._on_shutdown)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serve on an address (port 0: any free one) and return the base URL. Raises OSError if it is taken."""
        # 1 s: answers that stall are woken by the shutdown; nothing else takes long here.
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
        """Stop serving; stalled answers end. The tasks stay, and may be served again."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # --- the routes -----------------------------------------------------------------------------------------------

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return await self._poll(request, alias=False)

    async def _alias(self, request: web.Request) -> web.StreamResponse:
        return await self._poll(request, alias=True)

    async def _poll(self, request: web.Request, *, alias: bool) -> web.StreamResponse:
        """One status request. A refused key and an unknown task use up neither a fault nor a form's turn."""
        call = self._call(request)
        self._count(call)
        if not self._lets_in(call.key):
            return self._reply(UNAUTHORIZED)
        task = self._find(call.task_id)
        if task is None:
            return await self._send(request, TASK_NOT_EXIST, self.outage, call)
        turn = self._answered[task.task_id]
        self._answered[task.task_id] = turn + 1
        sight = look(task, self._clock() - task.born, call.base_url)
        good = told(render("D" if alias else task.behaviour.form_at(turn), sight))
        return await self._send(request, good, self.outage or task.behaviour.fault_at(turn), call)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        """The video's bytes, all of them: amux knows no ranges here."""
        call = self._call(request)
        if not self._lets_in(call.key):
            return self._reply(UNAUTHORIZED)
        task = self._find(call.task_id)
        if task is None:
            return self._reply(nested_error(404, "Task not found", "invalid_request_error"))
        sight = look(task, self._clock() - task.born, call.base_url)
        if sight.stage is TaskStage.SUCCEEDED:
            good = Answer(200, MP4, "video/mp4")
        else:
            message = f"Task is not completed yet, current status: {sight.word('C')}"
            good = nested_error(400, message, "invalid_request_error")
        return await self._send(request, good, task.behaviour.content_fault, call)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request)
        body, size, digest = await _read(request)

        def remember(task_id: str | None) -> None:
            start = body[:_REMEMBERED_BODY]
            seen = Creation(task_id, request.path, request.query_string, request.headers, start, size, digest)
            self.creates.append(seen)

        if not self._lets_in(call.key):
            remember(None)
            return self._reply(UNAUTHORIZED)
        try:
            wanted = read_wanted(request.headers.get("Content-Type", ""), body)
            behaviour = parse(wanted.sandbox, wanted.prompt, self._default)
        except BehaviourError as error:
            remember(None)
            return self._reply(flat_error(400, "invalid_request", str(error)))
        task_id = self.create_task(behaviour, model=wanted.model, prompt=wanted.prompt)
        remember(task_id)
        # As the document has it for a task that is told in the document's form; the alias never is.
        form = document if behaviour.form.startswith("A") and request.path != "/v1/videos" else openai_video
        sight = look(self._tasks[task_id], -1.0, call.base_url)  # -1: before anything happened, however short its queue
        return await self._send(request, told(form(sight)), behaviour.create_fault, replace(call, task_id=task_id))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """The video where a vendor would keep it: anyone who knows the URL may have it."""
        if self._find(request.match_info["task_id"]) is None:
            return self._reply(Answer(404, b"", "text/plain", by_amux=False))
        return self._reply(Answer(200, MP4, "video/mp4", by_amux=False))

    async def _stray(self, request: web.Request) -> web.StreamResponse:
        self.strays[request.path] += 1
        return self._reply(NO_SUCH_ROUTE)

    # --- their parts ----------------------------------------------------------------------------------------------

    def _call(self, request: web.Request) -> Call:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        base_url = f"{request.scheme}://{request.host}"
        given = key.strip() if scheme.lower() == "bearer" else ""
        return Call(base_url, request.match_info.get("task_id", ""), given, self._unix + self._clock())

    def _lets_in(self, key: str) -> bool:
        return bool(key) if self.keys is None else key in self.keys

    def _count(self, call: Call) -> None:
        """Count a poll, and wake those who wait for it."""
        self.polls[call.task_id] = asked = self.polls[call.task_id] + 1
        self.last_key[call.task_id] = call.key
        if waiting := self._waiting.pop(call.task_id, None):
            for _, waiter in (due for due in waiting if due[0] <= asked and not due[1].done()):
                waiter.set_result(None)
            if rest := [due for due in waiting if due[0] > asked]:
                self._waiting[call.task_id] = rest

    def _find(self, task_id: str) -> Task | None:
        """The task as the account sees it: an implicit one begins here, a late one is not there yet."""
        task = self._tasks.get(task_id)
        if task is None:
            behaviour = implied_by(task_id, self._default)
            if behaviour is None:
                return None
            task = self._tasks[self.create_task(behaviour, task_id)]
        return task if self._clock() - task.born >= task.behaviour.late_seconds else None

    def _reply(self, answer: Answer) -> web.Response:
        return web.Response(status=answer.status, body=answer.body, headers=self._headers(answer))

    def _headers(self, answer: Answer) -> dict[str, str]:
        headers = {"Content-Type": answer.content_type, **answer.headers}
        if answer.by_amux:
            headers["X-Oneapi-Request-Id"] = f"sandbox{next(self._requests):010d}"
        return headers

    async def _send(self, request: web.Request, good: Answer, fault: Fault | None, call: Call) -> web.StreamResponse:
        """Answer, with the fault's own trouble if there is one."""
        if fault is None:
            return self._reply(good)
        match fault.kind:
            case FaultKind.SLOW:
                await self._wait(fault.seconds)
                return self._reply(good)
            case FaultKind.RESET:
                _reset(request)
                return self._reply(good)  # to nobody: aiohttp wants an answer to drop
            case FaultKind.ENDLESS_BODY | FaultKind.STALLED_BODY | FaultKind.CUT_BODY:
                return await self._send_badly(request, good, fault)
            case _:
                return self._reply(answer_for(fault, good, call))

    async def _send_badly(self, request: web.Request, good: Answer, fault: Fault) -> web.StreamResponse:
        """A body that stops half-way, for good or for a while, or never ends."""
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
                await asyncio.sleep(0)  # a write that needs no waiting would keep the loop for itself
            await response.write(good.body[half:])
        except ConnectionError:
            pass  # the client left, as it should
        return response

    async def _wait(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _on_startup(self, _app: web.Application) -> None:
        # A new event each time: the server may be started again, in another loop.
        self._stopping = asyncio.Event()

    async def _on_shutdown(self, _app: web.Application) -> None:
        self._stopping.set()


async def _read(request: web.Request) -> tuple[bytes, int, str]:
    """The body's first 64 MiB, its size and its SHA-256, read as it comes."""
    kept, size, digest = bytearray(), 0, hashlib.sha256()
    async for chunk in request.content.iter_any():
        size += len(chunk)
        digest.update(chunk)
        if len(kept) < _KEPT:
            kept += chunk[: _KEPT - len(kept)]
    return bytes(kept), size, digest.hexdigest()


def _reset(request: web.Request) -> None:
    """End the connection with a TCP reset; without the option a close could look like an orderly end."""
    transport = request.transport
    if transport is None:
        return
    if (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
