"""The operators' table of watches: its filters, one page of rows, and the number of watches that match."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.core.registration import check_task_id
from bridge.core.targets import DEFAULT_PORTS, bracketed
from bridge.core.watch_search import SearchText
from bridge.store.records import FoundWatches, TaskView, WatchQuery, WatchView
from bridge.web.api.request_models import query_time, stored_receiver
from bridge.web.api.watches import app_name_of
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.diagnosis import Diagnosis, diagnose, of_paused_receiver
from bridge.web.dashboard.overview import OVERVIEW
from bridge.web.dashboard.serializers import row_json
from bridge.web.dashboard.sessions import Session
from bridge.web.requests import Query, check_event_id, check_watch_id, json_answer, number_of

CONDITIONS: Final = (
    *("q", "host", "app", "task_id", "event_id", "state", "outcome", "delivery_state", "trouble"),
    *("created_after", "created_before"),
)
FILTERS: Final = (*CONDITIONS, "order", "cursor", "limit")
DEFAULT_LIMIT: Final = 50
MAX_ROWS: Final = 200
TROUBLES: Final = ("stuck", "key", "nearing")
ORDERS: Final = ("newest", "oldest")
_SEARCH_PAUSE_FACTOR: Final = 20.0  # an open page waits 20 times as long as its last search took


def query_of_filters(app: web.Application, given: Query) -> WatchQuery:
    """Returns the store's query for the page's filters. Raises InvalidRequest, which names every bad filter."""
    query = given.without_empty()
    problem, overview = query.read("trouble", lambda text: _one_of(text, TROUBLES)), app[OVERVIEW]
    tasks = {"stuck": overview.stuck_tasks, "key": overview.tasks_waiting_for_key}.get(problem or "")
    search = WatchQuery(
        limit=int(query.read("limit", _limit) or DEFAULT_LIMIT),
        cursor=query.read("cursor", lambda text: check_watch_id(text, "cursor")),
        oldest_first=query.read("order", lambda text: _one_of(text, ORDERS)) == "oldest",
        app=query.read("app", app_name_of),
        text=query.read("q", lambda text: SearchText.of(text, in_apps=True)),
        host=query.read("host", stored_receiver),
        tasks=None if tasks is None else tuple(tasks),
        nearing=app[CONTEXT].store.now() if problem == "nearing" else None,
        task_id=query.read("task_id", check_task_id),
        event_id=query.read("event_id", check_event_id),
        state=query.choice("state", WatchState),
        outcome=query.choice("outcome", Outcome),
        delivery_state=query.choice("delivery_state", DeliveryState),
        created_after=query.read("created_after", query_time),
        created_before=query.read("created_before", query_time),
        given_up_only=True,
    )
    query.check()
    return search


def _limit(text: str) -> float:
    return number_of(text, "limit", least=1, most=MAX_ROWS, whole=True)


def _one_of(text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return text


async def read_watches(request: web.Request, session: Session) -> web.Response:
    """Answers `GET /page/watches` with one page of the table."""
    return json_answer(await WatchTable(request.app, Query.of(request, FILTERS), session).read())


class WatchTable:
    """The table as one browser shows it. It can be read every second: slow searches are repeated less often."""

    def __init__(
        self, app: web.Application, filters: Query, session: Session, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._filters = filters
        self._by = session.caller.key
        self._clock = clock
        self._found: FoundWatches | None = None
        self._search_again_at = 0.0

    def check(self) -> None:
        """Checks the filters without a search. Raises InvalidRequest."""
        query_of_filters(self._app, self._filters)

    async def read(self) -> dict[str, Any]:
        """Returns one page of rows; with filters also how many watches match, and how far back the search looked."""
        query = query_of_filters(self._app, self._filters)
        filtered = any(self._filters.values.get(name) for name in CONDITIONS)
        found = await self._search(query) if filtered else None
        store = self._app[CONTEXT].store
        if found is not None and query.needs_scan:
            ids = _after(query, found.ids)
            views, more = await store.searches.views(ids[: query.limit]), len(ids) > query.limit
        else:
            page = await store.searches.page(query, self._by)
            views, more = page.views, page.more
        return {
            "items": [row_json(view, live, diagnosis) for view, live, diagnosis in diagnosed(self._app, views)],
            "next_cursor": views[-1].watch.id if more and views else None,
            "matches": None if found is None else len(found.ids),
            "searched_back_to": None if found is None else found.looked_back_to,
            "now": store.now(),
        }

    async def _search(self, query: WatchQuery) -> FoundWatches:
        if self._found is None or self._clock() >= self._search_again_at:
            began = self._clock()
            self._found = await self._app[CONTEXT].store.searches.all(query, self._by)
            self._search_again_at = self._clock() + _SEARCH_PAUSE_FACTOR * (self._clock() - began)
        return self._found


def _after(query: WatchQuery, newest_first: Sequence[str]) -> Sequence[str]:
    """Returns the ids after the query's cursor, in the query's order."""
    cursor = query.cursor
    if query.oldest_first:
        return [one for one in reversed(newest_first) if cursor is None or one > cursor]
    return [one for one in newest_first if cursor is None or one < cursor]


def diagnosed(
    app: web.Application, views: Sequence[WatchView]
) -> list[tuple[WatchView, TaskView | None, Diagnosis | None]]:
    """Returns each watch with its diagnosis, and with its task from memory if this replica polls it, else None."""
    store, poller = app[CONTEXT].store, app[DASHBOARD].poller
    keys = {key.name: key for key in poller.credentials()}
    now, paused = store.now(), app[CONTEXT].receivers.paused
    found = []
    for view in views:
        live = poller.live(view.task.row) if view.watch.state is WatchState.ACTIVE else None
        diagnosis = diagnose(view, live, keys, now, shared=store.shared)
        if paused and _receiver_of(view.watch.callback_url) in paused:
            diagnosis = of_paused_receiver(view, diagnosis)
        found.append((view, live, diagnosis))
    return found


def _receiver_of(url: str) -> str:
    """Returns the receiver (host and port) of a callback URL that was accepted."""
    parts = urlsplit(url)
    return f"{bracketed(parts.hostname or '')}:{parts.port or DEFAULT_PORTS[parts.scheme]}"
