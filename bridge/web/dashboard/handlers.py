"""The routes that show data (overview, table, one watch) and those that change something."""

from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.polling.state import LiveTask
from bridge.store.dashboard_queries import WatchSearch
from bridge.store.records import WatchView
from bridge.telemetry import get_logger
from bridge.web.api import deliveries, receivers
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.diagnosis import Diagnosis, diagnose
from bridge.web.dashboard.overview import OVERVIEW, charts
from bridge.web.dashboard.serializers import row_json, watch_json
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import Query, check_watch_id, json_answer, number_of, query_of, watch_id_of

FILTERS: Final = ("q", "host", "state", "outcome", "delivery_state", "trouble", "order", "cursor", "limit")
DEFAULT_LIMIT: Final = 50
MAX_ROWS: Final = 200
MAX_SEARCH_LENGTH: Final = 300

TROUBLES: Final = ("stuck", "key", "nearing")
ORDERS: Final = ("newest", "oldest")

_log = get_logger("dashboard")


# --- data ---------------------------------------------------------------------------------------------------------


async def read_overview(request: web.Request, _: Session) -> web.Response:
    """`GET /page/overview`: the live stream's `overview` and `charts`, once."""
    query_of(request)
    overview = await request.app[OVERVIEW].current()
    return json_answer(overview | {"charts": charts(request.app[DASHBOARD].history.minutes())})


async def read_watches(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches`: one page of the table."""
    return json_answer(await table(request.app, Query.of(request, FILTERS)))


async def read_watch(request: web.Request, _: Session) -> web.Response:
    """`GET /page/watches/{id}`: one watch and its timeline."""
    query_of(request)
    return json_answer(await one_watch(request.app, watch_id_of(request)))


async def table(app: web.Application, query: Query) -> dict[str, Any]:
    """One page of the watches that match a query's filters. Raises InvalidRequest."""
    search = _search_of(app, query)
    found = await app[CONTEXT].store.search(search)
    views = found[: search.limit - 1]  # the search asks for one more, to know whether there is a next page
    items = [row_json(view, live, diagnosis) for view, live, diagnosis in _diagnosed(app, views)]
    next_cursor = views[-1].watch.id if len(found) > len(views) else None
    return {"items": items, "next_cursor": next_cursor, "now": app[CONTEXT].store.now()}


def check_filters(app: web.Application, query: Query) -> None:
    """Check a query's filters without a search. Raises InvalidRequest for everything that is wrong with the query."""
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


def _search_of(app: web.Application, given: Query) -> WatchSearch:
    query = given.without_empty()
    limit = query.read("limit", _limit) or DEFAULT_LIMIT
    problem, overview = query.read("trouble", lambda text: _one_of(text, TROUBLES)), app[OVERVIEW]
    tasks = {"stuck": overview.stuck_tasks, "key": overview.tasks_waiting_for_key}.get(problem or "")
    search = WatchSearch(
        limit=int(limit) + 1,
        cursor=query.read("cursor", lambda text: check_watch_id(text, "cursor")),
        oldest_first=query.read("order", lambda text: _one_of(text, ORDERS)) == "oldest",
        text=query.read("q", _text),
        host=query.read("host", _text),
        tasks=None if tasks is None else tuple(tasks),
        nearing=app[CONTEXT].store.now() if problem == "nearing" else None,
        state=query.choice("state", WatchState),
        outcome=query.choice("outcome", Outcome),
        delivery_state=query.choice("delivery_state", DeliveryState),
    )
    query.check()
    return search


def _limit(text: str) -> float:
    return number_of(text, "limit", least=1, most=MAX_ROWS, whole=True)


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return text


def _text(text: str) -> str | None:
    """A search text, None for an empty one. No stored text contains NUL, and PostgreSQL refuses it in a query."""
    text = text.strip()
    if len(text) > MAX_SEARCH_LENGTH or "\0" in text or not text.isprintable():
        raise ValueError(f"must be at most {MAX_SEARCH_LENGTH} printable characters")
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


async def pause_receiver(request: web.Request, session: Session) -> web.Response:
    """`POST /page/receivers/{receiver}/pause`: the API's route, as an operator."""
    return await receivers.pause_receiver(request, _caller(session))


async def resume_receiver(request: web.Request, session: Session) -> web.Response:
    """`POST /page/receivers/{receiver}/resume`: the API's route, as an operator."""
    return await receivers.resume_receiver(request, _caller(session))


def _caller(session: Session) -> Caller:
    """The operator as a caller of the API: it sees every app's watches and registers none."""
    return Caller(session.operator, None, None)
