"""Converts rows to records, and records to the values of columns."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import Row

from bridge.core.model import (
    NO_FACTS,
    STATUS_EVENTS,
    DeliveryState,
    Event,
    EventType,
    Outcome,
    PendingDelivery,
    Problem,
    TaskFacts,
    TaskSnapshot,
    TaskStatus,
    VideoMetadata,
    Watch,
    WatchState,
)
from bridge.core.snapshots import plain_snapshot
from bridge.core.trace_context import TraceContext
from bridge.store.encryption import Cipher
from bridge.store.records import DeliveryView, TaskView

# A call of an enum takes 0.4 µs, a look-up in a dictionary 0.05 µs; a row has up to six such values.
_STATES: Mapping[str, WatchState] = {state.value: state for state in WatchState}
_OUTCOMES: Mapping[str | None, Outcome | None] = {None: None} | {outcome.value: outcome for outcome in Outcome}

SUPERSEDED = Problem("superseded", "the watch became final before this event was delivered")


def digest(*parts: str) -> str:
    """Returns a hash of some texts, 32 characters long, as the key of a row."""
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def problem_text(problem: Problem | None) -> str | None:
    """Returns a problem as it is stored: JSON, an array of its code and message."""
    return None if problem is None else orjson.dumps([problem.code, problem.message]).decode()


def problem_of(text: str | None) -> Problem | None:
    """Returns the problem in a stored text; see `problem_text`."""
    return None if text is None else Problem(*orjson.loads(text))


def watch_of(row: Row[Any]) -> Watch:
    """Returns the watch in a row of `watches`."""
    return Watch(
        id=row.id,
        app=row.app,
        task_id=row.task_id,
        callback_url=row.callback_url,
        events=events_of(row.events),
        context=row.context,
        created_at=row.created_at,
        deadline_at=row.deadline_at,
        timeout_seconds=row.timeout_seconds,
        state=_STATES[row.state],
        outcome=_OUTCOMES[row.outcome],
        settled_at=None if row.outcome is None else row.ended_at,
        header_names=tuple(row.header_names.split(",")) if row.header_names else (),
        model=row.model,
        body=row.body,
        trace=trace_of(row),
    )


def trace_of(row: Row[Any]) -> TraceContext | None:
    """Returns the trace in a row of `watches`."""
    return None if row.traceparent is None else TraceContext(row.traceparent, row.tracestate)


@lru_cache(maxsize=64)  # there are 63 sets of six types
def events_of(text: str) -> frozenset[EventType]:
    """Returns the event types in a stored list."""
    return frozenset(map(EventType, text.split(",")))


@lru_cache(maxsize=64)
def events_text(events: frozenset[EventType]) -> str:
    """Event types as they are stored: comma-separated and sorted."""
    return ",".join(sorted(events))


@lru_cache(maxsize=64)
def wants_status(events: frozenset[EventType]) -> bool:
    """Whether a watch with these events asked for status events."""
    return not events.isdisjoint(STATUS_EVENTS.values())


SNAPSHOT = ("status", "progress", "url", "format", "metadata", "error")
POLLS = ("polls", "last_polled_at", "next_poll_at", "poll_error")
FACTS = ("task_model", "submitted_at", "finished_at", "seen_at", "task_class")


def snapshot_values(snapshot: TaskSnapshot) -> tuple[Any, ...]:
    """Returns the values of the columns in SNAPSHOT."""
    metadata = None if snapshot.metadata is None else orjson.dumps(asdict(snapshot.metadata)).decode()
    error = problem_text(snapshot.error)
    return snapshot.status.value, snapshot.progress, snapshot.url, snapshot.format, metadata, error


def poll_values(task: TaskView, *, last: bool) -> tuple[Any, ...]:
    """Returns the values of the columns in POLLS. With `last` there is no next poll."""
    error = task.last_error
    error_text = None if error is None else orjson.dumps([error.code, error.message, task.last_error_at]).decode()
    return task.polls, task.last_polled_at, None if last else task.next_poll_at, error_text


def facts_values(facts: TaskFacts) -> tuple[Any, ...]:
    """Returns the values of the columns in FACTS."""
    return facts.model, facts.submitted_at, facts.finished_at, facts.seen_at, facts.task_class


@lru_cache(maxsize=8192)  # tasks of one model that were submitted in the same second have equal facts, in near rows
def facts_from(*values: Any) -> TaskFacts:
    """Returns the facts of the columns in FACTS. All tasks without facts share one object."""
    return NO_FACTS if values == _NO_VALUES else TaskFacts(*values)


_NO_VALUES = (None,) * len(FACTS)


def facts_of(row: Row[Any]) -> TaskFacts:
    """Returns the facts in a row of `tasks`."""
    return facts_from(row.task_model, row.submitted_at, row.finished_at, row.seen_at, row.task_class)


def snapshot_of(row: Row[Any]) -> TaskSnapshot:
    """Returns the snapshot in a row of `tasks`."""
    return snapshot_from(row.status, row.progress, row.url, row.format, row.metadata, row.error)


def snapshot_from(  # noqa: PLR0913, PLR0917  a snapshot's columns
    status: str, progress: int | None, url: str | None, container: str | None, metadata: str | None, error: str | None
) -> TaskSnapshot:
    """Returns the snapshot of these columns."""
    if url is None and container is None and metadata is None and error is None:
        return plain_snapshot(status, progress)
    read = None if metadata is None else VideoMetadata(**orjson.loads(metadata))
    return TaskSnapshot(TaskStatus(status), progress, url, container, read, problem_of(error))


def task_view(row: Row[Any], row_id: str) -> TaskView:
    """Returns the task in a row of `tasks`, or of a watch with its task."""
    code, message, at = (None, None, None) if row.poll_error is None else orjson.loads(row.poll_error)
    return TaskView(
        row_id,
        row.task_id,
        row.credential,
        snapshot_of(row),
        row.polls,
        row.last_polled_at,
        opened_at=row.opened_at,
        facts=facts_of(row),
        owner=row.owner,
        closed=row.closed_at is not None,
        next_poll_at=row.next_poll_at,
        last_error=None if row.poll_error is None else Problem(code, message),
        last_error_at=at,
    )


def delivery_view(row: Row[Any], app: str) -> DeliveryView:
    """Returns the delivery in a row of `deliveries`."""
    return DeliveryView(
        id=row.id,
        watch_id=row.watch_id,
        app=app,
        type=row.type,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        dead_at=row.dead_at,
        last_error=problem_of(row.error),
    )


def pending_delivery(  # noqa: PLR0913, PLR0917  its parts
    row: Row[Any],
    event: Event,
    lease: str,
    attempts: tuple[int, int],
    cipher: Cipher,
    claimed_by: tuple[str, int],
) -> PendingDelivery:
    """Returns a claimed delivery, made from its event and the row of its watch. Secrets of the row are decrypted.

    `attempts` are two counts: the attempts since the last requested retry, and all attempts. Raises BadSetting if a
    secret does not decrypt.
    """
    return PendingDelivery(
        id=event.id,
        watch_id=event.watch_id,
        app=row.app,
        type=event.type,
        callback_url=row.callback_url,
        host=row.host,
        payload=event.sent,
        lease=lease,
        round_attempts=attempts[0],
        attempts=attempts[1],
        created_at=event.created_at,
        headers={} if row.headers is None else orjson.loads(cipher.decrypt(event.watch_id, row.headers)),
        secret=None if row.secret is None else cipher.decrypt(event.watch_id, row.secret),
        trace=trace_of(row),
        claimed_by=claimed_by,
    )
