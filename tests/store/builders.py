"""Builders and shortcuts for the store's tests, and SQL that bypasses the store."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, text

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
from bridge.core.trace_context import TraceContext
from bridge.core.watch import Ending
from bridge.store.records import (
    CONFIGURED,
    AttemptResult,
    Changed,
    EncryptedFields,
    Idempotency,
    NewWatch,
    RegisteredWatch,
    Settlement,
    StatusChange,
    TaskView,
)
from bridge.store.store import Store

Item = TypeVar("Item")
Result = TypeVar("Result")

ALL_EVENTS = TERMINAL_EVENTS | frozenset(STATUS_EVENTS.values())
HOST = "app.example:443"
DONE = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://videos.example/1.mp4", "mp4")
RUNNING = TaskSnapshot(TaskStatus.IN_PROGRESS, 40)
QUEUED = TaskSnapshot(TaskStatus.QUEUED)
SERVER_ERROR = Problem("http_500", "the receiver answered 500")
DELIVERED: Verdict = Delivered()
DEAD: Verdict = Dead(SERVER_ERROR)

_numbers = count(1)


def new_watch(
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
    body: bytes | None = None,
    trace: TraceContext | None = None,
) -> NewWatch:
    """Returns a watch to register, by default different from all others. Its creation is `age` seconds ago."""
    number = next(_numbers) if number is None else number
    created_at, watch_id, encrypt = store.now() - age, f"wat_{number:08}", store.cipher.encrypt
    watch = Watch(
        id=watch_id,
        app=app,
        task_id=f"task_{number}" if task_id is None else task_id,
        callback_url=f"https://{host.removesuffix(':443')}/{number if path is None else path}",
        events=events,
        context=b'{"order":7}',
        created_at=created_at,
        deadline_at=created_at + timeout,
        timeout_seconds=timeout,
        header_names=tuple(headers or ()),
        body=body,
        trace=trace,
    )
    encrypted = EncryptedFields(
        headers=None if headers is None else encrypt(watch_id, orjson.dumps(headers).decode()),
        secret=None if secret is None else encrypt(watch_id, secret),
        api_key=None if api_key is None else encrypt(watch_id, api_key),
    )
    idempotency = None if key is None else Idempotency(*key)
    return NewWatch(watch, credential, f"tsk_{number:08}", options, host, encrypted, idempotency)


def repeat_of(new: NewWatch, **changes: Any) -> NewWatch:
    """Returns an equal registration with other ids, as another request makes it."""
    number = next(_numbers)
    return replace(new, watch=replace(new.watch, id=f"wat_{number:08}"), task=f"tsk_{number:08}", **changes)


async def register(store: Store, new: NewWatch) -> RegisteredWatch:
    """Register one watch. Raises its WatchConflict, IdempotencyConflict or TooManyWatches."""
    [result] = await store.register_all([new])
    if isinstance(result, BridgeError):
        raise result
    return result


async def register_watch(store: Store, **fields: Any) -> RegisteredWatch:
    """Register a new watch."""
    return await register(store, new_watch(store, **fields))


def polled_task(store: Store, task: str, snapshot: TaskSnapshot = RUNNING, polls: int = 1) -> TaskView:
    """Returns a task, given by its row id, whose last poll was made now."""
    now = store.now()
    return TaskView(task, "task_1", CONFIGURED, snapshot, polls, now, next_poll_at=now + 5.0)


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
    """Returns the result of a poll after which the watches end as `ending` says."""
    moment = store.now() if at is None else at

    def event(watch: Watch, how: Ending) -> Event:
        return terminal_event(watch, how, moment, None)

    return Settlement(polled_task(store, task, snapshot), moment, ending, event)


async def settle(
    store: Store, registered: RegisteredWatch, ending: Callable[[Watch], Ending | None] = completed, **options: Any
) -> Changed:
    """Settle a watch's task."""
    return await store.settle(settlement(store, registered.view.task.row, ending, **options))


def status_change(store: Store, task: str, snapshot: TaskSnapshot = RUNNING, *, polls: int = 1) -> StatusChange:
    """Returns the result of a poll that ends no watch."""
    at, event_type = store.now(), STATUS_EVENTS[snapshot.status]

    def event(watch: Watch) -> Event:
        return status_event(watch, event_type, snapshot, at)

    return StatusChange(polled_task(store, task, snapshot, polls), at, event_type, event)


async def record_status(
    store: Store, registered: RegisteredWatch, snapshot: TaskSnapshot = RUNNING, *, polls: int = 1
) -> Changed:
    """Record a task's status."""
    return await store.record_status(status_change(store, registered.view.task.row, snapshot, polls=polls))


async def claimed_delivery(store: Store, **fields: Any) -> PendingDelivery:
    """Register and complete a watch. Returns its delivery, which is claimed."""
    [one] = (await settle(store, await register_watch(store, **fields))).claimed
    return one


async def due_delivery(store: Store, **fields: Any) -> PendingDelivery:
    """Register and complete a watch whose delivery is due and unclaimed. Returns the delivery with its former claim."""
    one = await claimed_delivery(store, **fields)
    await store.release([one])
    return one


async def dead_delivery(store: Store, *, at: float | None = None, **fields: Any) -> PendingDelivery:
    """Register and complete a watch whose delivery is dead. Returns the delivery with its former claim."""
    one = await claimed_delivery(store, **fields)
    await record_attempt(store, attempt_result(store, one, DEAD, at=at))
    return one


def attempt_result(
    store: Store,
    one: PendingDelivery,
    verdict: Verdict = DELIVERED,
    *,
    at: float | None = None,
    host_failures: int | None = None,
) -> AttemptResult:
    """Returns the result of an attempt that ended now, or at `at`."""
    now = store.now() if at is None else at
    good = isinstance(verdict, Delivered)
    attempt = Attempt(now - 0.25, 0.25, 204 if good else 500, None if good else SERVER_ERROR, None if good else "oops")
    return AttemptResult(one.id, one.lease, attempt, verdict, one.host, now, host_failures)


async def record_attempt(store: Store, attempt: AttemptResult) -> Verdict:
    """Write one attempt; returns the verdict that was written. Raises LostClaim."""
    [result] = await store.record_attempts([attempt])
    if isinstance(result, BridgeError):
        raise result
    return result


def retry_at(at: float) -> Verdict:
    return RetryAt(at, SERVER_ERROR)


async def run_one(
    store: Store, operation: Callable[[Connection, Sequence[Item]], Sequence[Result | BridgeError]], item: Item
) -> Result:
    """Run a bulk operation for one item. Returns the item's result or raises its BridgeError."""
    [result] = await store._writer.run_all(operation, [item])
    if isinstance(result, BridgeError):
        raise result
    returned: Result = result
    return returned


def rows(store: Store, statement: str, **parameters: Any) -> list[Any]:
    """Read rows with SQL."""
    return list(store._database.read(lambda connection: connection.execute(text(statement), parameters).all()))


def execute(store: Store, statement: str, **parameters: Any) -> int:
    """Write with SQL, as another process would. Returns how many rows were changed."""
    return int(store._database.transaction(lambda connection: connection.execute(text(statement), parameters).rowcount))


def one_row(store: Store, statement: str, **parameters: Any) -> Any:
    """Read one row with SQL. Returns the row, or its value if it has one column."""
    [row] = rows(store, statement, **parameters)
    return row[0] if len(row) == 1 else row
