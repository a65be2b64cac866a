"""The event feed: events in the order of their numbers. A reader that sees a number has seen all smaller ones.

On SQLite one writer commits at a time, so an event gets its number when it is inserted. On PostgreSQL transactions
commit in any order. A number that is drawn before the commit could appear after a larger one, and a reader would miss
its event. So on PostgreSQL an event is inserted without a number, and is not listed yet. A later transaction numbers
the committed events. It holds an advisory lock until its commit, so only one replica numbers events at a time.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Text,
    bindparam,
    case,
    column,
    delete,
    exists,
    func,
    insert,
    select,
    text,
    update,
    values,
)
from sqlalchemy.sql import ColumnElement, Select

from bridge.core.errors import CursorExpired
from bridge.core.event_cursor import Position, is_expired, next_number
from bridge.store.advisory_locks import EVENT_NUMBERING, EVENT_REMOVAL
from bridge.store.bulk_statements import Query
from bridge.store.reader import Reader
from bridge.store.records import Changed, EventPage, EventQuery
from bridge.store.replicas import Replica
from bridge.store.schema import IS_NUMBERED, IS_NUMBERED_OF_ALL, events, removed_events, watches

EVERY_APP = ""
"""The name of the feed of all apps, which operators read. No app has an empty name."""

NUMBERED_AT_ONCE = 1_000  # events in a transaction: about 30 ms, in which other replicas wait
WINDOW = 10_000  # numbers that one step of a search by type reads, from the index alone: a few ms
WINDOWS_AT_ONCE = 10

# --- numbering ----------------------------------------------------------------------------------------------------

_LARGEST = Query(
    select(
        select(func.max(events.c.number)).where(IS_NUMBERED_OF_ALL).scalar_subquery().label("present"),
        select(func.max(removed_events.c.number)).scalar_subquery().label("removed"),
    )
)


def largest_number(connection: Connection) -> int:
    """Returns the largest number of any event, also of removed ones; 0 before the first event."""
    [largest] = _LARGEST.all(connection)
    return max(largest.present or 0, largest.removed or 0)


def next_numbers(connection: Connection, replica: Replica, count: int) -> Sequence[int | None]:
    """Returns numbers for `count` new events. Each is None if replicas share the database: see `number_committed`."""
    if replica.shared:
        return [None] * count
    first = next_number(largest_number(connection), replica.now())
    return range(first, first + count)


_UNNUMBERED = (
    select(events.c.watch_id, events.c.type, watches.c.app)
    .join(watches, watches.c.id == events.c.watch_id)
    .where(events.c.number.is_(None))
    .order_by(events.c.created_at, events.c.watch_id, events.c.type)
    .limit(bindparam("most"))
    .subquery("unnumbered")
)
_PLACES = select(_UNNUMBERED, (func.row_number().over() - 1).label("place")).subquery("places")
_NUMBER = (
    update(events)
    .where(events.c.watch_id == _PLACES.c.watch_id, events.c.type == _PLACES.c.type)
    .values(number=bindparam("first") + _PLACES.c.place, app=_PLACES.c.app)
    .returning(events.c.app)
)


def number_committed(connection: Connection, now: float) -> list[str]:
    """Numbers up to 1,000 committed events, the oldest first; returns the app of each. For PostgreSQL only.

    PostgreSQL releases the lock after the commit is visible. So the next replica sees these numbers, and no reader sees
    a number before all smaller ones.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": EVENT_NUMBERING})
    first = next_number(largest_number(connection), now)
    return list(connection.execute(_NUMBER, {"first": first, "most": NUMBERED_AT_ONCE}).scalars())


_HAS_UNNUMBERED = select(exists().where(events.c.number.is_(None)))


def has_unnumbered(connection: Connection) -> bool:
    """Whether an event is committed and not numbered yet."""
    found: bool = connection.execute(_HAS_UNNUMBERED).scalar_one()
    return found


# --- reading ------------------------------------------------------------------------------------------------------

_AFTER = events.c.number > bindparam("after")
_LAST_REMOVAL = select(func.max(removed_events.c.removal))
_REMOVED_SINCE = select(func.max(removed_events.c.number)).where(removed_events.c.removal > bindparam("removal"))


def read_page(connection: Connection, query: EventQuery, now: float) -> EventPage:
    """Returns a page of the feed. Raises CursorExpired when events after the cursor may have been removed.

    The order of the statements matters: on PostgreSQL each statement sees all commits before its own beginning. The
    number of the last removal is read before the events, and later removals are searched for after the events. So a
    removal between the two is found.
    """
    start = query.after or Position(0, _last_removal(connection))
    payloads, number, more = (_search if query.types else _next)(connection, query, start.number)
    removed, largest = _removed_since(connection, query.app, start.removal), largest_number(connection)
    if is_expired(start, removed, largest, now):
        raise CursorExpired(
            "events after this cursor may have been removed; begin again without `after`, or with `after=latest`"
        )
    return EventPage(tuple(payloads), Position(number, start.removal), more)


def latest(connection: Connection, app: str | None) -> Position:
    """Returns the position after which new events of an app come (None: of every app)."""
    removal = _last_removal(connection)  # first, as in read_page
    return Position(_newest(connection, app), removal)


def _next(connection: Connection, query: EventQuery, after: int) -> tuple[list[bytes], int, bool]:
    page = _of_app(select(events.c.number, events.c.payload), query.app).where(_AFTER)
    page = page.order_by(events.c.number).limit(bindparam("most"))
    rows = connection.execute(page, {"app": query.app, "after": after, "most": query.limit}).all()
    return [row.payload for row in rows], rows[-1].number if rows else after, False


def _search(connection: Connection, query: EventQuery, after: int) -> tuple[list[bytes], int, bool]:
    """Returns the next events of some types. Reads in windows: for a rare type, one query might read a million rows."""
    found: list[bytes] = []
    numbers = _of_app(select(events.c.number), query.app).where(_AFTER).order_by(events.c.number)
    end_of_window = numbers.offset(WINDOW - 1).limit(1)
    page = _of_app(select(events.c.number, events.c.payload), query.app).where(
        _AFTER, events.c.number <= bindparam("end"), events.c.type.in_(bindparam("types", expanding=True))
    )
    page = page.order_by(events.c.number).limit(bindparam("most"))
    for _ in range(WINDOWS_AT_ONCE):
        position = {"app": query.app, "after": after}
        end = connection.execute(end_of_window, position).scalar_one_or_none()
        is_last = end is None
        end = _newest(connection, query.app) if end is None else end
        parameters = {"end": end, "types": sorted(query.types), "most": query.limit - len(found)}
        rows = connection.execute(page, position | parameters).all()
        found += [row.payload for row in rows]
        if len(found) == query.limit:
            return found, rows[-1].number, False
        after = max(after, end)
        if is_last:
            return found, after, False
    return found, after, True


def _of_app(query: Select[Any], app: str | None) -> Select[Any]:
    if app is None:
        return query.where(IS_NUMBERED_OF_ALL)
    return query.where(IS_NUMBERED, events.c.app == bindparam("app"))


def _newest(connection: Connection, app: str | None) -> int:
    found: int | None = connection.execute(_of_app(select(func.max(events.c.number)), app), {"app": app}).scalar_one()
    return found or 0


def _last_removal(connection: Connection) -> int:
    found: int | None = connection.execute(_LAST_REMOVAL).scalar_one()
    return found or 0


def _removed_since(connection: Connection, app: str | None, removal: int) -> int:
    query = _REMOVED_SINCE if app is None else _REMOVED_SINCE.where(removed_events.c.app == bindparam("app"))
    found: int | None = connection.execute(query, {"app": app, "removal": removal}).scalar_one()
    return found or 0


def newest_by_app(connection: Connection, apps: Collection[str]) -> dict[str, str]:
    """Returns each app's newest number as a text; for EVERY_APP, the newest of all. One statement with few look-ups."""
    asked = values(column("app", Text), name="asked").data([(app,) for app in sorted(apps)]).cte("asked")
    of_app = select(func.max(events.c.number)).where(IS_NUMBERED, events.c.app == asked.c.app).scalar_subquery()
    of_all = select(func.max(events.c.number)).where(IS_NUMBERED_OF_ALL).scalar_subquery()
    newest: ColumnElement[Any] = case((asked.c.app == EVERY_APP, of_all), else_=of_app)
    if not apps:
        return {}
    return {app: str(number) for app, number in connection.execute(select(asked.c.app, newest))}


# --- retention ----------------------------------------------------------------------------------------------------

_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_WITHOUT_NUMBER = select(events.c.watch_id).where(events.c.watch_id.in_(_IDS), events.c.number.is_(None))
_LARGEST_OF = (
    select(events.c.app, func.max(events.c.number).label("number"))
    .where(events.c.watch_id.in_(_IDS))
    .group_by(events.c.app)
)
_DELETE_SMALLER = delete(removed_events).where(
    removed_events.c.app == bindparam("of"), removed_events.c.number <= bindparam("largest")
)


def watches_without_numbers(connection: Connection, watch_ids: Sequence[str]) -> set[str]:
    """Returns the ids of watches with an event that has no number, so that it is not in the feed yet."""
    return set(connection.execute(_WITHOUT_NUMBER, {"ids": watch_ids}).scalars())


def may_remove(connection: Connection, replica: Replica) -> bool:
    """Whether this transaction may remove events: only one replica may at a time. It does not wait for another one."""
    if not replica.shared:
        return True
    statement = text("SELECT pg_try_advisory_xact_lock(:lock)")
    locked: bool = connection.execute(statement, {"lock": EVENT_REMOVAL}).scalar_one()
    return locked


def note_removal(connection: Connection, watch_ids: Sequence[str], replica: Replica) -> None:
    """Write which events are removed. Call it before the events of these watches are deleted.

    A reader whose cursor is before a removed event then gets CursorExpired. Removals must commit in the order of their
    numbers, so call this only after `may_remove` has returned True in this transaction.
    """
    found = {row.app: row.number for row in connection.execute(_LARGEST_OF, {"ids": watch_ids})}
    if not found:
        return
    removal = next_number(_last_removal(connection), replica.now())
    connection.execute(_DELETE_SMALLER, [{"of": app, "largest": number} for app, number in found.items()])
    rows = [{"app": app, "number": number, "removal": removal} for app, number in found.items()]
    connection.execute(insert(removed_events), rows)


# --- the feed for other folders -----------------------------------------------------------------------------------


class EventFeed:
    """The feed of one store. Every call raises StoreUnavailable, as the calls of the store do.

    `on_new_events` is called with the apps of new events as soon as these are durable, even if the caller of the write
    has given up waiting.
    """

    def __init__(self, reader: Reader) -> None:
        self._database = reader.database
        self._reader = reader
        self.on_new_events: Callable[[Collection[str]], None] = lambda _: None

    @property
    def shared(self) -> bool:
        """Whether replicas share the database (PostgreSQL). Events are then numbered after their commit."""
        return self._database.shared

    def add(self, changed: Changed) -> None:
        """Announce the new events of a committed settlement or status change."""
        if changed.event_apps:
            self.on_new_events(changed.event_apps)

    async def number_committed(self) -> list[str]:
        """Numbers up to 1,000 committed events; returns the app of each. Call it only for a shared database."""
        now = self.now()
        number = partial(self._database.transaction, lambda connection: number_committed(connection, now))
        return await self._reader.call(number)

    async def has_unnumbered(self) -> bool:
        """Whether an event is committed and not numbered yet; False if replicas do not share the database."""
        return self.shared and await self._reader.run(has_unnumbered)

    async def page(self, query: EventQuery) -> EventPage:
        """Returns a page of events. Raises CursorExpired."""
        return await self._reader.run(read_page, query, self.now())

    async def latest(self, app: str | None) -> Position:
        """Returns the position after which new events of an app come (None: of every app)."""
        return await self._reader.run(latest, app)

    async def versions(self, apps: Sequence[str]) -> dict[str, str]:
        """Returns a text for each app, which changes when the app has new events; for EVERY_APP, when any app has."""
        return await self._reader.run(newest_by_app, apps)

    def now(self) -> float:
        """Returns Unix seconds by the database's clock."""
        return self._database.now()
