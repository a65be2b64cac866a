"""Registering: look for the same watch, open its task or join it, write the watch; many in one go."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Row,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from bridge.core.errors import BridgeError, IdempotencyConflict, StoreUnavailable, TooManyWatches, WatchConflict
from bridge.core.model import TaskStatus
from bridge.store import replicas
from bridge.store.bulk_statements import inserting
from bridge.store.records import NewWatch, RegisteredWatch, TaskRow
from bridge.store.replicas import Replica
from bridge.store.row_mapping import digest, events_text, task_row, wants_status, watch_of
from bridge.store.schema import IS_ACTIVE, idempotency, tasks, watches

KEEP_KEYS_SECONDS = 86_400.0
_OPENED, _FOUND = 201, 200
_UNKNOWN = TaskStatus.UNKNOWN.value
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

    def refusal(self) -> TooManyWatches:
        """What a watch too many is told."""
        return TooManyWatches(f"{self.most} watches are active, as many as this bridge is set to hold")

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
    key: str = field(init=False)  # its task's
    twin: "_Case | None" = None  # the case of the same batch that came with this Idempotency-Key first
    result: RegisteredWatch | BridgeError | None = None

    def __post_init__(self) -> None:
        watch = self.new.watch
        self.endpoint = digest(watch.app, watch.task_id, watch.callback_url)
        self.key = digest(self.new.credential, watch.task_id)


@dataclass(frozen=True, slots=True)
class _Open:
    """An open task, its row locked; `fresh`: this transaction made it."""

    row: TaskRow
    owner: str | None
    fresh: bool


def register(
    connection: Connection, works: Sequence[Registration]
) -> Sequence[Sequence[RegisteredWatch | BridgeError] | BridgeError]:
    """Register what every caller brings; each watch has its own result."""
    cases = [[_Case(new, work.replica) for new in work.news] for work in works]
    flat = list(chain.from_iterable(cases))
    limit = works[0].limit
    keyed = _take_keys(connection, [case for case in flat if case.new.idempotency is not None])
    _answer_found(connection, _unanswered(flat))
    _apply_limit(connection, limit, _unanswered(flat))
    _write(connection, limit, _unanswered(flat))
    _keep_keys(connection, keyed)
    return [[_result(case) for case in group] for group in cases]


def _unanswered(cases: Iterable[_Case]) -> list[_Case]:
    return [case for case in cases if case.result is None and case.twin is None]


def _result(case: _Case) -> RegisteredWatch | BridgeError:
    if case.twin is not None:
        return _result(case.twin)
    return case.result or StoreUnavailable("the watch was neither found nor written")


# --- Idempotency-Key ----------------------------------------------------------------------------------------------

_KEY_OF = (idempotency.c.app == bindparam("an_app"), idempotency.c.key == bindparam("a_key"))
# A key's watch may be gone before the key: retention can be set to less than a day.
_DROP_OLD_KEY = delete(idempotency).where(
    *_KEY_OF,
    or_(
        idempotency.c.created_at < bindparam("cutoff"),
        ~exists().where(watches.c.id == idempotency.c.watch_id),
    ),
)
_TAKE_KEY = insert(idempotency).on_conflict_do_nothing(index_elements=["app", "key"])
_FIND_KEYS = select(idempotency).where(
    tuple_(idempotency.c.app, idempotency.c.key).in_(bindparam("names", expanding=True))
)
_SET_KEY = update(idempotency).where(*_KEY_OF).values(status=bindparam("answered"), watch_id=bindparam("a_watch"))
_DROP_KEY = delete(idempotency).where(*_KEY_OF)
_BY_ID = select(watches).where(watches.c.id == bindparam("an_id"))


def _name(case: _Case) -> tuple[str, str]:
    held = case.new.idempotency
    return case.new.watch.app, held.key if held is not None else ""


def _named(case: _Case) -> dict[str, Any]:
    app, key = _name(case)
    return {"an_app": app, "a_key": key}


def _take_keys(connection: Connection, cases: Sequence[_Case]) -> list[_Case]:
    """Take each key before anything else: a second caller, wherever it is, waits here until the first has ended.

    The cases whose key is theirs now; the others are answered, or have a twin that will be.
    """
    if not cases:
        return []
    groups: dict[tuple[str, str], list[_Case]] = defaultdict(list)
    for case in cases:
        groups[_name(case)].append(case)
    names = sorted(groups)
    firsts = [groups[name][0] for name in names]
    connection.execute(
        _DROP_OLD_KEY, [_named(case) | {"cutoff": case.new.watch.created_at - KEEP_KEYS_SECONDS} for case in firsts]
    )
    connection.execute(_TAKE_KEY, [_key_values(case) for case in firsts])
    held = {(row.app, row.key): row for row in connection.execute(_FIND_KEYS, {"names": names})}
    return [case for name, group in groups.items() for case in group if _has_key(connection, case, group, held[name])]


def _key_values(case: _Case) -> dict[str, Any]:
    held, watch = case.new.idempotency, case.new.watch
    body = held.body if held is not None else b""
    app, key = _name(case)
    return {"app": app, "key": key, "body": body, "status": 0, "watch_id": watch.id, "created_at": watch.created_at}


def _has_key(connection: Connection, case: _Case, group: Sequence[_Case], held: Row[Any]) -> bool:
    """Whether the key is this case's own; if not, see to its answer."""
    if held.watch_id == case.new.watch.id:
        return True
    if case.new.idempotency is not None and held.body != case.new.idempotency.body:
        case.result = IdempotencyConflict("this Idempotency-Key was used with another body in the last 24 hours")
    elif held.status == 0:
        case.twin = group[0]
    else:
        row = connection.execute(_BY_ID, {"an_id": held.watch_id}).one()
        case.result = RegisteredWatch(watch_of(row), created=held.status == _OPENED, task_row=row.task)
    return False


def _keep_keys(connection: Connection, cases: Sequence[_Case]) -> None:
    """Note what was answered; a refused registration gives its key back."""
    answered: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for case in sorted(cases, key=_name):
        if isinstance(case.result, RegisteredWatch):
            status = _OPENED if case.result.created else _FOUND
            answered.append(_named(case) | {"answered": status, "a_watch": case.result.watch.id})
        else:
            refused.append(_named(case))
    if answered:
        connection.execute(_SET_KEY, answered)
    if refused:
        connection.execute(_DROP_KEY, refused)


# --- the same watch, and room for another -------------------------------------------------------------------------

_COUNT_ACTIVE = select(func.count()).select_from(watches).where(IS_ACTIVE)
_ACTIVE = select(watches.c.id, watches.c.endpoint, watches.c.options, watches.c.task).where(
    IS_ACTIVE, watches.c.endpoint.in_(bindparam("those", expanding=True))
)


def _answer_found(connection: Connection, cases: Sequence[_Case]) -> list[_Case]:
    """Answer those whose watch is there already: the same one, or one with other options.

    Those whose very row is there: by this transaction, or by one whose commit was not heard of.
    """
    if not cases:
        return []
    found = connection.execute(_ACTIVE, {"those": sorted({case.endpoint for case in cases})})
    rows = {row.endpoint: row for row in found}
    there = []
    for case in cases:
        row = rows.get(case.endpoint)
        if row is None:
            continue
        if row.id == case.new.watch.id:
            there.append(case)
        elif row.options == case.new.options:
            watch = watch_of(connection.execute(_BY_ID, {"an_id": row.id}).one())
            case.result = RegisteredWatch(watch, created=False, task_row=row.task)
        else:
            case.result = WatchConflict(row.id)
    return there


def _apply_limit(connection: Connection, limit: ActiveLimit, cases: Sequence[_Case]) -> None:
    counted = [case for case in cases if not case.new.beyond_limit]
    room = limit.room(connection, len(cases)) - (len(cases) - len(counted)) if counted else 0
    for case in counted[max(room, 0) :]:
        case.result = limit.refusal()


def check_room(connection: Connection, works: Sequence[tuple[ActiveLimit, int]]) -> Sequence[TooManyWatches | None]:
    """See for each caller whether so many more watches fit."""
    return [limit.refusal() if limit.room(connection, wanted) < wanted else None for limit, wanted in works]


# --- writing ------------------------------------------------------------------------------------------------------

_OPEN = (
    select(tasks)
    .where(tasks.c.closed_at.is_(None), tasks.c.key.in_(bindparam("those", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
_OPEN_TASKS = inserting(
    tasks,
    ("id", "key", "task_id", "credential", "status", "polls", "owner", "news", "wants_status", "opened_at"),
    lambda opening: opening.on_conflict_do_nothing(index_elements=["key"], index_where=text("closed_at IS NULL")),
)
_WRITE_WATCHES = inserting(
    watches,
    (
        *("id", "app", "task", "task_id", "callback_url", "host", "endpoint", "events", "context", "options", "state"),
        *("created_at", "deadline_at", "timeout_seconds", "header_names", "headers", "secret", "api_key"),
    ),
    lambda writing: writing.on_conflict_do_nothing(),
)
_MARK_TASK = (
    update(tasks)
    .where(tasks.c.id == bindparam("row"))
    .values(
        news=or_(tasks.c.news, bindparam("is_news", type_=Boolean)),
        wants_status=or_(tasks.c.wants_status, bindparam("wants", type_=Boolean)),
    )
)
_DROP_UNUSED = delete(tasks).where(
    tasks.c.id.in_(bindparam("those", expanding=True)), ~exists().where(watches.c.task == tasks.c.id)
)


def _write(connection: Connection, limit: ActiveLimit, cases: Sequence[_Case]) -> None:
    """Open the tasks or lock them, then write the watches; whoever was quicker elsewhere has won."""
    if not cases:
        return
    opened = _open_tasks(connection, cases)
    in_order = sorted(cases, key=lambda case: case.endpoint)
    inserted = _WRITE_WATCHES.execute(connection, [_watch_values(case, opened[case.key].row) for case in in_order])
    limit.add(inserted)
    written: Sequence[_Case] = cases
    if inserted < len(cases):
        written = _answer_found(connection, cases)
        connection.execute(_DROP_UNUSED, {"those": sorted(one.row.id for one in opened.values() if one.fresh)})
    for case in written:
        case.result = _registered(case, opened[case.key])
    _tell_owners(connection, written, opened)


def _open_tasks(connection: Connection, cases: Sequence[_Case]) -> dict[str, _Open]:
    """The open task of each case by its key, its row locked: settling waits until the watch is there."""
    replica = cases[0].replica
    owner = replicas.owner_of_new(connection, replica)
    wanted: dict[str, list[_Case]] = defaultdict(list)
    for case in cases:
        wanted[case.key].append(case)
    opened: dict[str, _Open] = {}
    # Again while a task is settled between our insert and our lock: it then closes, and another is opened.
    while missing := sorted(wanted.keys() - opened.keys()):
        firsts = {key: wanted[key][0].new for key in missing}
        made = _OPEN_TASKS.execute(connection, [_task_values(key, wanted[key], owner) for key in missing])
        if made == len(missing):
            fresh = {key: TaskRow(new.task, new.watch.task_id, new.credential) for key, new in firsts.items()}
            return opened | {key: _Open(row, owner, fresh=True) for key, row in fresh.items()}
        for row in connection.execute(_OPEN, {"those": missing}):
            opened[row.key] = _Open(task_row(row, sight_owed=False), row.owner, row.id == firsts[row.key].task)
    return opened


def _task_values(key: str, cases: Sequence[_Case], owner: str | None) -> tuple[Any, ...]:
    new, replica = cases[0].new, cases[0].replica
    news = owner not in {None, replica.id}
    wanted = any(wants_status(case.new.watch.events) for case in cases)
    watch = new.watch
    return new.task, key, watch.task_id, new.credential, _UNKNOWN, 0, owner, news, wanted, watch.created_at


def _watch_values(case: _Case, task: TaskRow) -> tuple[Any, ...]:
    new, watch = case.new, case.new.watch
    sealed = new.sealed
    return (
        *(watch.id, watch.app, task.id, watch.task_id, watch.callback_url, new.host, case.endpoint),
        *(events_text(watch.events), watch.context, new.options, watch.state.value),
        *(watch.created_at, watch.deadline_at, watch.timeout_seconds, ",".join(watch.header_names)),
        *(sealed.headers, sealed.secret, sealed.api_key),
    )


def _registered(case: _Case, opened: _Open) -> RegisteredWatch:
    row = replace(opened.row, sight_owed=True) if wants_status(case.new.watch.events) else opened.row
    task = row if opened.owner == case.replica.id else None
    return RegisteredWatch(case.new.watch, created=True, task=task, task_row=row.id)


def _tell_owners(connection: Connection, written: Sequence[_Case], opened: Mapping[str, _Open]) -> None:
    """Leave word on tasks that were there before: somebody wants their status, which is news to another owner."""
    marks = [
        {"row": one.row.id, "is_news": one.owner not in {None, case.replica.id}, "wants": True}
        for case in written
        if not (one := opened[case.key]).fresh and wants_status(case.new.watch.events)
    ]
    if marks:
        connection.execute(_MARK_TASK, sorted(marks, key=lambda mark: str(mark["row"])))
