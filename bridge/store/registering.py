"""Registering: look for the same watch, open its task or join it, write the watch; many in one go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sqlalchemy import Boolean, Connection, Row, bindparam, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from bridge.core.errors import BridgeError, IdempotencyConflict, StoreUnavailable, TooManyWatches, WatchConflict
from bridge.core.model import STATUS_EVENTS, TaskStatus
from bridge.store import replicas
from bridge.store.records import NewWatch, Registered
from bridge.store.replicas import Replica
from bridge.store.rows import digest, task_row, watch_of
from bridge.store.schema import IS_ACTIVE, idempotency, tasks, watches

KEEP_KEYS_SECONDS = 86_400.0
_OPENED, _FOUND = 201, 200
_COUNT_FROM = 0.9  # of the limit: below it an estimate will do, above it every batch counts


class ActiveLimit:
    """How many watches may be active, and about how many are. For the writer's thread."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._about = most

    def room(self, connection: Connection, wanted: int) -> int:
        """How many more watches fit; exact near the limit."""
        if self._about + wanted > self.most * _COUNT_FROM:
            self._about = connection.execute(_COUNT_ACTIVE).scalar_one()
        return self.most - self._about

    def add(self, registered: int) -> None:
        """Count what was registered; what ends is seen at the next count."""
        self._about += registered


@dataclass(frozen=True, slots=True)
class Registration:
    """Watches that one caller registers together."""

    replica: Replica
    limit: ActiveLimit
    news: Sequence[NewWatch]


@dataclass(slots=True)
class _Case:
    """One watch on its way: what is known of it, and its result once there is one."""

    new: NewWatch
    replica: Replica
    endpoint: str = field(init=False)
    key: str = field(init=False)
    twin: "_Case | None" = None  # the case of the same batch that came with this key first
    result: Registered | BridgeError | None = None

    def __post_init__(self) -> None:
        watch = self.new.watch
        self.endpoint = digest(watch.app, watch.task_id, watch.callback_url)
        self.key = digest(self.new.credential, watch.task_id)


_COUNT_ACTIVE = select(func.count()).select_from(watches).where(IS_ACTIVE)
_ACTIVE = select(watches.c.id, watches.c.endpoint, watches.c.options, watches.c.task).where(
    IS_ACTIVE, watches.c.endpoint.in_(bindparam("those", expanding=True))
)
_OPEN = (
    select(tasks)
    .where(tasks.c.closed_at.is_(None), tasks.c.key.in_(bindparam("those", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
_OPEN_TASK = insert(tasks).on_conflict_do_nothing(index_elements=["key"], index_where=text("closed_at IS NULL"))
_WRITE_WATCH = insert(watches).on_conflict_do_nothing(index_elements=["endpoint"], index_where=text("state = 'active'"))
_MARK_TASK = (
    update(tasks)
    .where(tasks.c.id == bindparam("row"))
    .values(
        news=or_(tasks.c.news, bindparam("is_news", type_=Boolean)),
        wants_status=or_(tasks.c.wants_status, bindparam("wants", type_=Boolean)),
    )
)
_CLOSE_UNUSED = (
    update(tasks)
    .where(tasks.c.id.in_(bindparam("those", expanding=True)), tasks.c.closed_at.is_(None))
    .where(~select(watches.c.id).where(watches.c.task == tasks.c.id, IS_ACTIVE).exists())
    .values(closed_at=bindparam("at"))
)


def register(
    connection: Connection, works: Sequence[Registration]
) -> Sequence[Sequence[Registered | BridgeError] | BridgeError]:
    """Register what every caller brings; each watch has its own result."""
    cases = [[_Case(new, work.replica) for new in work.news] for work in works]
    flat = list(chain.from_iterable(cases))
    _take_keys(connection, flat)
    _find_existing(connection, _open_cases(flat))
    _apply_limit(connection, works[0].limit, _open_cases(flat))
    _write(connection, works[0].limit, _open_cases(flat))
    _keep_keys(connection, [case for case in flat if case.twin is None])
    return [[_result(case) for case in group] for group in cases]


def _open_cases(cases: Sequence[_Case]) -> list[_Case]:
    return [case for case in cases if case.result is None and case.twin is None]


def _result(case: _Case) -> Registered | BridgeError:
    if case.twin is not None:
        return _result(case.twin)
    return case.result or StoreUnavailable("the watch was neither found nor written")


# --- Idempotency-Key ----------------------------------------------------------------------------------------------

_KEY_OF = (idempotency.c.app == bindparam("an_app"), idempotency.c.key == bindparam("a_key"))
_DROP_OLD_KEY = delete(idempotency).where(*_KEY_OF, idempotency.c.created_at < bindparam("cutoff"))
_TAKE_KEY = insert(idempotency).on_conflict_do_nothing(index_elements=["app", "key"])
_FIND_KEY = select(idempotency).where(*_KEY_OF)
_SET_KEY = update(idempotency).where(*_KEY_OF).values(status=bindparam("answered"), watch_id=bindparam("a_watch"))
_DROP_KEY = delete(idempotency).where(*_KEY_OF)
_BY_ID = select(watches).where(watches.c.id == bindparam("an_id"))


def _name(case: _Case) -> dict[str, str]:
    held = case.new.idempotency
    return {"an_app": case.new.watch.app, "a_key": held.key if held else ""}


def _take_keys(connection: Connection, cases: Sequence[_Case]) -> None:
    """Take each key before anything else: a second caller, wherever it is, waits here until the first has ended."""
    keyed = [case for case in cases if case.new.idempotency is not None]
    firsts: dict[str, _Case] = {}
    for case in sorted(keyed, key=lambda case: tuple(_name(case).values())):
        held, watch = case.new.idempotency, case.new.watch
        if held is None:
            continue
        connection.execute(_DROP_OLD_KEY, _name(case) | {"cutoff": watch.created_at - KEEP_KEYS_SECONDS})
        row = {"app": watch.app, "key": held.key, "body": held.body, "status": 0, "watch_id": watch.id}
        connection.execute(_TAKE_KEY, row | {"created_at": watch.created_at})
        found = connection.execute(_FIND_KEY, _name(case)).one()
        firsts.setdefault(found.watch_id, case)
        if found.watch_id == watch.id:
            continue
        if bytes(found.body) != held.body:
            case.result = IdempotencyConflict("this Idempotency-Key was used with another body in the last 24 hours")
        elif found.status == 0:
            case.twin = firsts[found.watch_id]
        else:
            case.result = _answered_before(connection, found)


def _answered_before(connection: Connection, found: Row[Any]) -> Registered | None:
    row = connection.execute(_BY_ID, {"an_id": found.watch_id}).one_or_none()
    if row is None:  # retention is shorter than a day and has taken it: it counts as a new one
        return None
    return Registered(watch_of(row), created=found.status == _OPENED, task_row=row.task)


def _keep_keys(connection: Connection, cases: Sequence[_Case]) -> None:
    """Note what was answered; a refused registration gives its key back."""
    for case in cases:
        if case.new.idempotency is None:
            continue
        if isinstance(case.result, Registered):
            status = _OPENED if case.result.created else _FOUND
            found = connection.execute(_FIND_KEY, _name(case)).one_or_none()
            if found is not None and found.status == 0:
                answered = {"answered": status, "a_watch": case.result.watch.id}
                connection.execute(_SET_KEY, _name(case) | answered)
        elif not isinstance(case.result, IdempotencyConflict):
            connection.execute(_DROP_KEY, _name(case))


# --- the same watch, and room for another -------------------------------------------------------------------------


def _find_existing(connection: Connection, cases: Sequence[_Case]) -> None:
    """Answer those whose watch is there already: the same one, or one with other options."""
    if not cases:
        return
    found = connection.execute(_ACTIVE, {"those": sorted({case.endpoint for case in cases})})
    rows = {row.endpoint: row for row in found}
    for case in cases:
        row = rows.get(case.endpoint)
        if row is None:
            continue
        if row.id == case.new.watch.id:
            case.result = Registered(case.new.watch, created=True, task_row=row.task)
        elif bytes(row.options) == case.new.options:
            case.result = Registered(
                watch_of(connection.execute(_BY_ID, {"an_id": row.id}).one()), created=False, task_row=row.task
            )
        else:
            case.result = WatchConflict(row.id)


def _apply_limit(connection: Connection, limit: ActiveLimit, cases: Sequence[_Case]) -> None:
    room = limit.room(connection, len(cases)) if cases else 0
    for case in cases[max(room, 0) :]:
        case.result = TooManyWatches(f"{limit.most} watches are active, as many as this bridge is set to hold")


# --- writing ------------------------------------------------------------------------------------------------------


def _write(connection: Connection, limit: ActiveLimit, cases: Sequence[_Case]) -> None:
    """Open the tasks or lock them, then write the watches; whoever was quicker elsewhere has won."""
    if not cases:
        return
    opened = _open_tasks(connection, cases)
    connection.execute(_WRITE_WATCH, sorted((_watch_values(case, opened) for case in cases), key=lambda row: row["id"]))
    _find_existing(connection, cases)
    written = [case for case in cases if isinstance(case.result, Registered) and case.result.created]
    limit.add(len(written))
    if len(written) < len(cases):
        unused = {"those": sorted(opened[case.key].id for case in cases), "at": cases[0].new.watch.created_at}
        connection.execute(_CLOSE_UNUSED, unused)
    _tell_owners(connection, written, opened)


def _open_tasks(connection: Connection, cases: Sequence[_Case]) -> dict[str, Row[Any]]:
    """The open task of each case by its key, its row locked: settling waits until the watch is there."""
    replica = cases[0].replica
    held = replicas.holds(connection, replica)
    owner = replicas.lightest(connection, replica) if held else None
    wanted = {case.key: case for case in cases}
    opened: dict[str, Row[Any]] = {}
    # Again while a task is settled between our insert and our lock: it then closes, and another is opened.
    while missing := sorted(wanted.keys() - opened.keys(), key=lambda key: wanted[key].new.task):
        connection.execute(_OPEN_TASK, [_task_values(wanted[key], owner) for key in missing])
        opened |= {row.key: row for row in connection.execute(_OPEN, {"those": missing})}
    return opened


def _task_values(case: _Case, owner: str | None) -> dict[str, Any]:
    watch = case.new.watch
    return {
        "id": case.new.task,
        "key": case.key,
        "task_id": watch.task_id,
        "credential": case.new.credential,
        "status": TaskStatus.UNKNOWN,
        "polls": 0,
        "owner": owner,
        "news": False,
        "wants_status": False,
        "opened_at": watch.created_at,
    }


def _watch_values(case: _Case, opened: dict[str, Row[Any]]) -> dict[str, Any]:
    new, watch = case.new, case.new.watch
    return {
        "id": watch.id,
        "app": watch.app,
        "task": opened[case.key].id,
        "task_id": watch.task_id,
        "callback_url": watch.callback_url,
        "host": new.host,
        "endpoint": case.endpoint,
        "events": ",".join(sorted(watch.events)),
        "context": watch.context,
        "options": new.options,
        "state": watch.state,
        "created_at": watch.created_at,
        "deadline_at": watch.deadline_at,
        "timeout_seconds": watch.timeout_seconds,
        "header_names": ",".join(watch.header_names),
        "headers": new.sealed.headers,
        "secret": new.sealed.secret,
        "api_key": new.sealed.api_key,
    }


def _tell_owners(connection: Connection, written: Sequence[_Case], opened: dict[str, Row[Any]]) -> None:
    """Hand the tasks of this replica to its poller, and leave word for the owners of the others."""
    marks = []
    for case in written:
        row = opened[case.key]
        wants = not case.new.watch.events.isdisjoint(STATUS_EVENTS.values())
        ours = row.owner == case.replica.id
        # A task that another replica owns is news to it, whether it is new or has a new watch that wants its status.
        news = not ours and row.owner is not None and (row.id == case.new.task or wants)
        if wants or news:
            marks.append({"row": row.id, "is_news": news, "wants": wants})
        if ours:
            case.result = Registered(
                case.new.watch, created=True, task=task_row(row, sight_owed=wants), task_row=row.id
            )
    if marks:
        connection.execute(_MARK_TASK, sorted(marks, key=lambda mark: str(mark["row"])))
