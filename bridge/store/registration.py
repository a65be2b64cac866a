"""Registration of many watches at once: find equal watches, open the tasks or use open ones, write the watches."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import (
    Boolean,
    Connection,
    Row,
    bindparam,
    delete,
    exists,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from bridge.core.errors import BridgeError, IdempotencyConflict, NotFound, StoreUnavailable, WatchConflict
from bridge.core.model import NO_FACTS, TaskFacts, TaskStatus
from bridge.core.task_class import class_by_app
from bridge.store import queries, replicas
from bridge.store.active_limit import ActiveLimit
from bridge.store.bulk_statements import BulkQuery, inserting
from bridge.store.records import NewWatch, RegisteredWatch, TaskView, WatchView
from bridge.store.replicas import Replica
from bridge.store.row_mapping import digest, events_text, task_view, wants_status
from bridge.store.schema import IS_ACTIVE, idempotency, tasks, watches

IDEMPOTENCY_SECONDS = 86_400.0  # an Idempotency-Key is kept for 24 h
_CREATED, _FOUND = 201, 200
_NOT_ANSWERED = 0  # the status of an Idempotency-Key until its registration has a result
_UNKNOWN = TaskStatus.UNKNOWN.value


@dataclass(slots=True)
class _Entry:
    """One watch during its registration. It is decided as soon as `result`, `key_owner` or `existing` is set.

    `key_owner` is the first entry of the same batch with the same Idempotency-Key; this entry gets the same result.
    `existing` is the id of a watch that exists already and is read for the result. `created` is whether the first
    answer with this Idempotency-Key was 201.
    """

    new: NewWatch
    replica: Replica
    endpoint: str = field(init=False)  # a digest of the app, the task id and the URL
    task_key: str = field(init=False)  # a digest of the credential and the task id
    wants_status: bool = field(init=False)
    task_class: str | None = field(init=False)
    key_owner: "_Entry | None" = None
    existing: str | None = None
    created: bool = False
    result: RegisteredWatch | BridgeError | None = None

    def __post_init__(self) -> None:
        watch = self.new.watch
        self.endpoint = digest(watch.app, watch.task_id, watch.callback_url)
        self.task_key = digest(self.new.credential, watch.task_id)
        self.wants_status = wants_status(watch.events)
        self.task_class = None if watch.model is None else class_by_app(watch.model)


def register(
    connection: Connection, items: Sequence[NewWatch], replica: Replica, limit: ActiveLimit
) -> Sequence[RegisteredWatch | BridgeError]:
    """Register watches; returns a result or an error for each.

    The errors are WatchConflict, IdempotencyConflict, TooManyWatches, NotFound and (never expected) StoreUnavailable.
    """
    entries = [_Entry(new, replica) for new in items]
    if keyed := [entry for entry in entries if entry.new.idempotency is not None]:
        keyed = _claim_idempotency_keys(connection, keyed)
    _answer_existing(connection, _unanswered(entries))
    if limit.per_app:
        _apply_app_limit(connection, limit, _unanswered(entries))
    _apply_limit(connection, limit, _unanswered(entries))
    if unanswered := _unanswered(entries):
        _write(connection, limit, unanswered)
    if existing := [entry for entry in entries if entry.existing is not None]:
        _read_existing(connection, existing)
    if keyed:
        _update_idempotency_keys(connection, keyed)
    return [
        (entry.key_owner or entry).result or StoreUnavailable("the watch was neither found nor written")
        for entry in entries
    ]


def _unanswered(entries: Iterable[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.result is None and entry.existing is None and entry.key_owner is None]


def _read_existing(connection: Connection, entries: Iterable[_Entry]) -> None:
    """Set the results of entries whose watches exist already, with one query."""
    found = queries.several_watches(connection, [entry.existing or "" for entry in entries])
    for entry in entries:
        view = found.get(entry.existing or "")
        # Retention may have deleted the watch a moment ago.
        entry.result = NotFound("there is no such watch") if view is None else RegisteredWatch(view, entry.created)


def without_task(result: RegisteredWatch | BridgeError) -> RegisteredWatch | BridgeError:
    """Returns a result without its task, because this replica has rejoined under another id and does not poll it."""
    return replace(result, task=None) if isinstance(result, RegisteredWatch) else result


# --- Idempotency-Key ----------------------------------------------------------------------------------------------

_BY_NAME = (idempotency.c.app == bindparam("an_app"), idempotency.c.key == bindparam("a_key"))
# The watch of a key may be deleted before the key: retention can be less than a day.
_DELETE_OLD_KEY = delete(idempotency).where(
    *_BY_NAME,
    or_(
        idempotency.c.created_at < bindparam("cutoff"),
        ~exists().where(watches.c.id == idempotency.c.watch_id),
    ),
)
_INSERT_KEY = insert(idempotency).on_conflict_do_nothing(index_elements=["app", "key"])
_FIND_KEYS = select(idempotency).where(
    tuple_(idempotency.c.app, idempotency.c.key).in_(bindparam("names", expanding=True))
)
_UPDATE_KEY = update(idempotency).where(*_BY_NAME).values(status=bindparam("answered"), watch_id=bindparam("a_watch"))
_DELETE_KEY = delete(idempotency).where(*_BY_NAME)


def _idempotency_name(entry: _Entry) -> tuple[str, str]:
    key = entry.new.idempotency
    return entry.new.watch.app, "" if key is None else key.key


def _idempotency_parameters(entry: _Entry) -> dict[str, Any]:
    app, key = _idempotency_name(entry)
    return {"an_app": app, "a_key": key}


def _claim_idempotency_keys(connection: Connection, entries: Sequence[_Entry]) -> list[_Entry]:
    """Insert each Idempotency-Key first, so that another caller with the same key waits here for our commit.

    Returns the entries that own their key. For the others this sets `result`, `key_owner` or `existing`.
    """
    groups: dict[tuple[str, str], list[_Entry]] = defaultdict(list)
    for entry in entries:
        groups[_idempotency_name(entry)].append(entry)
    names = sorted(groups)
    firsts = [groups[name][0] for name in names]
    connection.execute(
        _DELETE_OLD_KEY,
        [
            _idempotency_parameters(entry) | {"cutoff": entry.new.watch.created_at - IDEMPOTENCY_SECONDS}
            for entry in firsts
        ],
    )
    connection.execute(_INSERT_KEY, [_idempotency_values(entry) for entry in firsts])
    rows = {(row.app, row.key): row for row in connection.execute(_FIND_KEYS, {"names": names})}
    return [
        entry for name, group in groups.items() for entry in group if _claim_idempotency_key(entry, group, rows[name])
    ]


def _idempotency_values(entry: _Entry) -> dict[str, Any]:
    watch = entry.new.watch
    body = b"" if entry.new.idempotency is None else entry.new.idempotency.body
    app, key = _idempotency_name(entry)
    return {
        "app": app,
        "key": key,
        "body": body,
        "status": _NOT_ANSWERED,
        "watch_id": watch.id,
        "created_at": watch.created_at,
    }


def _claim_idempotency_key(entry: _Entry, group: Sequence[_Entry], row: Row[Any]) -> bool:
    """Return whether this entry owns its key. If not, set its `result`, `key_owner` or `existing`."""
    if row.watch_id == entry.new.watch.id:
        return True
    if entry.new.idempotency is not None and row.body != entry.new.idempotency.body:
        entry.result = IdempotencyConflict("this Idempotency-Key was used with another body in the last 24 hours")
    elif row.status == _NOT_ANSWERED:
        entry.key_owner = group[0]
    else:
        entry.existing, entry.created = row.watch_id, row.status == _CREATED
    return False


def _update_idempotency_keys(connection: Connection, entries: Sequence[_Entry]) -> None:
    """Store the answers with their keys, and delete the keys of refused registrations."""
    answered: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for entry in sorted(entries, key=_idempotency_name):
        if isinstance(entry.result, RegisteredWatch):
            status = _CREATED if entry.result.created else _FOUND
            answered.append(_idempotency_parameters(entry) | {"answered": status, "a_watch": entry.result.watch.id})
        else:
            refused.append(_idempotency_parameters(entry))
    if answered:
        connection.execute(_UPDATE_KEY, answered)
    if refused:
        connection.execute(_DELETE_KEY, refused)


# --- existing watches and the limit -------------------------------------------------------------------------------

_ACTIVE = BulkQuery(
    ("endpoint",),
    lambda binds: select(watches.c.id, watches.c.endpoint, watches.c.options).where(
        IS_ACTIVE, watches.c.endpoint.in_([bind["endpoint"] for bind in binds])
    ),
)


def _answer_existing(connection: Connection, entries: Sequence[_Entry]) -> list[_Entry]:
    """Decide the entries for which an active watch exists: that watch, or WatchConflict if its options differ.

    Returns the entries whose own insert succeeded, in this transaction or in an earlier one whose commit was never
    confirmed.
    """
    endpoints = sorted({entry.endpoint for entry in entries})
    rows = {row.endpoint: row for row in _ACTIVE.fetch(connection, [(endpoint,) for endpoint in endpoints])}
    inserted = []
    for entry in entries:
        row = rows.get(entry.endpoint)
        if row is None:
            continue
        if row.id == entry.new.watch.id:
            inserted.append(entry)
        elif row.options == entry.new.options:
            entry.existing = row.id
        else:
            entry.result = WatchConflict(row.id)
    return inserted


def _apply_app_limit(connection: Connection, limit: ActiveLimit, entries: Sequence[_Entry]) -> None:
    by_app: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_app[entry.new.watch.app].append(entry)
    for app, of_app in by_app.items():
        counted = [entry for entry in of_app if not entry.new.exempt_from_limit]
        if not counted:
            continue
        room = limit.room_of_app(connection, app, len(of_app)) - (len(of_app) - len(counted))
        for entry in counted[max(room, 0) :]:
            entry.result = limit.refusal_of_app()


def _apply_limit(connection: Connection, limit: ActiveLimit, entries: Sequence[_Entry]) -> None:
    counted = [entry for entry in entries if not entry.new.exempt_from_limit]
    room = limit.room(connection, len(entries)) - (len(entries) - len(counted)) if counted else 0
    for entry in counted[max(room, 0) :]:
        entry.result = limit.refusal()


def check_room(connection: Connection, limit: ActiveLimit, count: int, app: str) -> None:
    """Raise TooManyWatches if there is no room for `count` more watches, or for one more watch of this app."""
    if limit.per_app and limit.room_of_app(connection, app, 1) < 1:
        raise limit.refusal_of_app()
    if limit.room(connection, count) < count:
        raise limit.refusal()


# --- writing ------------------------------------------------------------------------------------------------------

_LOCK_OPEN_TASKS = (
    select(tasks)
    .where(tasks.c.closed_at.is_(None), tasks.c.key.in_(bindparam("keys", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update()
)
_INSERT_TASKS = inserting(
    tasks,
    (
        "id",
        "key",
        "task_id",
        "credential",
        "status",
        "polls",
        "owner",
        "changed_elsewhere",
        "wants_status",
        "opened_at",
        "task_class",
    ),
    lambda statement: statement.on_conflict_do_nothing(index_elements=["key"], index_where=text("closed_at IS NULL")),
)
_INSERT_WATCHES = inserting(
    watches,
    (
        *("id", "app", "task", "task_id", "callback_url", "host", "endpoint", "events", "context", "options", "state"),
        *("created_at", "deadline_at", "timeout_seconds", "header_names", "headers", "secret", "api_key"),
        *("model", "body", "traceparent", "tracestate"),
    ),
    lambda statement: statement.on_conflict_do_nothing(),
)
_MARK_TASK = (
    update(tasks)
    .where(tasks.c.id == bindparam("row"))
    .values(
        changed_elsewhere=or_(tasks.c.changed_elsewhere, bindparam("elsewhere", type_=Boolean)),
        wants_status=or_(tasks.c.wants_status, bindparam("wants", type_=Boolean)),
    )
)
_DELETE_UNWATCHED = delete(tasks).where(
    tasks.c.id.in_(bindparam("ids", expanding=True)), ~exists().where(watches.c.task == tasks.c.id)
)


def _write(connection: Connection, limit: ActiveLimit, entries: Sequence[_Entry]) -> None:
    """Open the tasks or lock them, then insert the watches. If another transaction was first, its watch is used."""
    opened, new_rows = _open_tasks(connection, entries), {entry.new.task for entry in entries}
    in_order = sorted(entries, key=lambda entry: entry.endpoint)
    inserted = _INSERT_WATCHES.execute(connection, [_watch_values(entry, opened[entry.task_key]) for entry in in_order])
    limit.add(inserted, Counter(entry.new.watch.app for entry in entries))
    written: Sequence[_Entry] = entries
    if inserted < len(entries):
        written = _answer_existing(connection, entries)
        connection.execute(_DELETE_UNWATCHED, {"ids": sorted(new_rows & {task.row for task in opened.values()})})
    for entry in written:
        entry.result = _registered(entry, opened[entry.task_key])
    marked = [entry for entry in written if opened[entry.task_key].row not in new_rows and entry.wants_status]
    if marked:
        _mark_tasks(connection, marked, opened)


def _open_tasks(connection: Connection, entries: Sequence[_Entry]) -> dict[str, TaskView]:
    """Returns the open tasks of the entries, by key. Their rows are locked: settlements wait for the new watches."""
    replica = entries[0].replica
    owner = replicas.owner_of_new(connection, replica)
    by_key: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_key[entry.task_key].append(entry)
    opened: dict[str, TaskView] = {}
    # A task may be settled and closed between our insert and our lock. Then we repeat this, and open a new task.
    while missing := sorted(by_key.keys() - opened.keys()):
        inserted = _INSERT_TASKS.execute(connection, [_task_values(key, by_key[key], owner) for key in missing])
        if inserted == len(missing):
            return opened | {key: _new_task(by_key[key][0], owner) for key in missing}
        for row in connection.execute(_LOCK_OPEN_TASKS, {"keys": missing}):
            opened[row.key] = task_view(row, row.id)
    return opened


def _new_task(entry: _Entry, owner: str | None) -> TaskView:
    new, watch = entry.new, entry.new.watch
    facts = NO_FACTS if entry.task_class is None else TaskFacts(task_class=entry.task_class)
    return TaskView(new.task, watch.task_id, new.credential, opened_at=watch.created_at, facts=facts, owner=owner)


def _task_values(key: str, entries: Sequence[_Entry], owner: str | None) -> tuple[Any, ...]:
    new, replica = entries[0].new, entries[0].replica
    elsewhere = owner not in {None, replica.id}
    wants = any(entry.wants_status for entry in entries)
    watch = new.watch
    return (
        *(new.task, key, watch.task_id, new.credential, _UNKNOWN, 0, owner, elsewhere, wants, watch.created_at),
        entries[0].task_class,
    )


def _watch_values(entry: _Entry, task: TaskView) -> tuple[Any, ...]:
    new, watch = entry.new, entry.new.watch
    encrypted = new.encrypted
    return (
        *(watch.id, watch.app, task.row, watch.task_id, watch.callback_url, new.host, entry.endpoint),
        *(events_text(watch.events), watch.context, new.options, watch.state.value),
        *(watch.created_at, watch.deadline_at, watch.timeout_seconds, ",".join(watch.header_names)),
        *(encrypted.headers, encrypted.secret, encrypted.api_key, watch.model, watch.body),
        *((None, None) if watch.trace is None else (watch.trace.parent, watch.trace.state)),
    )


def _registered(entry: _Entry, task: TaskView) -> RegisteredWatch:
    polled: TaskView | None = None
    if task.owner == entry.replica.id:
        facts = task.facts
        if facts.task_class is None and entry.task_class is not None:
            facts = replace(facts, task_class=entry.task_class)
        polled = task._replace(status_update_due=entry.wants_status, facts=facts)
    return RegisteredWatch(WatchView(entry.new.watch, task), created=True, task=polled)


def _mark_tasks(connection: Connection, entries: Sequence[_Entry], opened: Mapping[str, TaskView]) -> None:
    """Mark tasks that existed before, because a new watch asks for their status. Another owner then reloads them."""
    marks = [
        {"row": task.row, "elsewhere": task.owner not in {None, entry.replica.id}, "wants": True}
        for entry in entries
        for task in (opened[entry.task_key],)
    ]
    connection.execute(_MARK_TASK, sorted(marks, key=lambda mark: str(mark["row"])))
