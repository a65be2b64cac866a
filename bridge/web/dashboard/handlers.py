"""The routes that show something: the overview, the table, one watch."""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from bridge.core.errors import InvalidRequest
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.dashboard_queries import WatchSearch
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.plight import diagnose
from bridge.web.dashboard.serializers import row_json, watch_json
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import check_watch_id, json_answer, number_of, query_of, watch_id_of

FILTERS: Final = (*("q", "host", "state", "outcome", "delivery_state", "trouble", "order", "cursor", "limit"),)
DEFAULT_LIMIT: Final = 50
MOST_ROWS: Final = 200
LONGEST_SEARCH: Final = 300

_WORDS: Final[Mapping[str, Any]] = {"state": WatchState, "outcome": Outcome, "delivery_state": DeliveryState}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"trouble": ("stuck", "key", "nearing"), "order": ("newest", "oldest")}


async def read_overview(request: web.Request, _: Session) -> web.Response:
    """`GET /page/overview`: what the live stream tells as well, once."""
    query_of(request)
    told = await request.app[OVERVIEW].look()
    return json_answer(told | {"charts": charts(request.app[DASHBOARD].history.minutes())})


async def read_watches(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches`: a page of the table."""
    return json_answer(await table(request.app, query_of(request, FILTERS)))


async def read_watch(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches/{id}`: one watch and its time line."""
    query_of(request)
    return json_answer(await one_watch(request.app, watch_id_of(request)))


async def table(app: web.Application, query: Mapping[str, str]) -> dict[str, Any]:
    """A page of watches as a query's filters want them. Raises InvalidRequest."""
    services, page = app[CONTEXT], app[DASHBOARD]
    wanted = _wanted(app, query)
    found = await services.store.search(wanted)
    rows = found[: wanted.limit - 1]  # one more was asked for, to know whether there is a next page
    keys = {one.name: one for one in page.poller.credentials()}
    now, shared = services.store.now(), services.store.shared
    items = []
    for view in rows:
        live = page.poller.live(view.task.row) if view.watch.state is WatchState.ACTIVE else None
        items.append(row_json(view, live, diagnose(view, live, keys, now, shared=shared)))
    return {"items": items, "next_cursor": rows[-1].watch.id if len(found) > len(rows) else None, "now": now}


def check_filters(app: web.Application, query: Mapping[str, str]) -> None:
    """Whether the table could be asked for so, without asking. Raises InvalidRequest."""
    _wanted(app, query)


async def one_watch(app: web.Application, watch_id: str) -> dict[str, Any]:
    """One watch with its time line. Raises NotFound."""
    services, page = app[CONTEXT], app[DASHBOARD]
    history = await services.store.history(watch_id)
    live = page.poller.live(history.view.task.row) if history.view.watch.state is WatchState.ACTIVE else None
    keys = {one.name: one for one in page.poller.credentials()}
    now = services.store.now()
    return watch_json(history, live, diagnose(history.view, live, keys, now, shared=services.store.shared)) | {
        "now": now
    }


def _wanted(app: web.Application, query: Mapping[str, str]) -> WatchSearch:
    limit = number_of(query.get("limit", str(DEFAULT_LIMIT)), "limit", least=1, most=MOST_ROWS, whole=True)
    words = {name: _word(name, query[name], kind) for name, kind in _WORDS.items() if query.get(name)}
    for name, choices in _CHOICES.items():
        if query.get(name) and query[name] not in choices:
            raise InvalidRequest([(name, f"must be one of {', '.join(choices)}")])
    trouble, overview = query.get("trouble"), app[OVERVIEW]
    found = {"stuck": overview.stuck, "key": overview.resting}.get(trouble or "")
    return WatchSearch(
        limit=int(limit) + 1,
        cursor=check_watch_id(query["cursor"], "cursor") if query.get("cursor") else None,
        oldest_first=query.get("order") == "oldest",
        text=_text("q", query),
        host=_text("host", query),
        tasks=None if found is None else tuple(found),
        nearing=app[CONTEXT].store.now() if trouble == "nearing" else None,
        **words,
    )


def _word(name: str, given: str, kind: Any) -> Any:
    try:
        return kind(given)
    except ValueError:
        raise InvalidRequest([(name, f"must be one of {', '.join(kind)}")]) from None


def _text(name: str, query: Mapping[str, str]) -> str | None:
    """A search's text, None for an empty one; NUL is in nothing that is stored, and PostgreSQL refuses to look."""
    text = query.get(name, "").strip()
    if len(text) > LONGEST_SEARCH or "\0" in text or not text.isprintable():
        raise InvalidRequest([(name, f"must be at most {LONGEST_SEARCH} printable characters")])
    return text or None
