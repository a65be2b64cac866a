"""Registration of many watches at once: find equal watches, open the tasks or use open ones, write the watches."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Boolean, Connection, bindparam, delete, exists, or_, select, text, update

from bridge.core.errors import BridgeError, NotFound, StoreUnavailable, WatchConflict
from bridge.core.model import NO_FACTS, TaskFacts, TaskStatus
from bridge.store import idempotency_keys, queries, replicas
from bridge.store.active_limit import ActiveLimit
from bridge.store.bulk_statements import Binds, BulkQuery, inserting
from bridge.store.records import NewWatch, RegisteredWatch, TaskView, WatchView
from bridge.store.registration_entry import Entry
from bridge.store.replicas import Replica
from bridge.store.row_mapping import events_text, task_view
from bridge.store.schema import ACTIVE_ENDPOINT, IS_ACTIVE, OPEN_CREDENTIAL, tasks, watches

_UNKNOWN = TaskStatus.UNKNOWN.value


def register(
    connection: Connection, items: Sequence[NewWatch], replica: Replica, limit: ActiveLimit
) -> Sequence[RegisteredWatch | BridgeError]:
    """Register watches; returns a result or an error for each.

    The errors are WatchConflict, IdempotencyConflict, TooManyWatches, NotFound and (never expected) StoreUnavailable.
    Raises IntegrityError for a watch that was written before and has ended, as after a connection that was lost during
    the commit.
    """
    entries = [Entry(new, replica) for new in items]
    if keyed := [entry for entry in entries if entry.new.idempotency is not None]:
        keyed = idempotency_keys.claim(connection, keyed)
    _answer_existing(connection, _unanswered(entries))
    if limit.per_app:
        _apply_app_limit(connection, limit, _unanswered(entries))
    _apply_limit(connection, limit, _unanswered(entries))
    if unanswered := _unanswered(entries):
        _write(connection, limit, unanswered)
    if existing := [entry for entry in entries if entry.existing is not None]:
        _read_existing(connection, existing)
    if keyed:
        idempotency_keys.update_answered(connection, keyed)
    return [
        (entry.key_owner or entry).result or StoreUnavailable("the watch was neither found nor written")
        for entry in entries
    ]


def _unanswered(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.result is None and entry.existing is None and entry.key_owner is None]


def _read_existing(connection: Connection, entries: Iterable[Entry]) -> None:
    """Set the results of entries whose watches exist already, with one query."""
    found = queries.several_watches(connection, [entry.existing or "" for entry in entries])
    for entry in entries:
        view = found.get(entry.existing or "")
        # Retention may have deleted the watch a moment ago.
        entry.result = NotFound("there is no such watch") if view is None else RegisteredWatch(view, entry.created)


def without_task(result: RegisteredWatch | BridgeError) -> RegisteredWatch | BridgeError:
    """Returns a result without its task, because this replica has rejoined under another id and does not poll it."""
    return replace(result, task=None) if isinstance(result, RegisteredWatch) else result


# --- existing watches and the limit -------------------------------------------------------------------------------


def _active_by_endpoint(binds: Binds) -> Any:
    """Returns the query of PostgreSQL, which has an index of endpoints."""
    return _FOUND.where(IS_ACTIVE, watches.c.endpoint.in_([bind["endpoint"] for bind in binds]))


def _active_by_task(binds: Binds) -> Any:
    """Returns the query of SQLite, which finds the watches by the open tasks of their task ids."""
    of_ids = tasks.c.task_id.in_([bind["task_id"] for bind in binds])
    opened = select(tasks.c.id).where(of_ids, OPEN_CREDENTIAL > "")
    return _FOUND.where(watches.c.task.in_(opened), ACTIVE_ENDPOINT.in_([bind["endpoint"] for bind in binds]))


_FOUND = select(watches.c.id, watches.c.endpoint, watches.c.options)
_ACTIVE = {
    "postgresql": BulkQuery(("task_id", "endpoint"), _active_by_endpoint),
    "sqlite": BulkQuery(("task_id", "endpoint"), _active_by_task),
}


def _answer_existing(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Decide the entries for which an active watch exists: that watch, or WatchConflict if its options differ.

    Returns the entries whose own insert succeeded, in this transaction or in an earlier one whose commit was never
    confirmed.
    """
    keys = sorted({(entry.new.watch.task_id, entry.endpoint) for entry in entries})
    rows = {row.endpoint: row for row in _ACTIVE[connection.dialect.name].fetch(connection, keys)}
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


def _apply_app_limit(connection: Connection, limit: ActiveLimit, entries: Sequence[Entry]) -> None:
    by_app: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_app[entry.new.watch.app].append(entry)
    for app, of_app in by_app.items():
        counted = [entry for entry in of_app if not entry.new.exempt_from_limit]
        if not counted:
            continue
        room = limit.room_of_app(connection, app, len(of_app)) - (len(of_app) - len(counted))
        for entry in counted[max(room, 0) :]:
            entry.result = limit.refusal_of_app()


def _apply_limit(connection: Connection, limit: ActiveLimit, entries: Sequence[Entry]) -> None:
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
    .where(
        tasks.c.closed_at.is_(None),
        tasks.c.key.in_(bindparam("keys", expanding=True)),
        tasks.c.task_id.in_(bindparam("task_ids", expanding=True)),  # this and the next for SQLite's index
        OPEN_CREDENTIAL.in_(bindparam("credentials", expanding=True)),
    )
    .order_by(tasks.c.id)
    .with_for_update()
)
_TASK_COLUMNS = (
    *("id", "key", "task_id", "credential", "status", "polls", "owner", "changed_elsewhere", "wants_status"),
    *("opened_at", "task_class"),
)
# Only an open task of the same key may be in the way. A row with the same id is an error: see `register`.
_INSERT_TASKS = {
    "postgresql": inserting(
        tasks,
        _TASK_COLUMNS,
        lambda insert: insert.on_conflict_do_nothing(index_elements=["key"], index_where=text("closed_at IS NULL")),
    ),
    "sqlite": inserting(
        tasks,
        _TASK_COLUMNS,
        lambda insert: insert.on_conflict_do_nothing(index_elements=[tasks.c.task_id, OPEN_CREDENTIAL]),
    ),
}
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


def _write(connection: Connection, limit: ActiveLimit, entries: Sequence[Entry]) -> None:
    """Open the tasks or lock them, then insert the watches. If another transaction was first, its watch is used."""
    firsts = {entry.endpoint: entry for entry in reversed(entries)}
    in_order = [firsts[endpoint] for endpoint in sorted(firsts)]
    opened, new_rows = _open_tasks(connection, in_order), {entry.new.task for entry in in_order}
    inserted = _INSERT_WATCHES.execute(connection, [_watch_values(entry, opened[entry.task_key]) for entry in in_order])
    limit.add(inserted, Counter(entry.new.watch.app for entry in in_order))
    written: Sequence[Entry] = in_order
    if inserted < len(in_order):
        written = _answer_existing(connection, in_order)
        connection.execute(_DELETE_UNWATCHED, {"ids": sorted(new_rows & {task.row for task in opened.values()})})
    for entry in written:
        entry.result = _registered(entry, opened[entry.task_key])
    marked = [entry for entry in written if opened[entry.task_key].row not in new_rows and entry.wants_status]
    if marked:
        _mark_tasks(connection, marked, opened)
    if len(firsts) < len(entries):
        _answer_existing(connection, _unanswered(entries))


def _open_tasks(connection: Connection, entries: Sequence[Entry]) -> dict[str, TaskView]:
    """Returns the open tasks of the entries, by key. Their rows are locked: settlements wait for the new watches."""
    replica = entries[0].replica
    owner = replicas.owner_of_new(connection, replica)
    by_key: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_key[entry.task_key].append(entry)
    opened: dict[str, TaskView] = {}
    # A task may be settled and closed between our insert and our lock. Then we repeat this, and open a new task.
    while missing := sorted(by_key.keys() - opened.keys()):
        values = [_task_values(key, by_key[key], owner) for key in missing]
        inserted = _INSERT_TASKS[connection.dialect.name].execute(connection, values)
        if inserted == len(missing):
            return opened | {key: _new_task(by_key[key][0], owner) for key in missing}
        wanted = [by_key[key][0].new for key in missing]
        parameters = {
            "keys": missing,
            "task_ids": sorted({new.watch.task_id for new in wanted}),
            "credentials": sorted({new.credential for new in wanted}),
        }
        for row in connection.execute(_LOCK_OPEN_TASKS, parameters):
            opened[row.key] = task_view(row, row.id)
    return opened


def _new_task(entry: Entry, owner: str | None) -> TaskView:
    new, watch = entry.new, entry.new.watch
    facts = NO_FACTS if entry.task_class is None else TaskFacts(task_class=entry.task_class)
    return TaskView(new.task, watch.task_id, new.credential, opened_at=watch.created_at, facts=facts, owner=owner)


def _task_values(key: str, entries: Sequence[Entry], owner: str | None) -> tuple[Any, ...]:
    new, replica = entries[0].new, entries[0].replica
    elsewhere = owner not in {None, replica.id}
    wants = any(entry.wants_status for entry in entries)
    watch = new.watch
    return (
        *(new.task, key, watch.task_id, new.credential, _UNKNOWN, 0, owner, elsewhere, wants, watch.created_at),
        entries[0].task_class,
    )


def _watch_values(entry: Entry, task: TaskView) -> tuple[Any, ...]:
    new, watch = entry.new, entry.new.watch
    encrypted = new.encrypted
    return (
        *(watch.id, watch.app, task.row, watch.task_id, watch.callback_url, new.host, entry.endpoint),
        *(events_text(watch.events), watch.context, new.options, watch.state.value),
        *(watch.created_at, watch.deadline_at, watch.timeout_seconds, ",".join(watch.header_names)),
        *(encrypted.headers, encrypted.secret, encrypted.api_key, watch.model, watch.body),
        *((None, None) if watch.trace is None else (watch.trace.parent, watch.trace.state)),
    )


def _registered(entry: Entry, task: TaskView) -> RegisteredWatch:
    polled: TaskView | None = None
    if task.owner == entry.replica.id:
        facts = task.facts
        if facts.task_class is None and entry.task_class is not None:
            facts = replace(facts, task_class=entry.task_class)
        polled = task._replace(status_update_due=entry.wants_status, facts=facts)
    return RegisteredWatch(WatchView(entry.new.watch, task), created=True, task=polled)


def _mark_tasks(connection: Connection, entries: Sequence[Entry], opened: Mapping[str, TaskView]) -> None:
    """Mark tasks that existed before, because a new watch asks for their status. Another owner then reloads them."""
    marks = [
        {"row": task.row, "elsewhere": task.owner not in {None, entry.replica.id}, "wants": True}
        for entry in entries
        for task in (opened[entry.task_key],)
    ]
    connection.execute(_MARK_TASK, sorted(marks, key=lambda mark: str(mark["row"])))
