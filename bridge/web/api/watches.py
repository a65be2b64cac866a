"""The routes of watches: register, read, list, cancel, and the terminal event as it is sent."""

import asyncio
import hashlib
import math
from typing import Any, Final

from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.core.registration import check_idempotency_key, check_task_id
from bridge.core.watch_search import SearchText
from bridge.store.records import Idempotency, RegisteredWatch, WatchQuery, WatchView
from bridge.telemetry import get_logger, rfc3339
from bridge.watches.registration import WatchRequest
from bridge.web.api.json_schemas import MAX_APP_NAME
from bridge.web.api.request_models import BatchRequest, WatchRequestBody, query_time, stored_receiver
from bridge.web.api.response_models import BatchResult, BatchResults, WatchPage
from bridge.web.api.serializers import watch_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.errors import problem_of
from bridge.web.requests import (
    JSON,
    MAX_BATCH_BYTES,
    Query,
    bad_parameters,
    check_event_id,
    check_watch_id,
    checked_header,
    json_answer,
    number_of,
    parsed,
    query_of,
    read_body,
    secured,
    trace_of,
    watch_id_of,
)

MAX_WAIT_SECONDS: Final = 60
DEFAULT_LIMIT: Final = 50
MAX_LIMIT: Final = 200
LIST_PARAMETERS: Final = (
    *("state", "outcome", "task_id", "event_id", "delivery_state", "callback_host", "created_after", "created_before"),
    *("q", "limit", "cursor", "app"),
)

_log = get_logger("web")


async def create_watch(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /watch`: registers a watch."""
    app = caller.require_app()
    bad = bad_parameters(request)
    context = request.app[CONTEXT]
    context.check_not_draining()
    key = checked_header(request, "Idempotency-Key", check_idempotency_key, bad)
    body = await read_body(request, bad)
    idempotency = None if key is None else Idempotency(key, _digest(body))
    valid = WatchRequestBody.read(parsed(body, bad), context.registration.bad_fields, bad)
    result = await context.registration.register(valid.watch_request(app, idempotency, trace_of(request)))
    watch = watch_json(result.view, context.poller.live)
    return json_answer(watch, 201, {"Location": f"/watch/{watch['id']}"}) if result.created else json_answer(watch)


async def create_watches(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /watch/batch` with one result for each entry. A bad entry does not affect the others."""
    app = caller.require_app()
    bad = bad_parameters(request)
    context = request.app[CONTEXT]
    context.check_not_draining()
    key = checked_header(request, "Idempotency-Key", check_idempotency_key, bad)
    body = await read_body(request, bad, MAX_BATCH_BYTES)
    entries = BatchRequest.read(parsed(body, bad), outside=bad).watches
    digest = _digest(body) if key is not None else b""
    trace = trace_of(request)

    def watch_request_or_error(number: int, entry: Any) -> WatchRequest | BridgeError:
        idempotency = None if key is None else Idempotency(_entry_key(key, number), digest)
        try:
            checked = WatchRequestBody.read(entry, context.registration.bad_fields)
            return checked.watch_request(app, idempotency, trace)
        except BridgeError as error:
            return error

    watch_requests = [watch_request_or_error(number, entry) for number, entry in enumerate(entries)]
    valid = [one for one in watch_requests if isinstance(one, WatchRequest)]
    registered = iter(await context.registration.register_all(valid))
    results = [one if isinstance(one, BridgeError) else next(registered) for one in watch_requests]
    return json_answer(BatchResults(results=[_batch_result(context, result) for result in results]))


def _entry_key(key: str, number: int) -> str:
    """Returns the idempotency key of one entry. It has a space, so it never equals a key that a caller sends."""
    return f"batch {number} {hashlib.sha256(key.encode()).hexdigest()}"


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _batch_result(context: AppContext, result: RegisteredWatch | BridgeError) -> BatchResult:
    if isinstance(result, BridgeError):
        problem = problem_of(result)
        return {"status": problem["status"], "problem": problem}
    return {"status": 201 if result.created else 200, "watch": watch_json(result.view, context.poller.live)}


# --- reading ------------------------------------------------------------------------------------------------------


async def read_watch(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /watch/{id}`. With `wait_seconds` it answers when the watch is final or the time is up."""
    context = request.app[CONTEXT]
    query = Query.of(request, ("wait_seconds",))
    seconds = query.read("wait_seconds", wait_seconds_of)
    query.check()
    watch_id = watch_id_of(request)
    if seconds:
        view = await _wait_until_final(context, watch_id, caller.visible_app, seconds)
    else:
        view = await context.store.watch(watch_id, caller.visible_app)
    return json_answer(watch_json(view, context.poller.live))


async def _wait_until_final(context: AppContext, watch_id: str, visible_app: str | None, seconds: float) -> WatchView:
    """Returns the watch once it is final, or as it is when the time is up or the bridge stops."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    notifier = context.change_notifier
    with notifier.listening(watch_id) as changed:
        while True:
            changed.clear()
            view = await context.store.watch(watch_id, visible_app)
            left = deadline - clock()
            if view.watch.state is not WatchState.ACTIVE or left <= 0:
                return view
            if not await notifier.wait(changed, left):
                return await context.store.watch(watch_id, visible_app)


async def list_watches(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /watch` with one page of watches, newest first."""
    context = request.app[CONTEXT]
    query = _watch_query(Query.of(request, LIST_PARAMETERS), caller)
    if caller.visible_app not in {None, query.app}:
        return json_answer(WatchPage(items=[], next_cursor=None))  # another app's watches
    found = await context.store.searches.page(query, caller.key)
    live = context.poller.live
    page = WatchPage(
        items=[watch_json(view, live) for view in found.views],
        next_cursor=found.views[-1].watch.id if found.more and found.views else None,
    )
    if query.needs_scan:
        page["searched_back_to"] = searched_back_to(found.looked_back_to)
    return json_answer(page)


def searched_back_to(moment: float | None) -> str | None:
    """Returns how far back a search looked, rounded up to a millisecond; None for None.

    A search with this time as `created_before` continues without a gap.
    """
    return None if moment is None else rfc3339(math.ceil(moment * 1000) / 1000)


def _watch_query(parameters: Query, caller: Caller) -> WatchQuery:
    """Returns the store's query for the parameters and the caller. Raises InvalidRequest."""
    query = WatchQuery(
        limit=int(parameters.read("limit", _limit) or DEFAULT_LIMIT),
        cursor=parameters.read("cursor", lambda text: check_watch_id(text, "cursor")),
        app=parameters.read("app", app_name_of) or caller.visible_app,
        state=parameters.choice("state", WatchState),
        outcome=parameters.choice("outcome", Outcome),
        task_id=parameters.read("task_id", check_task_id),
        event_id=parameters.read("event_id", check_event_id),
        delivery_state=parameters.choice("delivery_state", DeliveryState),
        host=parameters.read("callback_host", stored_receiver),
        created_after=parameters.read("created_after", query_time),
        created_before=parameters.read("created_before", query_time),
        text=parameters.read("q", SearchText.of),
    )
    parameters.check()
    return query


def _limit(text: str) -> float:
    return number_of(text, "limit", least=1, most=MAX_LIMIT, whole=True)


def wait_seconds_of(text: str) -> float:
    """Returns how long an answer may be held, in seconds. Raises InvalidRequest."""
    return number_of(text, "wait_seconds", least=0, most=MAX_WAIT_SECONDS)


def app_name_of(text: str) -> str:
    """Returns the name of an app from a query. Raises ValueError."""
    if not (text.isascii() and text.isprintable() and 1 <= len(text) <= MAX_APP_NAME):
        raise ValueError(f"must be 1 to {MAX_APP_NAME} printable ASCII characters")
    return text


async def read_envelope(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /watch/{id}/envelope` with the terminal event's exact bytes, signed now."""
    context = request.app[CONTEXT]
    query_of(request)
    event = await context.store.terminal_event(watch_id_of(request), caller.visible_app)
    headers = context.signer.headers(event.event_id, int(context.store.now()), event.payload, event.secret)
    response = web.Response(body=event.payload, headers=headers, content_type=JSON)
    secured(response)
    return response


# --- cancelling ---------------------------------------------------------------------------------------------------


async def cancel_watch(request: web.Request, caller: Caller) -> web.Response:
    """Answers `DELETE /watch/{id}`: cancels an active watch. Can be repeated. A settled watch gets a 409."""
    context = request.app[CONTEXT]
    query_of(request)
    watch_id, actor = watch_id_of(request), caller.actor
    view = await context.registration.cancel(watch_id, caller.visible_app, actor)
    _log.event("cancel_requested", watch_id=watch_id, app=view.watch.app, by=actor.name, role=actor.role)
    return json_answer(watch_json(view, context.poller.live))
