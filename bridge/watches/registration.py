"""Registering and cancelling watches: checks requests, fills in defaults, encrypts secrets and stores the watches."""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, TypeAlias

import orjson

from bridge.aio.batching import MicroBatcher
from bridge.aio.completion import Operations
from bridge.callback.guard import Guard
from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable
from bridge.core.ids import WATCH_ID_PREFIX, WatchIds
from bridge.core.model import EventType, Watch
from bridge.core.registration import compact, events_to_send, options_text
from bridge.core.targets import Target
from bridge.store.records import (
    CONFIGURED,
    CancelledWatch,
    EncryptedFields,
    Idempotency,
    NewWatch,
    PollNote,
    RegisteredWatch,
    TaskRow,
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
    """The poller of `polling`, as registrations and cancellations need it."""

    def add(self, task: TaskRow, api_key: str | None = None, /) -> None:
        """Polls a task from now on. `api_key` is the key of a credential other than the configured one."""

    def look_again(self, task_row: str, /) -> None:
        """Asks the store whether the task has closed, because one of its watches was cancelled."""


class StatusEventQueue(Protocol):
    """The deliverer of `delivery`, as cancellations need it."""

    def drop_status_events(self, watch_ids: Iterable[str], /) -> None:
        """Drops the waiting status events of watches that are final."""


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A registration that `app` asks for. None means: not given. `core/registration.py` has checked each field.

    `model` is a hint for when to poll: two registrations that differ in it alone are equal. With `beyond_limit` the
    watch is registered even when the limit of active watches is reached.
    """

    app: str
    task_id: str
    callback_url: str
    events: frozenset[EventType] | None = None
    context: Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    idempotency: Idempotency | None = None
    beyond_limit: bool = False
    model: str | None = None


Checked: TypeAlias = tuple[WatchRequest, Target]
"""A request, and its callback's target, which the guard has allowed."""


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    """The watch as it is now. `created` is true when the first answer to the request was 201, false when it was 200."""

    view: WatchView
    created: bool


@dataclass(frozen=True, slots=True)
class TimeoutLimits:
    """The time until a watch times out, in seconds: the default, and the most that a request may ask for."""

    default: float = 3_600.0
    most: float = 86_400.0


class RegistrationService:
    """Registers and cancels watches.

    What it has begun it finishes, even if the caller leaves: a stored watch must be polled. `configured_key` returns
    the amux key of the settings, or None.
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
        configured_key: Callable[[], str | None],
        timeouts: TimeoutLimits,
    ) -> None:
        self._store = store
        self._guard = guard
        self._poller = poller
        self._deliverer = deliverer
        self._notifier = notifier
        self._metrics = metrics
        self._configured_key = configured_key
        self.timeouts = timeouts
        self._ids = WatchIds(Random(secrets.randbits(256)).getrandbits)  # noqa: S311  unique, not secret
        self._operations = Operations(_log)
        self._batcher = MicroBatcher(self._register_each, self._operations.start)
        store.on_cancelled = self._cancelled

    async def register(self, request: WatchRequest) -> RegistrationResult:
        """Registers one watch, durably.

        Raises InvalidRequest, TargetRefused, WatchConflict, IdempotencyConflict, TooManyWatches or StoreUnavailable.
        """
        return await self.register_checked(request, await self.check(request))

    async def register_all(self, requests: Sequence[WatchRequest]) -> Sequence[RegistrationResult | BridgeError]:
        """Registers many watches in one commit. Returns a result for each, in order.

        Raises StoreUnavailable, then for all.
        """
        targets = [self._check_without_look_up(request) for request in requests]
        unknown = [number for number, target in enumerate(targets) if target is None]
        looked_up = await asyncio.gather(*(self._check_with_look_up(requests[number]) for number in unknown))
        for number, target in zip(unknown, looked_up, strict=True):
            targets[number] = target
        pairs = zip(requests, targets, strict=True)
        checked = [(request, target) for request, target in pairs if isinstance(target, Target)]
        results = iter(await self._operations.run(self._register_together(checked)) if checked else ())
        return [target if isinstance(target, BridgeError) else next(results) for target in targets]

    async def check(self, request: WatchRequest) -> Target:
        """Makes the checks of a registration that need no store. Returns the callback's target.

        Raises InvalidRequest or TargetRefused.
        """
        self._check_fields(request)
        known = self._guard.check_cached(request.callback_url)
        return known or await self._guard.check(request.callback_url, remember=True)

    async def register_checked(self, request: WatchRequest, target: Target) -> RegistrationResult:
        """Registers a watch whose request was checked before. Its target is checked again at the first attempt.

        Raises WatchConflict, IdempotencyConflict, TooManyWatches or StoreUnavailable.
        """
        result = await self._batcher.submit((request, target))
        if isinstance(result, BridgeError):
            raise result
        return result

    async def cancel(self, watch_id: str, app: str | None) -> WatchView:
        """Cancels an active watch of an app (None: of any app). May be repeated. Raises NotFound or WatchSettled."""
        return await self._operations.run(self._store.cancel(watch_id, app))

    async def finish(self) -> None:
        """Waits until everything that has begun is over. Call it while the store is still open."""
        await self._operations.finish()

    def _cancelled(self, watch: CancelledWatch) -> None:
        """Stops the work on a watch whose cancellation is durable. The caller may have given up before that."""
        self._deliverer.drop_status_events([watch.id])
        self._poller.look_again(watch.task_row)
        self._notifier.announce([watch.id])
        _log.event("cancelled", watch_id=watch.id, task_id=watch.task_id, app=watch.app)

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check_fields(self, request: WatchRequest) -> None:
        if request.timeout_seconds is not None and request.timeout_seconds > self.timeouts.most:
            raise InvalidRequest([("timeout_seconds", f"must be at most {self.timeouts.most:g}")])
        if request.api_key is None and self._configured_key() is None:
            raise InvalidRequest([("api_key", NO_KEY)], code="no_api_key")

    def _check_without_look_up(self, request: WatchRequest) -> Target | BridgeError | None:
        """Returns the target or an error, or None when the name has to be looked up.

        This saves an asyncio task for each request, which would cost as much as the rest of its registration.
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

    async def _register_each(self, checked: Sequence[Checked]) -> Sequence[RegistrationResult | BridgeError]:
        """Registers watches of callers that have nothing to do with each other."""
        began, watches = asyncio.get_running_loop().time(), self._new_watches(checked)
        return await self._finish_each(checked, watches, await self._store.register_each(watches), began)

    async def _register_together(self, checked: Sequence[Checked]) -> Sequence[RegistrationResult | BridgeError]:
        """Registers the watches of one caller in one commit. Raises StoreUnavailable."""
        began, watches = asyncio.get_running_loop().time(), self._new_watches(checked)
        return await self._finish_each(checked, watches, await self._store.register_all(watches), began)

    def _new_watches(self, checked: Sequence[Checked]) -> Sequence[NewWatch]:
        now = self._store.now()
        return [self._new_watch(request, target, now) for request, target in checked]

    def _new_watch(self, request: WatchRequest, target: Target, now: float) -> NewWatch:
        watch_id = self._ids.next(now)
        seconds = self.timeouts.default if request.timeout_seconds is None else float(request.timeout_seconds)
        events = events_to_send(request.events)
        credential = self._credential(request)
        watch = Watch(
            id=watch_id,
            app=request.app,
            task_id=request.task_id,
            callback_url=request.callback_url,
            events=events,
            context=_NO_CONTEXT if request.context is None else compact(request.context),
            created_at=now,
            deadline_at=now + seconds,
            timeout_seconds=seconds,
            header_names=tuple(request.headers),
            model=request.model,
        )
        options = options_text(events, request.context, seconds, request.headers, request.secret, credential)
        return NewWatch(
            watch=watch,
            credential=credential,
            task=watch_id.removeprefix(WATCH_ID_PREFIX),
            options=self._store.cipher.fingerprint("options", options),
            host=target.host_key,
            encrypted=self._encrypted(watch_id, request),
            idempotency=request.idempotency,
            beyond_limit=request.beyond_limit,
        )

    def _credential(self, request: WatchRequest) -> str:
        if request.api_key is None:
            return CONFIGURED
        return self._store.cipher.fingerprint("credential", request.api_key.encode()).hex()

    def _encrypted(self, watch_id: str, request: WatchRequest) -> EncryptedFields:
        if not request.headers and request.secret is None and request.api_key is None:
            return _NOTHING_ENCRYPTED
        encrypt = self._store.cipher.encrypt
        return EncryptedFields(
            headers=encrypt(watch_id, headers_json(request.headers)) if request.headers else None,
            secret=None if request.secret is None else encrypt(watch_id, request.secret),
            api_key=None if request.api_key is None else encrypt(watch_id, request.api_key),
        )

    # --- after storing --------------------------------------------------------------------------------------------

    async def _finish_each(
        self,
        checked: Sequence[Checked],
        watches: Sequence[NewWatch],
        results: Sequence[RegisteredWatch | BridgeError],
        began: float,
    ) -> Sequence[RegistrationResult | BridgeError]:
        # Every stored watch is announced and polled before any is read again: reading may fail.
        for (request, _), new, result in zip(checked, watches, results, strict=True):
            if isinstance(result, RegisteredWatch):
                self._poll_and_announce(request, new, result)
        views = await self._views(watches, results, began)
        return [
            result if isinstance(result, BridgeError) else _result(result, views[result.watch.id]) for result in results
        ]

    async def _views(
        self, watches: Sequence[NewWatch], results: Sequence[RegisteredWatch | BridgeError], began: float
    ) -> Mapping[str, WatchView | BridgeError]:
        """Returns the registered watches as they are now, by id; an error for those that cannot be read.

        A retry of the request finds such a watch. All are read in one query, within the time limit of the request,
        which began at `began` by the loop's clock.
        """
        views: dict[str, WatchView | BridgeError] = {}
        to_read: list[str] = []
        for new, result in zip(watches, results, strict=True):
            if not isinstance(result, RegisteredWatch):
                continue
            if result.watch.id == new.watch.id and result.task is not None:
                views[result.watch.id] = _new_view(result.watch, result.task)
            else:
                to_read.append(result.watch.id)
        if not to_read:
            return views
        try:
            async with self._store.request_limit(began):
                found = await self._store.several_watches(to_read)
        except StoreUnavailable as error:
            return views | {watch_id: StoreUnavailable(str(error), error.cause) for watch_id in to_read}
        for watch_id in to_read:  # one that is missing was deleted by retention
            views[watch_id] = found.get(watch_id) or NotFound("there is no such watch")
        return views

    def _poll_and_announce(self, request: WatchRequest, new: NewWatch, registered: RegisteredWatch) -> None:
        """Has the task of a stored watch polled. Counts, logs and announces the watch if it is new."""
        if registered.task is not None:
            self._poller.add(registered.task, request.api_key)
        watch = registered.watch
        if watch.id == new.watch.id:
            self._metrics.registered.inc()
            _log.event(
                "registered",
                watch_id=watch.id,
                task_id=watch.task_id,
                app=watch.app,
                callback_url=without_query(watch.callback_url),
            )
            self._notifier.announce([watch.id])


_NOTHING_ENCRYPTED = EncryptedFields()


def headers_json(headers: Mapping[str, str]) -> str:
    """Returns headers as the JSON text that is encrypted."""
    return orjson.dumps(dict(headers)).decode()


def _result(registered: RegisteredWatch, view: WatchView | BridgeError) -> RegistrationResult | BridgeError:
    return view if isinstance(view, BridgeError) else RegistrationResult(view, registered.created)


def _new_view(watch: Watch, task: TaskRow) -> WatchView:
    """Returns the view of a watch that was just registered, without a query: it has no deliveries yet."""
    note = PollNote(task.polls, task.last_polled_at, None, facts=task.facts)
    return WatchView(watch, TaskView(task.id, None, task.snapshot, note))
