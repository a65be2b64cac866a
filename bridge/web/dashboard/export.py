"""Downloads the watches that match the filters: CSV for spreadsheets, JSON lines for programs. The file is streamed.

Callback URLs and video URLs are written without their query, because it can contain a secret.
"""

import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from bridge.core.csv_cells import safe_cell
from bridge.store.records import WatchQuery, WatchView
from bridge.telemetry import get_logger, rfc3339, without_query
from bridge.web.api.serializers import watch_json
from bridge.web.api.watches import searched_back_to
from bridge.web.context import CONTEXT
from bridge.web.dashboard.sessions import Session
from bridge.web.dashboard.watch_table import FILTERS, query_of_filters
from bridge.web.requests import Query, secured

_PAGE_SIZE: Final = 200  # watches in one query
COLUMNS: Final = (
    *("id", "app", "task_id", "callback_url", "state", "outcome", "status", "progress", "url", "format", "model"),
    *("error_code", "error_message", "polls", "created_at", "deadline_at", "settled_at"),
    *("event_id", "delivery_state", "attempts", "delivered_at", "delivery_error", "context"),
)

_log = get_logger("dashboard")

Json = dict[str, Any]


async def export_csv(request: web.Request, session: Session) -> web.StreamResponse:
    """Answers `GET /page/watches.csv` with a CSV line for each watch."""
    header = _csv_line(COLUMNS)
    return await _export(request, session, "text/csv; charset=utf-8", "csv", header, _csv_of)


async def export_json_lines(request: web.Request, session: Session) -> web.StreamResponse:
    """Answers `GET /page/watches.jsonl` with a line of JSON for each watch, in the form of the API."""
    return await _export(request, session, "application/jsonl; charset=utf-8", "jsonl", b"", _json_line_of)


async def _export(  # noqa: PLR0913, PLR0917  the parts of a format
    request: web.Request, session: Session, media_type: str, suffix: str, head: bytes, line: Callable[[Json], bytes]
) -> web.StreamResponse:
    query = query_of_filters(request.app, Query.of(request, FILTERS))
    by = session.caller
    store, live = request.app[CONTEXT].store, request.app[CONTEXT].poller.live
    response = secured(web.StreamResponse())
    response.headers[hdrs.CONTENT_TYPE] = media_type
    name = f"watches-{rfc3339(store.now())[:19].replace(':', '')}Z.{suffix}"
    response.headers[hdrs.CONTENT_DISPOSITION] = f'attachment; filename="{name}"'
    found: Sequence[str] | None = None
    if query.needs_scan:
        result = await store.searches.all(query, by.key)
        found = result.ids if not query.oldest_first else list(reversed(result.ids))
        if (back_to := searched_back_to(result.looked_back_to)) is not None:
            response.headers["X-Searched-Back-To"] = back_to
    await response.prepare(request)
    if request.method == hdrs.METH_HEAD:
        return response
    count = 0
    try:
        await response.write(head)
        async for views in _pages(request.app, query, found, by.key):
            count += len(views)
            await response.write(b"".join(line(_without_queries(watch_json(view, live))) for view in views))
        await response.write_eof()
    finally:  # an operator has the watches of a download that broke off, too
        _log.event("watches_exported", count=count, by=by.name, role=by.actor.role)
    return response


async def _pages(
    app: web.Application, query: WatchQuery, found: Sequence[str] | None, by: str
) -> AsyncIterator[Sequence[WatchView]]:
    """Yields all watches, 200 at a time: those that a search has found, or those that the query finds."""
    searches = app[CONTEXT].store.searches
    if found is not None:
        for first in range(0, len(found), _PAGE_SIZE):
            yield await searches.views(found[first : first + _PAGE_SIZE])
        return
    more, query = True, replace(query, limit=_PAGE_SIZE)
    while more:
        page = await searches.page(query, by)
        yield page.views
        more = page.more
        query = replace(query, cursor=page.views[-1].watch.id if page.views else None)


def _without_queries(watch: Any) -> Json:
    task = watch["task"]
    url = None if task["url"] is None else without_query(task["url"])
    return {**watch, "callback_url": without_query(watch["callback_url"]), "task": task | {"url": url}}


def _json_line_of(watch: Json) -> bytes:
    return orjson.dumps(watch, option=orjson.OPT_APPEND_NEWLINE)


def _csv_of(watch: Json) -> bytes:
    """Returns a watch as a CSV line with its last delivery only. After the end this is the terminal event's."""
    task = watch["task"]
    delivery = watch["deliveries"][-1] if watch["deliveries"] else {}
    error, delivery_error = task["error"] or {}, delivery.get("last_error") or {}
    cells = {
        **watch,
        **{name: task[name] for name in ("status", "progress", "url", "format", "model")},
        "error_code": error.get("code"),
        "error_message": error.get("message"),
        "event_id": delivery.get("id"),
        "delivery_state": delivery.get("state"),
        "attempts": delivery.get("attempts"),
        "delivered_at": delivery.get("delivered_at"),
        "delivery_error": delivery_error.get("message"),
        "context": orjson.dumps(watch["context"]).decode(),
    }
    return _csv_line([cells[name] for name in COLUMNS])


def _csv_line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerow([safe_cell(cell) for cell in cells])
    return text.getvalue().encode()
