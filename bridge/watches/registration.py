"""Registers and cancels watches: checks requests, sets defaults, encrypts secrets and stores the watches."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import orjson

from bridge.aio.batching import MicroBatcher
from bridge.aio.completion import Operations
from bridge.aio.system import SYSTEM, System
from bridge.callback.guard import Guard
from bridge.core.audit import Actor
from bridge.core.body_template import compile_body
from bridge.core.errors import BridgeError, InvalidRequest, StoreUnavailable, TargetRefused
from bridge.core.ids import WATCH_ID_PREFIX, WatchIds
from bridge.core.model import TERMINAL_EVENTS, EventType, Watch
from bridge.core.registration import compact, options_text
from bridge.core.targets import Target
from bridge.core.trace_context import TraceContext, log_fields
from bridge.store.change_listener import CommitListener
from bridge.store.records import (
    CONFIGURED,
    CancelledWatch,
    EncryptedFields,
    Idempotency,
    NewWatch,
    RegisteredWatch,
    TaskView,
    WatchView,
)
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger, without_query
from bridge.watches.change_notifier import ChangeNotifier

_NO_CONTEXT = b"null"
NO_KEY = "must be given, because this bridge has no amux key"

_log = get_logger("registration")


class TaskPoller(Protocol):
    """The part of `polling.poller.Poller` that registrations and cancellations use."""

    def add(self, task: TaskView, api_key: str | None = None, /) -> None:
        """Polls a task from now on. `api_key` is the key of a credential other than the configured one."""

    def check_closed(self, task_row: str, /) -> None:
        """Asks the store whether the task has closed, because one of its watches was cancelled."""


class StatusEventQueue(Protocol):
    """The part of `delivery.deliverer.Deliverer` that cancellations use."""

    def drop_status_events(self, watch_ids: Iterable[str], /) -> None:
        """Drops the waiting status events of watches that are final."""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A registration that `app` requests. Its fields have passed the checks of `core/registration.py`.

    A field that is None was not given. `model` is a hint for when to poll. `trace` is the trace context of the request.
    Two registrations that differ only in these two fields are equal. With `exempt_from_limit` the watch is registered
    even at the limit of active watches.
    """

    app: str
    task_id: str
    callback_url: str
    events: frozenset[EventType] = TERMINAL_EVENTS
    context: Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    idempotency: Idempotency | None = None
    exempt_from_limit: bool = False
    model: str | None = None
    body: Mapping[str, Any] | None = None
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class TimeoutLimits:
    """The time until a watch times out, in seconds: the default, and the maximum of a request."""

    default: float = 3_600.0
    most: float = 86_400.0


class RegistrationService(CommitListener):
    """Registers and cancels watches.

    Each call is finished, even if the caller gives up: a stored watch must be polled. `configured_key` is the amux key
    of the settings; without it each watch needs its own key.
    """

    def __init__(  # noqa: PLR0913  its collaborators
        self,
        store: Store,
        guard: Guard,
        poller: TaskPoller,
        deliverer: StatusEventQueue,
        notifier: ChangeNotifier,
        *,
        metrics: Metrics,
        configured_key: str | None,
        timeouts: TimeoutLimits,
        system: System = SYSTEM,
    ) -> None:
        self._store = store
        self._guard = guard
        self._poller = poller
        self._deliverer = deliverer
        self._notifier = notifier
        self._metrics = metrics
        self._configured_key = configured_key
        self.timeouts = timeouts
        self._ids = WatchIds(Random(system.token_bytes(32)).getrandbits)  # noqa: S311  unique, not secret
        self._operations = Operations(_log)
        self._batcher = MicroBatcher(self._register_callers, self._operations.start)
        self._late_tasks: list[TaskView] = []
        store.add_listener(self)

    async def register(self, request: WatchRequest, target: Target | None = None) -> RegisteredWatch:
        """Registers one watch, durably. Its target is checked again at every attempt.

        `target` is the result of `check`, if the caller has called it. Raises the errors of `check`, and WatchConflict,
        IdempotencyConflict, TooManyWatches, NotFound or StoreUnavailable.
        """
        if target is None:
            target = await self.check(request)
        result = await self._batcher.submit(self._new_watch(request, target))
        if isinstance(result, BridgeError):
            raise result
        return result

    async def register_all(self, requests: Sequence[WatchRequest]) -> Sequence[RegisteredWatch | BridgeError]:
        """Registers many watches in one commit. Returns a result or an error for each, in order.

        Raises StoreUnavailable if the commit fails.
        """
        targets = [self._check_without_look_up(request) for request in requests]
        unknown = [number for number, target in enumerate(targets) if target is None]
        looked_up = await asyncio.gather(*(self._check_with_look_up(requests[number]) for number in unknown))
        for number, target in zip(unknown, looked_up, strict=True):
            targets[number] = target
        pairs = zip(requests, targets, strict=True)
        new = [self._new_watch(request, target) for request, target in pairs if isinstance(target, Target)]
        results = iter(await self._operations.run(self._register_in_one_commit(new)) if new else ())
        return [target if isinstance(target, BridgeError) else next(results) for target in targets]

    async def check(self, request: WatchRequest) -> Target:
        """Makes the checks of a registration that need no store. Returns the callback's target.

        Raises InvalidRequest or TargetRefused.
        """
        self._check_fields(request)
        known = self._guard.check_cached(request.callback_url)
        return known or await self._guard.check(request.callback_url, remember=True)

    async def cancel(self, watch_id: str, app: str | None, by: Actor) -> WatchView:
        """Cancels an active watch of an app (None: of any app). May be repeated. Raises NotFound or WatchSettled."""
        return await self._operations.run(self._store.cancel(watch_id, app, by))

    async def finish(self) -> None:
        """Waits until all calls have ended. Call it while the store is still open."""
        await self._operations.finish()

    def cancelled(self, watch: CancelledWatch) -> None:
        """Stops the work on a watch whose cancellation is durable, even if the caller has given up before."""
        self._deliverer.drop_status_events([watch.id])
        self._poller.check_closed(watch.task_row)
        self._notifier.announce([watch.id])
        _log.event("cancelled", watch_id=watch.id, task_id=watch.task_id, app=watch.app, **log_fields(watch.trace))

    # --- late registrations ---------------------------------------------------------------------------------------

    def registered_late(self, task: TaskView) -> None:
        """Keeps a task whose registration was committed after the answer 503 to its request."""
        if not self._store.shared:  # on a shared database the adoption loads it, for the replica that then owns it
            self._late_tasks.append(task)

    async def poll_late_tasks(self) -> None:
        """Passes late tasks to the poller; call it every second. Raises StoreUnavailable."""
        if not self._late_tasks:
            return
        tasks = list(self._late_tasks)
        keys = await self._store.keys_of(sorted({task.credential for task in tasks} - {CONFIGURED}))
        del self._late_tasks[: len(tasks)]
        for task in tasks:
            self._poller.add(task, keys.get(task.credential))
            self._poller.check_closed(task.row)  # it may have closed since its registration was committed

    # --- checks ---------------------------------------------------------------------------------------------------

    def bad_fields(self, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Returns the fields among `callback_url`, `timeout_seconds` and `api_key` that break a rule of the settings.

        Each comes with its rule. A value of a wrong type is skipped, because the request's model reports it. No name is
        looked up.
        """
        found = self.bad_target(fields)
        seconds = fields.get("timeout_seconds")
        if isinstance(seconds, int | float) and seconds > self.timeouts.most:
            found.append(("timeout_seconds", f"must be at most {self.timeouts.most:g}"))
        if fields.get("api_key") is None and self._configured_key is None:
            found.append(("api_key", NO_KEY))
        return found

    def bad_target(self, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Returns `callback_url` and the rule that it breaks, in the form of `bad_fields`."""
        url = fields.get("callback_url")
        if not isinstance(url, str):
            return []
        try:
            self._guard.parse(url)
        except InvalidRequest as error:
            return list(error.fields)
        except TargetRefused as error:
            return [("callback_url", str(error))]
        return []

    def _check_fields(self, request: WatchRequest) -> None:
        seconds = request.timeout_seconds
        if seconds is not None and seconds > self.timeouts.most:
            given = {"callback_url": request.callback_url, "timeout_seconds": seconds, "api_key": request.api_key}
            raise InvalidRequest(self.bad_fields(given))
        if request.api_key is None and self._configured_key is None:
            raise InvalidRequest([("api_key", NO_KEY)], code="no_api_key")

    def _check_without_look_up(self, request: WatchRequest) -> Target | BridgeError | None:
        """Returns the target or an error, or None if the name must be looked up.

        This saves an asyncio task for each request, which costs as much as the rest of its registration.
        """
        try:
            self._check_fields(request)
            return self._guard.check_cached(request.callback_url)
        except BridgeError as error:
            return error

    async def _check_with_look_up(self, request: WatchRequest) -> Target | BridgeError:
        try:
            return await self.check(request)
        except BridgeError as error:
            return error

    # --- storing --------------------------------------------------------------------------------------------------

    async def _register_callers(self, new_watches: Sequence[NewWatch]) -> Sequence[RegisteredWatch | BridgeError]:
        """Registers watches of different callers. After a failed commit the result of each is a StoreUnavailable."""
        try:
            return await self._register_in_one_commit(new_watches)
        except StoreUnavailable as error:
            return [StoreUnavailable(str(error), error.cause) for _ in new_watches]

    async def _register_in_one_commit(self, new_watches: Sequence[NewWatch]) -> Sequence[RegisteredWatch | BridgeError]:
        """Registers watches in one commit, and passes their tasks to the poller. Raises StoreUnavailable."""
        results = await self._store.register_all(new_watches)
        for new, result in zip(new_watches, results, strict=True):
            if isinstance(result, RegisteredWatch):
                self._poll_and_announce(new, result)
        return results

    def _new_watch(self, request: WatchRequest, target: Target) -> NewWatch:
        now = self._store.now()
        watch_id = self._ids.next(now)
        seconds = self.timeouts.default if request.timeout_seconds is None else float(request.timeout_seconds)
        api_key, cipher = request.api_key, self._store.cipher
        credential = CONFIGURED if api_key is None else cipher.fingerprint("credential", api_key.encode()).hex()
        has_secrets = bool(request.headers) or request.secret is not None or api_key is not None
        watch = Watch(
            id=watch_id,
            app=request.app,
            task_id=request.task_id,
            callback_url=request.callback_url,
            events=request.events,
            context=_NO_CONTEXT if request.context is None else compact(request.context),
            created_at=now,
            deadline_at=now + seconds,
            timeout_seconds=seconds,
            header_names=tuple(request.headers),
            model=request.model,
            body=None if request.body is None else compile_body(request.body),
            trace=request.trace,
        )
        options = options_text(
            request.events, request.context, seconds, request.headers, request.secret, credential, request.body
        )
        return NewWatch(
            watch=watch,
            credential=credential,
            task=watch_id.removeprefix(WATCH_ID_PREFIX),
            options=cipher.fingerprint("options", options),
            host=target.host_key,
            encrypted=self._encrypted(watch_id, request) if has_secrets else EncryptedFields(),
            idempotency=request.idempotency,
            exempt_from_limit=request.exempt_from_limit,
            api_key=api_key,
        )

    def _encrypted(self, watch_id: str, request: WatchRequest) -> EncryptedFields:
        encrypt = self._store.cipher.encrypt
        return EncryptedFields(
            headers=encrypt(watch_id, headers_json(request.headers)) if request.headers else None,
            secret=None if request.secret is None else encrypt(watch_id, request.secret),
            api_key=None if request.api_key is None else encrypt(watch_id, request.api_key),
        )

    def _poll_and_announce(self, new: NewWatch, registered: RegisteredWatch) -> None:
        """Passes the task of a stored watch to the poller. Counts, logs and announces the watch if it is new."""
        if registered.task is not None:
            self._poller.add(registered.task, new.api_key)
        watch = registered.view.watch
        if watch.id == new.watch.id:
            self._metrics.registered.inc()
            _log.event(
                "registered",
                watch_id=watch.id,
                task_id=watch.task_id,
                app=watch.app,
                callback_url=without_query(watch.callback_url),
                **log_fields(watch.trace),
            )
            self._notifier.announce([watch.id])


def headers_json(headers: Mapping[str, str]) -> str:
    """Returns headers as the JSON text that is encrypted."""
    return orjson.dumps(dict(headers)).decode()
