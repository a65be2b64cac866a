"""What tests of the store do again and again, in short words; and a look behind the store's back."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import orjson
from sqlalchemy import text

from bridge.core.delivery import Dead, Delivered, RetryAt, Verdict
from bridge.core.errors import BridgeError
from bridge.core.event import status_event, terminal_event
from bridge.core.model import (
    STATUS_EVENTS,
    TERMINAL_EVENTS,
    Attempt,
    Event,
    EventType,
    Outcome,
    PendingDelivery,
    Problem,
    TaskSnapshot,
    TaskStatus,
    Watch,
)
from bridge.core.watch import Ending
from bridge.store.records import (
    CONFIGURED,
    AttemptResult,
    Changed,
    EncryptedFields,
    Idempotency,
    NewWatch,
    PollNote,
    RegisteredWatch,
    Settlement,
    StatusChange,
)
from bridge.store.store import Store

ALL_EVENTS = TERMINAL_EVENTS | frozenset(STATUS_EVENTS.values())
HOST = "app.example:443"
DONE = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://videos.example/1.mp4", "mp4")
RUNNING = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
QUEUED = TaskSnapshot(TaskStatus.QUEUED)
TROUBLE = Problem("http_500", "the receiver answered 500")
DELIVERED: Verdict = Delivered()
DEAD: Verdict = Dead(TROUBLE)

_numbers = count(1)


def new_watch(  # a registration's parts
    store: Store,
    *,
    number: int | None = None,
    app: str = "app",
    task_id: str | None = None,
    path: str | None = None,
    host: str = HOST,
    events: frozenset[EventType] = TERMINAL_EVENTS,
    timeout: float = 3_600.0,
    age: float = 0.0,
    credential: str = CONFIGURED,
    options: bytes = b"options",
    key: tuple[str, bytes] | None = None,
    headers: dict[str, str] | None = None,
    secret: str | None = None,
    api_key: str | None = None,
) -> NewWatch:
    """A watch to register, unlike every other one unless told; `age` sets when it was registered, seconds ago."""
    number = next(_numbers) if number is None else number
    began, watch_id, seal = store.now() - age, f"wat_{number:08}", store.cipher.seal
    watch = Watch(
        id=watch_id,
        app=app,
        task_id=f"task_{number}" if task_id is None else task_id,
        callback_url=f"https://{host.removesuffix(':443')}/{number if path is None else path}",
        events=events,
        context=b'{"order":7}',
        created_at=began,
        deadline_at=began + timeout,
        timeout_seconds=timeout,
        header_names=tuple(headers or ()),
    )
    sealed = EncryptedFields(
        headers=None if headers is None else seal(watch_id, orjson.dumps(headers).decode()),
        secret=None if secret is None else seal(watch_id, secret),
        api_key=None if api_key is None else seal(watch_id, api_key),
    )
    idempotency = None if key is None else Idempotency(*key)
    return NewWatch(watch, credential, f"tsk_{number:08}", options, host, sealed, idempotency)


def again(new: NewWatch, **changes: Any) -> NewWatch:
    """The same registration once more, as another request: under ids of its own."""
    number = next(_numbers)
    return replace(new, watch=replace(new.watch, id=f"wat_{number:08}"), task=f"tsk_{number:08}", **changes)


async def watched(store: Store, **wanted: Any) -> RegisteredWatch:
    """Register a watch."""
    return await store.register(new_watch(store, **wanted))


def note(store: Store, polls: int = 1) -> PollNote:
    """What a poll just now leaves behind."""
    now = store.now()
    return PollNote(polls, now, now + 5.0)


def completed(watch: Watch) -> Ending | None:
    return Ending(Outcome.COMPLETED, DONE)


def failed(watch: Watch) -> Ending | None:
    error = Problem("content_policy", "no")
    return Ending(Outcome.FAILED, TaskSnapshot(TaskStatus.FAILED, error=error), error)


def timed_out(watch: Watch) -> Ending | None:
    return Ending(Outcome.TIMED_OUT, RUNNING, Problem("watch_timed_out", "late"))


def unavailable(watch: Watch) -> Ending | None:
    return Ending(Outcome.UNAVAILABLE, TaskSnapshot(), Problem("task_not_found", "no such task"))


def settlement(
    store: Store,
    task: str,
    ending: Callable[[Watch], Ending | None] = completed,
    *,
    snapshot: TaskSnapshot = DONE,
    at: float | None = None,
) -> Settlement:
    """A poll's result that ends what `ending` says."""
    moment = store.now() if at is None else at

    def event(watch: Watch, how: Ending) -> Event:
        return terminal_event(watch, how, moment, None)

    return Settlement(task, snapshot, note(store), moment, ending, event)


async def settled(
    store: Store, registered: RegisteredWatch, ending: Callable[[Watch], Ending | None] = completed, **told: Any
) -> Changed:
    """Settle a watch's task."""
    return await store.settle(settlement(store, registered.task_row, ending, **told))


def status_change(store: Store, task: str, snapshot: TaskSnapshot = RUNNING, *, polls: int = 1) -> StatusChange:
    """A poll's result that ends nothing."""
    at, event_type = store.now(), STATUS_EVENTS[snapshot.status]

    def event(watch: Watch) -> Event:
        return status_event(watch, event_type, snapshot, at)

    return StatusChange(task, snapshot, note(store, polls), at, event_type, event)


async def sighted(
    store: Store, registered: RegisteredWatch, snapshot: TaskSnapshot = RUNNING, *, polls: int = 1
) -> Changed:
    """Record a task's status."""
    return await store.record_status(status_change(store, registered.task_row, snapshot, polls=polls))


async def owed(store: Store, **wanted: Any) -> PendingDelivery:
    """A delivery of a completed watch, claimed."""
    [one] = (await settled(store, await watched(store, **wanted))).owed
    return one


async def due(store: Store, **wanted: Any) -> PendingDelivery:
    """A delivery of a completed watch, due and unclaimed; as it was when it was claimed."""
    one = await owed(store, **wanted)
    await store.release([one])
    return one


async def dead(store: Store, *, at: float | None = None, **wanted: Any) -> PendingDelivery:
    """A delivery that was given up."""
    one = await owed(store, **wanted)
    await recorded(store, tried(store, one, DEAD, at=at))
    return one


def tried(  # an attempt's parts
    store: Store,
    one: PendingDelivery,
    verdict: Verdict = DELIVERED,
    *,
    at: float | None = None,
    host_failures: int | None = None,
) -> AttemptResult:
    """An attempt that just ended."""
    now = store.now() if at is None else at
    good = isinstance(verdict, Delivered)
    attempt = Attempt(now - 0.25, 0.25, 204 if good else 500, None if good else TROUBLE, None if good else "oops")
    return AttemptResult(one.id, one.lease, attempt, verdict, one.host, now, host_failures, one.round_attempts)


async def recorded(store: Store, given: AttemptResult) -> Verdict:
    """Write one attempt; the verdict that was written. Raises what the store says of it."""
    [result] = await store.record_attempts([given])
    if isinstance(result, BridgeError):
        raise result
    return result


def retry_at(at: float) -> Verdict:
    return RetryAt(at, TROUBLE)


def rows(store: Store, statement: str, **given: Any) -> list[Any]:
    """Read behind the store's back."""
    return list(store._database.read(lambda connection: connection.execute(text(statement), given).all()))


def change(store: Store, statement: str, **given: Any) -> int:
    """Write behind the store's back, as another process would; how many rows."""
    return int(store._database.transaction(lambda connection: connection.execute(text(statement), given).rowcount))


def one_row(store: Store, statement: str, **given: Any) -> Any:
    """The one row, or its one column."""
    [row] = rows(store, statement, **given)
    return row[0] if len(row) == 1 else row
