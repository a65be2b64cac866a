"""The routes that show data (overview, table, one watch) and those that change something."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from bridge.core.errors import InvalidRequest
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.polling.state import LiveTask
from bridge.store.dashboard_queries import WatchSearch
from bridge.store.records import WatchView
from bridge.telemetry import get_logger
from bridge.web.api import deliveries
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.diagnosis import Diagnosis, diagnose
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.serializers import row_json, watch_json
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import check_watch_id, json_answer, number_of, query_of, watch_id_of

FILTERS: Final = ("q", "host", "state", "outcome", "delivery_state", "trouble", "order", "cursor", "limit")
DEFAULT_LIMIT: Final = 50
MAX_ROWS: Final = 200
MAX_SEARCH_LENGTH: Final = 300

_ENUM_FILTERS: Final[Mapping[str, Any]] = {
    "state": WatchState,
    "outcome": Outcome,
    "delivery_state": DeliveryState,
}
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {"trouble": ("stuck", "key", "nearing"), "order": ("newest", "oldest")}

_log = get_logger("dashboard")


# --- data ---------------------------------------------------------------------------------------------------------


async def read_overview(request: web.Request, _: Session) -> web.Response:
    """`GET /page/overview`: the live stream's `overview` and `charts`, once."""
    query_of(request)
    overview = await request.app[OVERVIEW].current()
    return json_answer(overview | {"charts": charts(request.app[DASHBOARD].history.minutes())})


async def read_watches(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches`: one page of the table."""
    return json_answer(await table(request.app, query_of(request, FILTERS)))


async def read_watch(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches/{id}`: one watch and its timeline."""
    query_of(request)
    return json_answer(await one_watch(request.app, watch_id_of(request)))


async def table(app: web.Application, query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the watches that match a query's filters. Raises InvalidRequest."""
    search = _search_of(app, query)
    found = await app[CONTEXT].store.search(search)
    views = found[: search.limit - 1]  # the search asks for one more, to know whether there is a next page
    items = [row_json(view, live, diagnosis) for view, live, diagnosis in _diagnosed(app, views)]
    next_cursor = views[-1].watch.id if len(found) > len(views) else None
    return {"items": items, "next_cursor": next_cursor, "now": app[CONTEXT].store.now()}


def check_filters(app: web.Application, query: Mapping[str, str]) -> None:
    """Check a query's filters without a search. Raises InvalidRequest."""
    _search_of(app, query)


async def one_watch(app: web.Application, watch_id: str) -> dict[str, Any]:
    """One watch with its timeline. Raises NotFound."""
    store = app[CONTEXT].store
    history = await store.history(watch_id)
    [(_, live, diagnosis)] = _diagnosed(app, [history.view])
    return watch_json(history, live, diagnosis) | {"now": store.now()}


def _diagnosed(
    app: web.Application, views: Sequence[WatchView]
) -> list[tuple[WatchView, LiveTask | None, Diagnosis | None]]:
    """Each watch with its task in this replica's memory, if it polls it, and with its diagnosis."""
    store, poller = app[CONTEXT].store, app[DASHBOARD].poller
    keys = {key.name: key for key in poller.credentials()}
    now = store.now()
    diagnosed = []
    for view in views:
        live = poller.live(view.task.row) if view.watch.state is WatchState.ACTIVE else None
        diagnosed.append((view, live, diagnose(view, live, keys, now, shared=store.shared)))
    return diagnosed


def _search_of(app: web.Application, query: Mapping[str, str]) -> WatchSearch:
    limit = number_of(query.get("limit", str(DEFAULT_LIMIT)), "limit", least=1, most=MAX_ROWS, whole=True)
    enums = {name: _enum(name, query[name], kind) for name, kind in _ENUM_FILTERS.items() if query.get(name)}
    for name, choices in _CHOICES.items():
        if query.get(name) and query[name] not in choices:
            raise InvalidRequest([(name, f"must be one of {', '.join(choices)}")])
    problem, overview = query.get("trouble"), app[OVERVIEW]
    tasks = {"stuck": overview.stuck_tasks, "key": overview.tasks_waiting_for_key}.get(problem or "")
    return WatchSearch(
        limit=int(limit) + 1,
        cursor=check_watch_id(query["cursor"], "cursor") if query.get("cursor") else None,
        oldest_first=query.get("order") == "oldest",
        text=_text("q", query),
        host=_text("host", query),
        tasks=None if tasks is None else tuple(tasks),
        nearing=app[CONTEXT].store.now() if problem == "nearing" else None,
        **enums,
    )


def _enum(name: str, value: str, kind: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InvalidRequest([(name, f"must be one of {', '.join(kind)}")]) from None


def _text(name: str, query: Mapping[str, str]) -> str | None:
    """A search text, None for an empty one. No stored text contains NUL, and PostgreSQL refuses it in a query."""
    text = query.get(name, "").strip()
    if len(text) > MAX_SEARCH_LENGTH or "\0" in text or not text.isprintable():
        raise InvalidRequest([(name, f"must be at most {MAX_SEARCH_LENGTH} printable characters")])
    return text or None


# --- changes ------------------------------------------------------------------------------------------------------


async def cancel_watch(request: web.Request, session: Session) -> web.Response:
    """`POST /page/watches/{id}/cancel`: the watch after the change, or 409 when it is settled."""
    query_of(request)
    watch_id = watch_id_of(request)
    await request.app[CONTEXT].registration.cancel(watch_id, None)
    _log.event("cancel_requested", watch_id=watch_id, by=_caller(session).key)
    return json_answer(await one_watch(request.app, watch_id))


async def retry_delivery(request: web.Request, session: Session) -> web.Response:
    """`POST /page/deliveries/{id}/retry`: the API's route, as an operator."""
    return await deliveries.retry_delivery(request, _caller(session))


async def retry_deliveries(request: web.Request, session: Session) -> web.Response:
    """`POST /page/deliveries/retry`: retry all dead deliveries that match a filter; with `dry_run`, count them."""
    return await deliveries.retry_deliveries(request, _caller(session))


def _caller(session: Session) -> Caller:
    """The operator as a caller of the API: it sees every app's watches and registers none."""
    return Caller(session.operator, None, None)
