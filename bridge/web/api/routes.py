"""The one table of the API's routes: the application answers by it, and the API's document is made from it."""

from typing import Any, Final

from bridge.amux import AmuxUnavailable
from bridge.core import errors
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.web.api import (
    content,
    deliveries,
    documents,
    drop_in,
    event_stream,
    health,
    json_schemas,
    pings,
    request_models,
    response_models,
    watches,
)
from bridge.web.api.route import Answer, Body, CallersHandler, Handler, Parameter, Route
from bridge.web.errors import (
    BodyTooLarge,
    Forbidden,
    MalformedBody,
    MalformedJson,
    TooManyPings,
    UnsupportedMediaType,
    WatchNotCompleted,
)

WATCHES: Final = "Watches"
DELIVERIES: Final = "Deliveries"
DROP_IN: Final = "Drop-in creation"
SERVICE: Final = "The service"
GROUPS: Final = {
    WATCHES: "Ask for callbacks on amux's tasks, and see how they go.",
    DELIVERIES: "The callbacks that are owed or were sent, and sending them again.",
    DROP_IN: "amux's own routes, for clients that know only those: with `X-Callback-Url`, what they create is watched.",
    SERVICE: "Whether the bridge is well, and what it can do. Open to all.",
}

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_PRINTABLE: Final[dict[str, Any]] = {"type": "string", "pattern": "^[ -~]*$"}
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "One event.",
    "properties": {
        "event": {"enum": ["snapshot", "task", "attempt"]},
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/WatchBody"},
                    {"$ref": "#/components/schemas/Polling"},
                    {"$ref": "#/components/schemas/AttemptEvent"},
                ]
            },
        },
        "retry": {},
    },
}
_BYTES: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
_ANYTHING: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
_WATCH: Final = Parameter("id", "The watch's id.", json_schemas.WATCH_ID, "path")
_DELIVERY: Final = Parameter("id", "The delivery's id, which is also `webhook-id`.", json_schemas.DELIVERY_ID, "path")
_TASK: Final = Parameter("id", "The task's id.", json_schemas.TASK_ID, "path")
_IDEMPOTENCY: Final = Parameter(
    "Idempotency-Key",
    "Kept for 24 hours: the same key with the same body is answered as the first time, with the watch as it is now.",
    json_schemas.IDEMPOTENCY_KEY,
    "header",
)
_RANGE: Final = Parameter("Range", "One range of bytes, where amux honours it.", _TEXT, "header")
_LINK: Final = (
    Parameter("expires", "Of a signed link.", _TEXT),
    Parameter("signature", "Of a signed link.", _TEXT),
)
_OF_JSON: Final = (MalformedJson, BodyTooLarge, UnsupportedMediaType)
_OF_REGISTERING: Final = (Forbidden, errors.TargetRefused, errors.TooManyWatches)
_VIDEO: Final[dict[str, dict[str, Any]]] = dict.fromkeys(
    ("video/*", "audio/*", "image/*", "application/octet-stream"), _BYTES
)

# For all, without a token.
OPEN_ROUTES: Final[tuple[Route[Handler], ...]] = (
    Route(
        "GET",
        "/watch/{id}/content",
        content.read_content,
        WATCHES,
        "The video's bytes",
        {
            200: Answer("The video, streamed from amux.", media=_VIDEO),
            206: Answer("The part that was asked for.", media=_VIDEO),
            416: Answer("amux has no such part.", media=_VIDEO),
        },
        "For a token, or for whoever has the signed link in an event's `content_url`.",
        (_WATCH, *_LINK, _RANGE),
        problems=(Forbidden, errors.NotFound, WatchNotCompleted, AmuxUnavailable),
        access="link",
    ),
    Route(
        "GET",
        "/healthz",
        health.healthz,
        SERVICE,
        "Alive",
        {200: Answer("Alive.", response_models.Alive)},
        access="open",
    ),
    Route(
        "GET",
        "/readyz",
        health.readyz,
        SERVICE,
        "Ready",
        {
            200: Answer("Ready, or ready and `degraded`: amux refuses the configured key, say.", response_models.Ready),
            503: Answer("Not ready, with a reason for each no.", response_models.Ready),
        },
        access="open",
    ),
    Route(
        "GET",
        "/metrics",
        health.metrics,
        SERVICE,
        "Metrics",
        {200: Answer("Prometheus' text format.", media={"text/plain": _TEXT})},
        access="open",
    ),
    Route(
        "GET",
        "/openapi.json",
        documents.openapi,
        SERVICE,
        "This document",
        {200: Answer("OpenAPI 3.1.", media={"application/json": _ANYTHING})},
        access="open",
    ),
    Route(
        "GET",
        "/docs",
        documents.docs,
        SERVICE,
        "This document as a page",
        {200: Answer("A page without scripts, with nothing from elsewhere.", media={"text/html": _TEXT})},
        access="open",
    ),
)

# For apps and operators.
ROUTES: Final[tuple[Route[CallersHandler], ...]] = (
    Route(
        "POST",
        "/watch",
        watches.create_watch,
        WATCHES,
        "Watch a task",
        {
            201: Answer(
                "The watch; it is stored.", response_models.WatchBody, headers={"Location": "The watch's path."}
            ),
            200: Answer("The watch was there already, with the same options.", response_models.WatchBody),
        },
        "Two watches on one task with different callbacks are two watches and one poll.",
        (_IDEMPOTENCY,),
        Body(request_models.WatchRequestBody),
        (*_OF_JSON, *_OF_REGISTERING, errors.WatchConflict, errors.IdempotencyConflict),
    ),
    Route(
        "POST",
        "/watch/batch",
        watches.create_watches,
        WATCHES,
        "Watch many tasks",
        {200: Answer("What came of each.", response_models.BatchResults)},
        "One commit, and a bad entry fails alone.",
        (_IDEMPOTENCY,),
        Body(request_models.BatchRequest),
        (*_OF_JSON, Forbidden),
    ),
    Route(
        "GET",
        "/watch",
        watches.list_watches,
        WATCHES,
        "List watches",
        {200: Answer("A page, newest first.", response_models.WatchPage)},
        parameters=(
            Parameter("state", "Only watches in this state.", {"enum": list(WatchState)}),
            Parameter("outcome", "Only watches that ended so.", {"enum": list(Outcome)}),
            Parameter("task_id", "Only watches on this task.", json_schemas.TASK_ID),
            Parameter("delivery_state", "Only watches with such a delivery.", {"enum": list(DeliveryState)}),
            Parameter(
                "limit",
                "How many.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": watches.MOST_ON_A_PAGE,
                    "default": watches.DEFAULT_LIMIT,
                },
            ),
            Parameter("cursor", "`next_cursor` of the page before.", json_schemas.WATCH_ID),
            Parameter(
                "app",
                "Only this app's, for operators: an app sees its own anyway.",
                {"type": "string", "pattern": "^[ -~]{1,64}$"},
            ),
        ),
    ),
    Route(
        "GET",
        "/watch/{id}",
        watches.read_watch,
        WATCHES,
        "Read a watch",
        {200: Answer("The watch, its task as last seen, its deliveries.", response_models.WatchBody)},
        parameters=(
            _WATCH,
            Parameter(
                "wait_seconds",
                "Hold the answer until the watch is final, or so long.",
                {"type": "number", "minimum": 0, "maximum": watches.LONGEST_WAIT_SECONDS},
            ),
        ),
        problems=(errors.NotFound,),
    ),
    Route(
        "DELETE",
        "/watch/{id}",
        watches.cancel_watch,
        WATCHES,
        "Cancel a watch",
        {200: Answer("The watch, cancelled: no more polls, nothing more sent. Repeatable.", response_models.WatchBody)},
        parameters=(_WATCH,),
        problems=(errors.NotFound, errors.WatchSettled),
    ),
    Route(
        "GET",
        "/watch/{id}/events",
        event_stream.read_events,
        WATCHES,
        "Follow a watch",
        {
            200: Answer("Events, until the watch is over.", media={"text/event-stream": _EVENT}),
            204: Answer("`Last-Event-ID` says that all of it was had: a browser then asks no more."),
        },
        "Server-sent events: `snapshot` (a watch), `task` (its task and polls), `attempt` (one POST of a delivery, and"
        " the delivery after it). They end when the watch is final and nothing is pending, or after an hour.",
        (_WATCH, Parameter("Last-Event-ID", "The last event that was had.", _TEXT, "header")),
        problems=(errors.NotFound,),
    ),
    Route(
        "GET",
        "/watch/{id}/envelope",
        watches.read_envelope,
        WATCHES,
        "The terminal event as it is sent",
        {
            200: Answer(
                "The event's exact bytes, signed now.",
                response_models.EventBody,
                headers={
                    "webhook-id": "The event's id.",
                    "webhook-timestamp": "Unix seconds, of this answer.",
                    "webhook-signature": "As of a callback.",
                },
            )
        },
        parameters=(_WATCH,),
        problems=(errors.NotFound, errors.WatchActive),
    ),
    Route(
        "GET",
        "/deliveries/{id}",
        deliveries.read_delivery,
        DELIVERIES,
        "Read a delivery",
        {200: Answer("The delivery and its attempts.", response_models.DeliveryWithLog)},
        parameters=(_DELIVERY,),
        problems=(errors.NotFound,),
    ),
    Route(
        "POST",
        "/deliveries/{id}/retry",
        deliveries.retry_delivery,
        DELIVERIES,
        "Send a delivery again",
        {202: Answer("Due now, with a new schedule and the same `webhook-id`.", response_models.OwnedDelivery)},
        parameters=(_DELIVERY,),
        problems=(errors.NotFound,),
    ),
    Route(
        "POST",
        "/deliveries/retry",
        deliveries.retry_deliveries,
        DELIVERIES,
        "Send dead deliveries again",
        {
            202: Answer("How many are due now.", response_models.Count),
            200: Answer("Of a dry run: how many there are.", response_models.Count),
        },
        body=Body(request_models.RetryRequest),
        problems=_OF_JSON,
    ),
    Route(
        "POST",
        "/ping",
        pings.ping,
        DELIVERIES,
        "Try a callback",
        {200: Answer("What came of it. No answer of the receiver's is `ok` false.", response_models.PingOutcome)},
        "Judges the target, then sends one signed `bridge.ping`. One at a time, 30 a minute.",
        body=Body(request_models.PingRequest),
        problems=(*_OF_JSON, errors.TargetRefused, TooManyPings),
    ),
)


# --- drop-in creation ---------------------------------------------------------------------------------------------

_OWN_KEY: Final = Parameter(
    drop_in.API_KEY,
    "The caller's own amux key, instead of the bridge's; it is then the watch's as well.",
    json_schemas.API_KEY,
    "header",
)
_CALLBACKS: Final = tuple(
    Parameter(name, f"As `{option}` of `POST /watch`{note}.", _TEXT, "header")
    for (option, name), note in zip(
        drop_in.CALLBACK_HEADERS.items(), ("", ", in JSON", ", separated by commas", ""), strict=True
    )
)
_AS_AMUX: Final[dict[str, dict[str, Any]]] = {"application/json": {}}
_CREATED: Final = Answer(
    "amux's answer, as it was.",
    media=_AS_AMUX,
    headers={
        drop_in.WATCH_ID: "The watch on the new task.",
        drop_in.WATCH_ERROR: "Why the new task is not watched, should that be so.",
    },
)


def _creation(path: str, summary: str) -> Route[CallersHandler]:
    return Route(
        "POST",
        path,
        drop_in.create,
        DROP_IN,
        summary,
        {200: _CREATED},
        "The body goes to amux unchanged. Target, limits and store are checked before amux is asked.",
        (*_CALLBACKS, _OWN_KEY, Parameter("Idempotency-Key", "Passed to amux.", _PRINTABLE, "header")),
        Body(media={"application/json": _ANYTHING, "multipart/form-data": _ANYTHING}),
        (*_OF_REGISTERING, MalformedBody, UnsupportedMediaType, AmuxUnavailable),
        passes_on=True,
    )


def _reading(path: str, summary: str, media: dict[str, dict[str, Any]], *more: Parameter) -> Route[CallersHandler]:
    return Route(
        "GET",
        path,
        drop_in.read_content if media is _VIDEO else drop_in.read_task,
        DROP_IN,
        summary,
        {200: Answer("amux's answer, as it was.", media=media)},
        parameters=(_TASK, _OWN_KEY, *more),
        problems=(Forbidden, errors.NotFound, AmuxUnavailable),
        passes_on=True,
    )


DROP_IN_ROUTES: Final = (
    _creation("/v1/videos", "Create a video, and watch its task"),
    _creation("/v1/video/generations", "Create and watch, the generic way"),
    _reading("/v1/videos/{id}", "Ask amux about a task", _AS_AMUX),
    _reading("/v1/video/generations/{id}", "Ask amux about a task, the generic way", _AS_AMUX),
    _reading("/v1/videos/{id}/content", "The video's bytes from amux", _VIDEO, _RANGE),
)
