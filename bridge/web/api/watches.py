"""The routes of watches: register, read, list, cancel, and the terminal event as it is sent."""

import asyncio
import hashlib
from typing import Any, Final

from aiohttp import web

from bridge.core.errors import BridgeError, InvalidRequest
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.core.registration import check_task_id
from bridge.store.records import Idempotency, WatchQuery, WatchView
from bridge.watches.registration import RegistrationResult, WatchRequest
from bridge.web.api.request_models import BatchRequest, WatchRequestBody
from bridge.web.api.response_models import BatchResult, BatchResults, WatchBody, WatchPage
from bridge.web.api.serializers import watch_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.errors import problem_of
from bridge.web.requests import (
    MAX_BATCH_BYTES,
    check_watch_id,
    idempotency_key,
    json_answer,
    number_of,
    parsed,
    query_of,
    read_body,
    secured,
    watch_id_of,
)

LONGEST_WAIT_SECONDS: Final = 60
DEFAULT_LIMIT: Final = 50
MOST_ON_A_PAGE: Final = 200


async def create_watch(request: web.Request, caller: Caller) -> web.Response:
    """`POST /watch`."""
    app = caller.registering()
    query_of(request)
    services = request.app[CONTEXT]
    key = idempotency_key(request)
    body = await read_body(request)
    wanted = WatchRequestBody.read(parsed(body)).wanted(None if key is None else Idempotency(key, _digest(body)))
    taken = await services.registration.register(wanted, app)
    status, shown = _answer_of(services, taken)
    return json_answer(shown, status, {"Location": f"/watch/{taken.view.watch.id}"} if taken.created else None)


async def create_watches(request: web.Request, caller: Caller) -> web.Response:
    """`POST /watch/batch`: a bad entry fails alone."""
    app = caller.registering()
    query_of(request)
    services = request.app[CONTEXT]
    key = idempotency_key(request)
    body = await read_body(request, MAX_BATCH_BYTES)
    given = BatchRequest.read(parsed(body)).watches
    digest = _digest(body) if key is not None else b""
    entries = [
        _wanted_or_error(entry, None if key is None else Idempotency(_entry_key(key, number), digest))
        for number, entry in enumerate(given)
    ]
    registered = iter(
        await services.registration.register_all([one for one in entries if isinstance(one, WatchRequest)], app)
    )
    results = [one if isinstance(one, BridgeError) else next(registered) for one in entries]
    return json_answer(BatchResults(results=[_entry(services, result) for result in results]))


def _wanted_or_error(entry: Any, idempotency: Idempotency | None) -> WatchRequest | BridgeError:
    try:
        return WatchRequestBody.read(entry).wanted(idempotency)
    except BridgeError as error:
        return error


def _entry_key(key: str, number: int) -> str:
    """An entry's own key; it holds a space, as no key that is given does."""
    return f"batch {number} {hashlib.sha256(key.encode()).hexdigest()}"


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _answer_of(services: AppContext, taken: RegistrationResult) -> tuple[int, WatchBody]:
    return 201 if taken.created else 200, watch_json(taken.view, services.poller.live)


def _entry(services: AppContext, result: RegistrationResult | BridgeError) -> BatchResult:
    if isinstance(result, BridgeError):
        problem = problem_of(result)
        return {"status": problem["status"], "problem": problem}
    status, shown = _answer_of(services, result)
    return {"status": status, "watch": shown}


# --- reading ------------------------------------------------------------------------------------------------------


async def read_watch(request: web.Request, caller: Caller) -> web.Response:
    """`GET /watch/{id}`; with `wait_seconds` held until the watch is final or the time is up."""
    services = request.app[CONTEXT]
    query = query_of(request, ("wait_seconds",))
    seconds = number_of(query.get("wait_seconds", "0"), "wait_seconds", least=0, most=LONGEST_WAIT_SECONDS)
    watch_id = watch_id_of(request)
    if seconds:
        view = await _final_or_late(services, watch_id, caller.sees, seconds)
    else:
        view = await services.store.watch(watch_id, caller.sees)
    return json_answer(watch_json(view, services.poller.live))


async def _final_or_late(services: AppContext, watch_id: str, sees: str | None, seconds: float) -> WatchView:
    """The watch once it is final, or as it is when the time is up or the bridge stops."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + seconds
    with services.waiting.listening(watch_id) as heard:
        while True:
            heard.clear()
            view = await services.store.watch(watch_id, sees)
            left = deadline - clock()
            if view.watch.state is not WatchState.ACTIVE or left <= 0:
                return view
            if not await services.waiting.change(heard, left):
                return await services.store.watch(watch_id, sees)


async def list_watches(request: web.Request, caller: Caller) -> web.Response:
    """`GET /watch`: a page, newest first."""
    services = request.app[CONTEXT]
    wanted = _page(query_of(request, _FILTERS), caller)
    # An app sees its own: of another's name it finds nothing.
    found = await services.store.watches(wanted) if caller.sees in {None, wanted.app} else ()
    page = found[: wanted.limit - 1]  # one more was asked for, to know whether there is a next page
    following = page[-1].watch.id if len(found) > len(page) else None
    live = services.poller.live
    return json_answer(WatchPage(items=[watch_json(view, live) for view in page], next_cursor=following))


_FILTERS: Final = ("state", "outcome", "task_id", "delivery_state", "limit", "cursor", "app")


def _page(query: dict[str, str], caller: Caller) -> WatchQuery:
    """A query's parameters as the store takes them. Raises InvalidRequest."""
    limit = number_of(query.get("limit", str(DEFAULT_LIMIT)), "limit", least=1, most=MOST_ON_A_PAGE, whole=True)
    if "task_id" in query:
        try:
            check_task_id(query["task_id"])
        except ValueError as error:
            raise InvalidRequest([("task_id", str(error))]) from None
    return WatchQuery(
        limit=int(limit) + 1,
        before=check_watch_id(query["cursor"], "cursor") if "cursor" in query else None,
        app=_app_name(query.get("app")) or caller.sees,
        state=_word(query, "state", WatchState),
        outcome=_word(query, "outcome", Outcome),
        task_id=query.get("task_id"),
        delivery_state=_word(query, "delivery_state", DeliveryState),
    )


def _app_name(text: str | None) -> str | None:
    if text is not None and not (text.isascii() and text.isprintable() and 1 <= len(text) <= 64):
        raise InvalidRequest([("app", "must be an app's name")])
    return text


def _word(query: dict[str, str], name: str, words: Any) -> Any:
    if name not in query:
        return None
    try:
        return words(query[name])
    except ValueError:
        raise InvalidRequest([(name, f"must be one of {', '.join(words)}")]) from None


async def read_envelope(request: web.Request, caller: Caller) -> web.Response:
    """`GET /watch/{id}/envelope`: the terminal event's bytes, signed now."""
    services = request.app[CONTEXT]
    query_of(request)
    event = await services.store.terminal_event(watch_id_of(request), caller.sees)
    signed = services.signer.headers(event.event_id, int(services.store.now()), event.payload, event.secret)
    answer = web.Response(body=event.payload, headers=signed, content_type="application/json")
    secured(answer)
    return answer


# --- steering -----------------------------------------------------------------------------------------------------


async def cancel_watch(request: web.Request, caller: Caller) -> web.Response:
    """`DELETE /watch/{id}`: cancelled, or 409 when it is settled."""
    services = request.app[CONTEXT]
    query_of(request)
    view = await services.registration.cancel(watch_id_of(request), caller.sees)
    return json_answer(watch_json(view, services.poller.live))
