"""Searches that may read many watches. They read chunk by chunk, from the newest watch on, within a time limit.

Each chunk is a transaction. The database compares texts, and does not hold Python's lock meanwhile. Python gets only
the watches that are likely to match, and decides which do: see `core/watch_search.py`.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Text, and_, cast, collate, func, or_, select
from sqlalchemy.sql import ColumnElement

from bridge.core.watch_search import SearchedWatch, SearchText, UrlPart, matches
from bridge.store.database import Database, ReadInterrupted, ReadLimit
from bridge.store.records import FoundWatches, WatchQuery
from bridge.store.schema import watches
from bridge.store.watch_filters import conditions, finds_few, of_event, of_task, place_in_order

MOST_SEARCHED = 100_000  # a text is searched in at most this many of the newest watches
CHUNK = 5_000  # watches in one transaction: 5 ms on SQLite, 40 on PostgreSQL
_MOST_EXACT = 1_000  # watches that are found by one whole id: a task may have many
_SEARCHED = (
    *(watches.c.id, watches.c.task_id, watches.c.callback_url, watches.c.host, watches.c.context, watches.c.app),
)
_PLAIN = re.compile("[a-z0-9._/-]")  # what programs do not percent-encode in a path
_FEWEST_CHARACTERS = 3  # letters and digits of a part: one with fewer is in most URLs
_EVENT_ID_PART = re.compile(r"(?:(?:(?:e?v)?t)?_)?([0-9a-z]*)", re.IGNORECASE)


class _Boundary(NamedTuple):
    """The oldest watch of a chunk, or of all watches that are searched."""

    id: str
    created_at: float


def scan(database: Database, query: WatchQuery, limit: ReadLimit, *, enough: int | None = None) -> FoundWatches:
    """Find watches, newest first, until `enough` are found. The query's `limit` and `oldest_first` do not count.

    A text is searched in the newest 100,000 of the watches that meet the query's conditions on app, time and indexed
    columns. If the text is a whole id, an index finds its watches, also older ones.
    """
    query = replace(query, oldest_first=False)
    found: list[str] = []
    exact: list[str] = []
    reached: _Boundary | None = None
    try:
        exact = database.read_within(limit, _exact_ids, query)
        last = database.read_within(limit, _last_searched, query)
        while enough is None or len(found) < enough:
            ids, boundary = database.read_within(limit, _chunk, query, reached, last)
            found += ids
            if boundary is None:
                break
            reached = boundary
    except ReadInterrupted:
        last = reached or _Boundary("", query.created_before or database.now())
    found = sorted({*found, *exact}, reverse=True)
    if enough is not None and len(found) >= enough:
        return FoundWatches(found[:enough])
    return FoundWatches(found, None if last is None else last.created_at)


def _exact_ids(connection: Connection, query: WatchQuery) -> list[str]:
    """Returns the ids of the watches whose own id, task id or event id is in the text."""
    text = query.text
    if text is None:
        return []
    dialect = connection.dialect.name
    finders = [of_event(event_id) for event_id in text.event_ids]
    if text.watch_ids:
        finders.append(watches.c.id.in_(text.watch_ids))
    if text.task_id is not None:
        finders.append(of_task(text.task_id, dialect))
    others = conditions(query, dialect, few=True)
    found: list[str] = []
    for finder in finders:
        page = select(watches.c.id).where(finder, *others).order_by(watches.c.id.desc()).limit(_MOST_EXACT)
        found += connection.execute(page).scalars()
    return found


def _last_searched(connection: Connection, query: WatchQuery) -> _Boundary | None:
    """Returns the oldest watch in which a text is searched, for any cursor; None if all watches are searched."""
    if query.text is None:
        return None
    newest = _in_order(replace(query, cursor=None), connection.dialect.name).limit(2).offset(MOST_SEARCHED - 1)
    rows = connection.execute(newest).all()
    return _Boundary(*rows[0]) if len(rows) > 1 else None


def _chunk(
    connection: Connection, query: WatchQuery, after: _Boundary | None, last: _Boundary | None
) -> tuple[list[str], _Boundary | None]:
    """Returns the ids of the next chunk's matching watches, and the chunk's oldest watch (None for the last chunk)."""
    dialect, part = connection.dialect.name, list[Any]()
    if after is not None:
        part.append(watches.c.id < after.id)
    if last is not None:
        part.append(watches.c.id >= last.id)
    row = connection.execute(_in_order(query, dialect).where(*part).limit(1).offset(CHUNK - 1)).one_or_none()
    boundary = None if row is None else _Boundary(*row)
    if boundary is not None:
        part.append(watches.c.id >= boundary.id)
    matching = [*part, *conditions(query, dialect)]
    if query.text is None:
        rows = connection.execute(select(watches.c.id).where(*matching).order_by(watches.c.id.desc()))
        return list(rows.scalars()), boundary
    text = query.text
    likely = select(*_SEARCHED).where(*matching, _may_have(text, dialect)).order_by(watches.c.id.desc())
    return [row.id for row in connection.execute(likely) if matches(text, SearchedWatch(*row))], boundary


def _in_order(query: WatchQuery, dialect: str) -> Any:
    """Returns the query of ids and times of the watches that are read, newest first."""
    looked_at = conditions(query, dialect) if finds_few(query, dialect) else place_in_order(query)
    return select(watches.c.id, watches.c.created_at).where(*looked_at).order_by(watches.c.id.desc())


# --- texts --------------------------------------------------------------------------------------------------------


def _may_have(text: SearchText, dialect: str) -> ColumnElement[bool]:
    """Returns a condition that every watch with the text meets. Some other watches meet it too."""
    if dialect == "sqlite":  # its LIKE ignores the case of ASCII letters
        context: Any = cast(watches.c.context, Text)
        fold = _as_it_is
    else:
        context = func.convert_from(watches.c.context, "UTF8")
        fold = _lower_ascii
    pattern, in_json = _pattern(text.given), _pattern(orjson.dumps(text.given)[1:-1].decode())
    found = [_like(fold(column), f"%{pattern}%") for column in (watches.c.id, watches.c.task_id)]
    found.append(_like(fold(context), f"%{in_json}%"))
    if text.number is not None:
        found.append(_like(context, f"%{text.number}%"))
    if text.place is not None:
        place = f"%{_pattern(text.place)}%"
        found += [_like(fold(column), place) for column in (watches.c.callback_url, watches.c.host)]
    found += [condition for part in text.url_parts if (condition := _may_have_part(part, fold)) is not None]
    if text.in_apps:
        found.append(_like(fold(watches.c.app), f"%{pattern}%"))
    if part := _EVENT_ID_PART.fullmatch(text.given):
        # An event's id is `evt_`, the watch's id without its beginning, and one letter for the type.
        found += [_like(watches.c.id, f"%{part[1].lower()}%"), _like(watches.c.id, f"%{part[1].lower()[:-1]}")]
    return or_(*found)


def _may_have_part(part: UrlPart, fold: Callable[[Any], Any]) -> ColumnElement[bool] | None:
    """Returns a condition that a URL with this part meets in any usual spelling; None if most URLs would meet it."""
    if sum(one.isascii() and one.isalnum() for one in part.host + part.path) < _FEWEST_CHARACTERS:
        return None
    found = []
    if part.host:
        found.append(_like(watches.c.host, f"%{_pattern(part.host)}%"))
    if part.path:
        pattern = "".join(_pattern(one) if _PLAIN.fullmatch(one) else "%" for one in part.path)
        found.append(_like(fold(watches.c.callback_url), f"%{pattern}%"))
    return and_(*found)


def _as_it_is(column: Any) -> Any:
    return column


def _lower_ascii(column: Any) -> Any:
    return func.lower(collate(column, "C"))


def _like(column: Any, pattern: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = column.like(pattern, escape="!")
    return condition


def _pattern(text: str) -> str:
    """Returns a pattern for LIKE in lower case. Databases ignore the case of ASCII letters only; others become `%`."""
    return "".join(
        "%" if not one.isascii() and one.lower() != one.upper() else f"!{one}" if one in "!%_" else one.lower()
        for one in text
    )
