"""Intake: registering and cancelling watches. It judges targets, fills defaults, seals secrets and stores."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import orjson

from bridge.aio.batching import MicroBatcher
from bridge.aio.completion import Operations
from bridge.callback.guard import Guard
from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable
from bridge.core.model import EventType, Watch
from bridge.core.registration import WATCH_ID_PREFIX, compact, options_text, wanted_events
from bridge.core.targets import Target
from bridge.store.records import (
    CONFIGURED,
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

AddTask: TypeAlias = Callable[[TaskRow, str | None], None]
Announce: TypeAlias = Callable[[Sequence[str]], None]
RegisterAll: TypeAlias = Callable[[Sequence[NewWatch]], Awaitable[Sequence[RegisteredWatch | BridgeError]]]

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [first + second for first in _CROCKFORD for second in _CROCKFORD]  # of 10 bits: twice as quick as by 5
_RANDOM_BITS = 80
_NO_CONTEXT = b"null"
NO_KEY = "must be given, for this bridge has no amux key of its own"

_log = get_logger("intake")


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What an app asks for, its fields checked one by one (see `core/registration.py`); None is not given."""

    task_id: str
    callback_url: str
    events: frozenset[EventType] | None = None
    context: Mapping[str, Any] | None = None
    timeout_seconds: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for, its target once that was judged, and who asks."""

    wanted: WatchRequest
    target: Target
    app: str
    beyond_limit: bool = False


@dataclass(frozen=True, slots=True)
class RegistrationResult:
    """What registering came to: the watch as it is now; `created` is the first answer's, 201 rather than 200."""

    view: WatchView
    created: bool


@dataclass(frozen=True, slots=True)
class TimeoutLimits:
    """A watch's time until it times out, in seconds: when none is asked for, and at most."""

    default: float = 3_600.0
    most: float = 86_400.0


class WatchIds:
    """Makes watch ids whose order is the order of registering: 48 bits of milliseconds, then 80 random ones.

    Within a millisecond, or while the clock is behind, an id is the last one plus a random step. Ids are no secrets:
    the generator is seeded by the system, and asked without a system call for each.
    """

    def __init__(self) -> None:
        self._last = 0
        self._random = Random(secrets.randbits(256))  # noqa: S311  unique, not secret

    def next(self, now: float) -> str:
        """An id for a watch registered at `now` (Unix seconds)."""
        value = int(now * 1000) << _RANDOM_BITS | self._random.getrandbits(_RANDOM_BITS)
        if value >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
            value = self._last + 1 + self._random.getrandbits(_RANDOM_BITS // 2)
        self._last = value
        return WATCH_ID_PREFIX + watch_id_text(value)


def watch_id_text(value: int) -> str:
    """128 bits as 26 characters of Crockford's base32 in lower case; their order is the numbers' order."""
    return "".join([_PAIRS[value >> shift & 0x3FF] for shift in range(120, -1, -10)])


class RegistrationService:
    """Takes registrations in.

    `poll` and `look_again` are the poller's: a task to poll, and one that lost a watch. `stop_sending` is the
    deliverer's: watches of which nothing more is sent. `configured_key` gives the amux key of the settings, None
    when there is none.
    """

    def __init__(  # noqa: PLR0913  what the rooms around it do
        self,
        store: Store,
        guard: Guard,
        *,
        poll: AddTask,
        look_again: Callable[[str], None],
        stop_sending: Callable[[Sequence[str]], None],
        announce: Announce,
        metrics: Metrics,
        configured_key: Callable[[], str | None],
        timeouts: TimeoutLimits,
    ) -> None:
        self._store = store
        self._guard = guard
        self._poll = poll
        self._look_again = look_again
        self._stop_sending = stop_sending
        self._announce = announce
        self._metrics = metrics
        self._configured_key = configured_key
        self.timeouts = timeouts
        self._ids = WatchIds()
        self._operations = Operations(_log)  # they end even if the caller leaves: a stored watch must be polled
        self._batcher = MicroBatcher(self._take_in_each, self._operations.start)

    async def register(self, wanted: WatchRequest, app: str) -> RegistrationResult:
        """Register one watch, durably.

        Raises InvalidRequest, TargetRefused, WatchConflict, IdempotencyConflict, TooManyWatches or StoreUnavailable.
        """
        return await self._register(wanted, await self.judge(wanted), app)

    async def register_all(
        self, wanted: Sequence[WatchRequest], app: str
    ) -> Sequence[RegistrationResult | BridgeError]:
        """Register many in one commit; each has its own result, in order. Raises StoreUnavailable for them all."""
        targets = [self._known_or_error(one) for one in wanted]
        unknown = [number for number, target in enumerate(targets) if target is None]
        found = await asyncio.gather(*(self._target_or_error(wanted[number]) for number in unknown))
        for number, target in zip(unknown, found, strict=True):
            targets[number] = target
        judged = zip(wanted, targets, strict=True)
        asked = [_Asked(one, target, app) for one, target in judged if isinstance(target, Target)]
        taken = iter(await self._operations.run(self._take_in(self._store.register_all, asked)) if asked else ())
        return [target if isinstance(target, BridgeError) else next(taken) for target in targets]

    async def judge(self, wanted: WatchRequest) -> Target:
        """Check what is wanted as registering does, before anything else is done for it; its target.

        Raises InvalidRequest or TargetRefused.
        """
        self._check(wanted)
        known = self._guard.known(wanted.callback_url)
        return known or await self._guard.check(wanted.callback_url, remember=True)

    async def register_judged(self, wanted: WatchRequest, target: Target, app: str) -> RegistrationResult:
        """Register a watch that was judged before: on a task that is paid for by now.

        So no limit refuses it, and its target is not judged again before the first attempt. Raises WatchConflict or
        StoreUnavailable.
        """
        return await self._register(wanted, target, app, beyond_limit=True)

    async def cancel(self, watch_id: str, app: str | None) -> WatchView:
        """Cancel an active watch of an app (None: of any); repeatable. Raises NotFound or WatchSettled."""
        return await self._operations.run(self._cancel(watch_id, app))

    async def finish(self) -> None:
        """Let what was begun for callers that left come to its end; for a stop, while the store is still open."""
        await self._operations.finish()

    async def _cancel(self, watch_id: str, app: str | None) -> WatchView:
        view = await self._store.cancel(watch_id, app)
        self._stop_sending([watch_id])
        self._look_again(view.task.row)
        self._announce([watch_id])
        _log.event("cancelled", watch_id=watch_id, task_id=view.watch.task_id, app=view.watch.app)
        return view

    async def _register(
        self, wanted: WatchRequest, target: Target, app: str, *, beyond_limit: bool = False
    ) -> RegistrationResult:
        taken = await self._batcher.submit(_Asked(wanted, target, app, beyond_limit))
        if isinstance(taken, BridgeError):
            raise taken
        return taken

    # --- one registration's parts ---------------------------------------------------------------------------------

    def _check(self, wanted: WatchRequest) -> None:
        if wanted.timeout_seconds is not None and wanted.timeout_seconds > self.timeouts.most:
            raise InvalidRequest([("timeout_seconds", f"must be at most {self.timeouts.most:g}")])
        if wanted.api_key is None and self._configured_key() is None:
            raise InvalidRequest([("api_key", NO_KEY)], code="no_api_key")

    def _known_or_error(self, wanted: WatchRequest) -> Target | BridgeError | None:
        """As `_target_or_error`, where no look-up is needed: an asyncio task for each costs as much as the rest."""
        try:
            self._check(wanted)
            return self._guard.known(wanted.callback_url)
        except BridgeError as error:
            return error

    async def _target_or_error(self, wanted: WatchRequest) -> Target | BridgeError:
        try:
            return await self.judge(wanted)
        except BridgeError as error:
            return error

    async def _take_in_each(self, asked: Sequence[_Asked]) -> Sequence[RegistrationResult | BridgeError]:
        return await self._take_in(self._store.register_each, asked)

    async def _take_in(
        self, register: RegisterAll, asked: Sequence[_Asked]
    ) -> Sequence[RegistrationResult | BridgeError]:
        now = self._store.now()
        news = [self._new_watch(one, now) for one in asked]
        found = await register(news)
        # All are handed over before any is looked at again: what is stored must be polled, whatever comes then.
        for new, one, result in zip(news, asked, found, strict=True):
            if isinstance(result, RegisteredWatch):
                self._hand_over(new, one.wanted, result)
        return [
            result if isinstance(result, BridgeError) else await self._taken(new, result)
            for new, result in zip(news, found, strict=True)
        ]

    def _new_watch(self, asked: _Asked, now: float) -> NewWatch:
        wanted = asked.wanted
        watch_id = self._ids.next(now)
        seconds = self.timeouts.default if wanted.timeout_seconds is None else float(wanted.timeout_seconds)
        events = wanted_events(wanted.events)
        credential = self._credential(wanted)
        watch = Watch(
            id=watch_id,
            app=asked.app,
            task_id=wanted.task_id,
            callback_url=wanted.callback_url,
            events=events,
            context=_NO_CONTEXT if wanted.context is None else compact(wanted.context),
            created_at=now,
            deadline_at=now + seconds,
            timeout_seconds=seconds,
            header_names=tuple(wanted.headers),
        )
        options = options_text(events, wanted.context, seconds, wanted.headers, wanted.secret, credential)
        return NewWatch(
            watch=watch,
            credential=credential,
            task=watch_id.removeprefix(WATCH_ID_PREFIX),
            options=self._store.cipher.fingerprint("options", options),
            host=asked.target.host_key,
            sealed=self._sealed(watch_id, wanted),
            idempotency=wanted.idempotency,
            beyond_limit=asked.beyond_limit,
        )

    def _credential(self, wanted: WatchRequest) -> str:
        if wanted.api_key is None:
            return CONFIGURED
        return self._store.cipher.fingerprint("credential", wanted.api_key.encode()).hex()

    def _sealed(self, watch_id: str, wanted: WatchRequest) -> EncryptedFields:
        if not wanted.headers and wanted.secret is None and wanted.api_key is None:
            return _NOTHING_SEALED
        seal = self._store.cipher.seal
        return EncryptedFields(
            headers=seal(watch_id, json_text(wanted.headers)) if wanted.headers else None,
            secret=None if wanted.secret is None else seal(watch_id, wanted.secret),
            api_key=None if wanted.api_key is None else seal(watch_id, wanted.api_key),
        )

    def _hand_over(self, new: NewWatch, wanted: WatchRequest, found: RegisteredWatch) -> None:
        if found.task is not None:
            self._poll(found.task, wanted.api_key)
        if found.watch.id == new.watch.id:
            self._tell(found.watch)
            self._announce([found.watch.id])

    async def _taken(self, new: NewWatch, found: RegisteredWatch) -> RegistrationResult | BridgeError:
        """The watch as it is now; StoreUnavailable if that cannot be read: whoever asks again gets the same watch."""
        if found.watch.id == new.watch.id and found.task is not None:
            return RegistrationResult(_first_view(found.watch, found.task), found.created)
        try:
            return RegistrationResult(await self._store.watch(found.watch.id, new.watch.app), found.created)
        except (NotFound, StoreUnavailable) as error:  # not found: retention was quicker
            return error

    def _tell(self, watch: Watch) -> None:
        self._metrics.registered.inc()
        _log.event(
            "registered",
            watch_id=watch.id,
            task_id=watch.task_id,
            app=watch.app,
            callback_url=without_query(watch.callback_url),
        )


_NOTHING_SEALED = EncryptedFields()


def json_text(headers: Mapping[str, str]) -> str:
    """Headers as the text that is sealed."""
    return orjson.dumps(dict(headers)).decode()


def _first_view(watch: Watch, task: TaskRow) -> WatchView:
    """A watch just registered, without asking the store: it has no deliveries yet."""
    note = PollNote(task.polls, task.last_polled_at, None)
    return WatchView(watch, TaskView(task.id, None, task.snapshot, note))
