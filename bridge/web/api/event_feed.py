"""`GET /events`: an app's events in order, for apps that fetch their events instead of receiving callbacks."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import orjson
from aiohttp import web

from bridge.core.event_cursor import Position, cursor_of, position_of
from bridge.core.model import EventType
from bridge.store.event_feed import EVERY_APP
from bridge.store.records import EventPage, EventQuery
from bridge.web.api.response_models import EventFeedPage
from bridge.web.api.watches import app_name_of, wait_seconds_of
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.requests import Query, json_answer, number_of

CALLER: Final = "X-Caller"
LATEST: Final = "latest"
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 500
SEARCH_SECONDS: Final = 2.0  # for rare types; the page then ends at the place that the search has reached
_PARAMETERS: Final = ("after", "limit", "wait_seconds", "app")
_NO_APP: Final = "\n"  # no app can have this name: an app that asks for another app's events gets none


async def list_events(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /events` with one page. With `wait_seconds` the answer is held while there is no event."""
    context = request.app[CONTEXT]
    parameters = Query.of(request, _PARAMETERS, repeatable=("type",))
    from_now_on = parameters.values.get("after") == LATEST
    after = None if from_now_on else parameters.read("after", _position)
    limit = parameters.read("limit", _limit) or DEFAULT_LIMIT
    seconds = parameters.read("wait_seconds", wait_seconds_of) or 0.0
    types = parameters.choices("type", EventType)
    app = parameters.read("app", app_name_of) or caller.visible_app
    parameters.check()
    if caller.visible_app not in {None, app}:
        app = _NO_APP
    async with context.store.request_limit():
        if from_now_on:
            await context.event_numbering.catch_up()
            after = await context.store.feed.latest(app)
        query = EventQuery(int(limit), after, app, types)
        if not seconds:
            return _answer(await _page(context, query), caller)
    return _answer(await _page_within(context, query, seconds), caller)


def _answer(page: EventPage, caller: Caller) -> web.Response:
    # The answer contains the exact bytes of the events.
    items: list[Any] = [orjson.Fragment(payload) for payload in page.payloads]
    return json_answer(EventFeedPage(items=items, next_cursor=cursor_of(page.end)), headers={CALLER: caller.key})


async def _page_within(context: AppContext, query: EventQuery, seconds: float) -> EventPage:
    """Returns a page once it has an event, or an empty one when the time is up or the bridge stops."""
    notifier = context.event_numbering.notifier
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    with notifier.listening(query.app or EVERY_APP) as changed:
        waiting = True
        while True:
            changed.clear()
            async with context.store.request_limit():
                page = await _page(context, query)
            if page.payloads or not waiting:
                return page
            query = replace(query, after=page.end)
            left = deadline - clock()
            waiting = left > 0 and (page.more or await notifier.wait(changed, left))


async def _page(context: AppContext, query: EventQuery) -> EventPage:
    """Returns a page. A search for rare types takes several steps. After two seconds it ends early."""
    feed, clock = context.store.feed, asyncio.get_running_loop().time
    ends_at, caught_up = clock() + SEARCH_SECONDS, False
    page = await feed.page(query)
    payloads = page.payloads
    while len(payloads) < query.limit and clock() < ends_at:
        if not page.more:
            if caught_up or not await context.event_numbering.catch_up():
                break
            caught_up = True
        page = await feed.page(replace(query, after=page.end, limit=query.limit - len(payloads)))
        payloads += page.payloads
    return EventPage(payloads, page.end, page.more)


def _position(text: str) -> Position:
    try:
        return position_of(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {LATEST}") from None


def _limit(text: str) -> float:
    return number_of(text, "limit", least=1, most=MAX_LIMIT, whole=True)
