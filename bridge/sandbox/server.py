"""The stand-in's HTTP server: amux's routes for tasks in memory. The behaviour of a task determines its answers."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aiohttp import web

from bridge.sandbox.batch import MAX_BATCH_IDS, BatchCall, Batches, BatchMode, answer_with_rows, read_ids
from bridge.sandbox.batch import answer_without_route as batch_without_route
from bridge.sandbox.behaviour import Behaviour, BehaviourError, Fault, VendorAnswer, parse
from bridge.sandbox.content import CONTENT_SECONDS, send_video
from bridge.sandbox.counting import Counts
from bridge.sandbox.create_request import read_create_request
from bridge.sandbox.faults import (
    TASK_NOT_EXIST,
    UNAUTHORIZED,
    Answer,
    Call,
    answer_for,
    flat_error,
    json_answer,
    nested_error,
    no_such_route,
    replaces,
)
from bridge.sandbox.forms import (
    Body,
    Task,
    TaskPhase,
    database_record,
    documented_record,
    openai_video,
    render,
    view_at,
)
from bridge.sandbox.gateway import TOO_MANY_REQUESTS, RateLimit, answer_without_route, fault_of_key
from bridge.sandbox.records import alias_form, created_form, live_form, record_form, row
from bridge.sandbox.sending import Sender, read_body
from bridge.sandbox.sweep import SWEEP_SECONDS, Sweep
from bridge.sandbox.tasks import Tasks
from bridge.sandbox.video import MP4

_MAX_CREATE_CALLS = 1000  # kept for tests, with up to 1 MiB of body each; a limit, because a demo may run for weeks
_KEPT_BODY_BYTES = 1 << 20
_VIDEO = Answer(200, b"", "video/mp4", {"Accept-Ranges": "bytes", "Cache-Control": "public, max-age=86400"})


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
    the behaviour of a task whose create call chooses none. `sweep_seconds` is the pause of amux's sweep,
    `sweep_task_seconds` its time for each task (None: a 15th of the pause, as on the real server). `content_seconds`
    is the limit of the content route. `batch` is what the batch route finds, `batch_max_ids` how many ids it takes.
    With `dashboard` unknown paths behave as on the real server: most show the dashboard's page with status 200, a route
    with a slash at its end redirects, and a rate limit applies. Without it they all answer 404.

    Tests may change `keys`, `batch`, `batch_max_ids` and `content_seconds`, and set faults: `outage` (of every status
    request, single or batch, while it is set), `batch_fault` (of the batch route alone), `key_faults` (by key) and
    `vendor_outage` (of every vendor). They may read:
    - `polls`: single status requests by task id, also refused ones; `last_key`: the key of the last one of a task;
    - `batches`: the requests and ids of the batch route, and the records that it returned;
    - `vendor_requests`: requests to vendors by live task id;
    - `contents`: how the sending of videos ended: `whole`, `broken_off` or `reader_left`;
    - `creates`: the newest 1,000 create calls;
    - `unknown_paths`: requests for paths that amux does not have, such as `/moved` of a redirect; `limited_paths`: the
      ones that got a 429.
    """

    def __init__(  # noqa: PLR0913  options, by keyword only
        self,
        *,
        keys: frozenset[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        default: Behaviour | None = None,
        sweep_seconds: float = SWEEP_SECONDS,
        sweep_task_seconds: float | None = None,
        content_seconds: float = CONTENT_SECONDS,
        batch: BatchMode = BatchMode.PLATFORMS,
        batch_max_ids: int = MAX_BATCH_IDS,
        dashboard: bool = False,
    ) -> None:
        self.keys = keys
        self.outage: Fault | None = None
        self.batch_fault: Fault | None = None
        self.key_faults: dict[str, Fault] = {}
        self.batch = batch
        self.batch_max_ids = batch_max_ids
        self.content_seconds = content_seconds
        self.polls = Counts()
        self.last_key: dict[str, str] = {}
        self.batches = Batches()
        self.contents = Counts()
        self.creates: deque[CreateCall] = deque(maxlen=_MAX_CREATE_CALLS)
        self.unknown_paths: Counter[str] = Counter()
        self._default = default or Behaviour()
        self._clock = clock
        self._tasks = Tasks(clock, self._default, Sweep(clock(), sweep_seconds, sweep_task_seconds))
        self._answered: Counter[str] = Counter()
        self._has_dashboard = dashboard
        self._limit = RateLimit()
        self._sender = Sender()
        self._runner: web.AppRunner | None = None

    # --- for programs in the same process -------------------------------------------------------------------------

    @property
    def vendor_requests(self) -> Counter[str]:
        """The number of requests to vendors because of status requests, by task id."""
        return self._tasks.vendor_requests

    @property
    def vendor_outage(self) -> VendorAnswer | None:
        """The answer of every vendor while it is set, to status requests and to the sweep."""
        return self._tasks.vendor_outage

    @vendor_outage.setter
    def vendor_outage(self, answer: VendorAnswer | None) -> None:
        self._tasks.vendor_outage = answer

    @property
    def limited_paths(self) -> Counter[str]:
        """The requests that amux's rate limit refused, by path."""
        return self._limit.refused

    def create_task(
        self, behaviour: Behaviour | None = None, task_id: str | None = None, *, model: str = "m", prompt: str = ""
    ) -> str:
        """Creates a task without a request, and returns its id. The default is `task_` and 32 characters."""
        task = self._tasks.create(behaviour or self._default, task_id, model, prompt)
        self._answered.pop(task.task_id, None)
        return task.task_id

    def change(self, task_id: str, behaviour: Behaviour) -> None:
        """Changes the behaviour of a task. Its age stays, and its forms and faults begin again.

        Raises KeyError for an unknown task.
        """
        self._tasks.change(task_id, behaviour)
        self._answered.pop(task_id, None)

    async def polled(self, task_id: str, times: int = 1) -> None:
        """Waits until the task has had `times` single polls. The last answer may not have arrived yet."""
        await self.polls.reached(task_id, times)

    def app(self) -> web.Application:
        """Returns a new aiohttp application over these tasks."""
        app = web.Application()
        app.router.add_get("/v1/video/generations/{task_id}", self._status, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}", self._alias, allow_head=False)
        app.router.add_get("/v1/videos/{task_id}/content", self._content, allow_head=False)
        app.router.add_post("/v1/video/generations", self._create)
        app.router.add_post("/v1/videos", self._create)
        app.router.add_post("/suno/fetch", self._batch)
        app.router.add_get("/files/{task_id}.mp4", self._file, allow_head=False)
        app.router.add_route("*", "/{path:.*}", self._unknown_path)
        app.on_startup.append(self._on_startup)
        app.on_shutdown.append(self._on_shutdown)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Serves on an address (port 0: any free port) and returns the base URL. Raises OSError if it is in use."""
        # 1 s is enough: the shutdown ends stalled answers, and no other answer takes long.
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
        """Answers a status request. If the key is refused or the task is unknown, no form and no fault is used up."""
        call = self._call(request)
        self.last_key[call.task_id] = call.key
        self.polls.add(call.task_id)
        if refusal := self._refusal(call):
            return self._sender.reply(refusal)
        task = self._tasks.find(call.task_id)
        if task is None:
            return await self._sender.send(request, TASK_NOT_EXIST, self.outage, call)
        turn = self._answered[task.task_id]
        self._answered[task.task_id] = turn + 1
        fault = self.outage or task.behaviour.fault_at(turn)
        good = self._task_answer(task, call, turn, alias=alias, is_hidden=replaces(fault))
        return await self._sender.send(request, good, fault, call)

    def _task_answer(self, task: Task, call: Call, turn: int, *, alias: bool, is_hidden: bool) -> Answer:
        """Returns the good answer to a status request. Asks a live task's vendor, unless a fault hides the answer."""
        record = self._tasks.record(task, call.base_url)
        if record is None:
            form = "D" if alias else task.behaviour.form_at(turn)
            return json_answer(render(form, self._tasks.view(task, call.base_url)))
        is_fresh = record.vendor.live and not is_hidden and self._tasks.ask_now(record, call.base_url)
        if alias:
            return json_answer(alias_form(record))
        return json_answer(live_form(record) if is_fresh else record_form(record))

    async def _batch(self, request: web.Request) -> web.StreamResponse:
        """Answers with the records of many tasks. It asks no vendor."""
        body, _, _ = await read_body(request)
        ids = read_ids(body)
        call = replace(self._call(request), task_id=ids[0] if ids else "none")
        good = (
            batch_without_route(self.batch)
            or self._refusal(call)
            or answer_with_rows(ids, self.batch_max_ids, self._row(call))
        )
        fault = self.batch_fault or self.outage
        status = answer_for(fault, good, call).status if fault else good.status
        self.batches.note(BatchCall(tuple(ids or ()), call.key, status))
        if self.batch is BatchMode.NOT_FOUND:
            self.unknown_paths[request.path] += 1
        return await self._sender.send(request, good, fault, call)

    def _row(self, call: Call) -> Callable[[str], Body | None]:
        """Returns a function that returns the row of a task id, or None, and counts it."""

        def row_of(task_id: str) -> Body | None:
            task = None if self.batch is BatchMode.FILTERED else self._tasks.find(task_id)
            record = task and self._tasks.record(task, call.base_url)
            if task is None or (record is None and self.batch is not BatchMode.ALL):
                return None
            self.batches.read.add(task_id)
            return row(record) if record else database_record(self._tasks.view(task, call.base_url))["data"]

        return row_of

    async def _content(self, request: web.Request) -> web.StreamResponse:
        """Answers with all bytes of the video: amux supports no ranges here, and ignores the query."""
        call = self._call(request)
        if not self._accepts(call.key):
            return self._sender.reply(UNAUTHORIZED)
        task = self._tasks.find(call.task_id)
        if task is None:
            return self._sender.reply(nested_error(404, "Task not found", "invalid_request_error"))
        record = self._tasks.record(task, call.base_url)
        view = self._tasks.view(task, call.base_url)
        word = record.status if record else view.word("C")
        is_ready = record.status == "SUCCESS" if record else view.phase is TaskPhase.SUCCEEDED
        fault = task.behaviour.content_fault
        if not is_ready:
            message = f"Task is not completed yet, current status: {word}"
            return await self._sender.send(request, nested_error(400, message, "invalid_request_error"), fault, call)
        if fault is not None:
            return await self._sender.send(request, replace(_VIDEO, body=MP4), fault, call)
        size = task.behaviour.content_bytes
        return await send_video(request, self._sender.headers(_VIDEO), size, self.content_seconds, self.contents)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request)
        body, size, digest = await read_body(request)

        def record(task_id: str | None) -> None:
            start = body[:_KEPT_BODY_BYTES]
            self.creates.append(
                CreateCall(task_id, request.path, request.query_string, request.headers, start, size, digest)
            )

        if refusal := self._refusal(call):
            record(None)
            return self._sender.reply(refusal)
        try:
            fields = read_create_request(request.headers.get("Content-Type", ""), body)
            behaviour = parse(fields.sandbox, fields.prompt, self._default)
        except BehaviourError as error:
            record(None)
            return self._sender.reply(flat_error(400, "invalid_request", str(error)))
        task = self._tasks.create(behaviour, None, fields.model, fields.prompt)
        record(task.task_id)
        call = replace(call, task_id=task.task_id)
        good = json_answer(self._created_body(task, call, is_openai=request.path == "/v1/videos"))
        return await self._sender.send(request, good, behaviour.create_fault, call)

    def _created_body(self, task: Task, call: Call, *, is_openai: bool) -> Body:
        """Returns the record of a new task, which is queued even if its queue time is 0."""
        if amux_record := self._tasks.record(task, call.base_url):
            return created_form(amux_record)
        # If the polls of a task answer in form A, the create call does too, but never on `/v1/videos`.
        form = documented_record if task.behaviour.form.startswith("A") and not is_openai else openai_video
        return form(view_at(task, -1.0, call.base_url))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Answers with the video as a vendor's storage does: the URL is enough, no key is needed."""
        task = self._tasks.find(request.match_info["task_id"])
        if task is None:
            return self._sender.reply(Answer(404, b"", "text/plain", by_amux=False))
        headers = self._sender.headers(Answer(200, b"", "video/mp4", by_amux=False))
        return await send_video(request, headers, task.behaviour.content_bytes, None, Counts())

    async def _unknown_path(self, request: web.Request) -> web.StreamResponse:
        self.unknown_paths[request.path] += 1
        if not self._has_dashboard:
            return self._sender.reply(no_such_route(request.method, request.path))
        if self._limit.refuses(request.remote or "", request.path, self._clock()):
            return self._sender.reply(TOO_MANY_REQUESTS)
        return self._sender.reply(answer_without_route(request.method, request.path))

    # --- parts of the routes --------------------------------------------------------------------------------------

    def _call(self, request: web.Request) -> Call:
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        base_url = f"{request.scheme}://{request.host}"
        key = value.strip() if scheme.lower() == "bearer" else ""
        return Call(base_url, request.match_info.get("task_id", ""), key, self._tasks.unix_now())

    def _accepts(self, key: str) -> bool:
        return bool(key) if self.keys is None else key in self.keys

    def _refusal(self, call: Call) -> Answer | None:
        """Returns amux's refusal of a key, or None if the key is good."""
        if not self._accepts(call.key):
            return UNAUTHORIZED
        fault = self.key_faults.get(call.key) or fault_of_key(call.key)
        return answer_for(fault, UNAUTHORIZED, call) if fault else None

    async def _on_startup(self, _app: web.Application) -> None:
        self._sender.begin()

    async def _on_shutdown(self, _app: web.Application) -> None:
        self._sender.end()
