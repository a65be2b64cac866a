"""The table of the API's routes. The application and the OpenAPI document are made from it."""

from typing import Any, Final

from bridge.amux import AmuxUnavailable
from bridge.core import errors
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.registration import IDEMPOTENCY_SECONDS
from bridge.web.api import (
    content,
    deliveries,
    docs,
    drop_in,
    event_stream,
    health,
    json_schemas,
    pings,
    request_models,
    response_models,
    watches,
)
from bridge.web.api.route import CallersHandler, Handler, Parameter, RequestBody, Response, Route
from bridge.web.errors import (
    BodyTooLarge,
    Forbidden,
    MalformedBody,
    MalformedJson,
    TooManyPings,
    UnsupportedMediaType,
    WatchNotCompleted,
)
from bridge.web.rate_limits import PINGS_A_MINUTE
from bridge.web.requests import JSON
from bridge.web.sse import EVENT_STREAM, LONGEST_SECONDS

WATCHES: Final = "Watches"
DELIVERIES: Final = "Deliveries"
DROP_IN: Final = "Drop-in creation"
SERVICE: Final = "The service"
GROUPS: Final = {
    WATCHES: "Register watches on amux's tasks, read them and cancel them.",
    DELIVERIES: "Read the deliveries of events, and send them again.",
    DROP_IN: "amux's own routes, for clients made for amux. With `X-Callback-Url` the created task is watched.",
    SERVICE: "The bridge's health, metrics and documentation. No token is needed.",
}

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_PRINTABLE: Final[dict[str, Any]] = {"type": "string", "pattern": "^[ -~]*$"}
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "One event.",
    "properties": {
        "event": {"enum": [event_stream.SNAPSHOT, event_stream.TASK, event_stream.ATTEMPT]},
        "id": {"type": "string"},
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {
                "anyOf": [
                    json_schemas.reference_to(model)
                    for model in (response_models.WatchBody, response_models.Polling, response_models.AttemptEvent)
                ]
            },
        },
        "retry": {},
    },
}
_BYTES: Final[dict[str, Any]] = {"type": "string", "format": "binary"}
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}
_WATCH: Final = Parameter("id", "The watch's id.", json_schemas.WATCH_ID, "path")
_DELIVERY: Final = Parameter("id", "The delivery's id, which is also `webhook-id`.", json_schemas.DELIVERY_ID, "path")
_TASK: Final = Parameter("id", "The task's id.", json_schemas.TASK_ID, "path")
_IDEMPOTENCY: Final = Parameter(
    "Idempotency-Key",
    f"The key is kept for {IDEMPOTENCY_SECONDS / 3600:g} hours. The same key with the same body gets the status of the "
    "first response, with the watch as it is now.",
    json_schemas.IDEMPOTENCY_KEY,
    "header",
)
_RANGE: Final = Parameter("Range", "One range of bytes. amux may ignore it and send the whole video.", _TEXT, "header")
_LINK: Final = (
    Parameter("expires", "Part of a signed link.", _TEXT),
    Parameter("signature", "Part of a signed link.", _TEXT),
)
_BODY_PROBLEMS: Final = (MalformedJson, BodyTooLarge, UnsupportedMediaType)
_REGISTRATION_PROBLEMS: Final = (Forbidden, errors.TargetRefused, errors.TooManyWatches)
_VIDEO: Final[dict[str, dict[str, Any]]] = dict.fromkeys(
    ("video/*", "audio/*", "image/*", "application/octet-stream"), _BYTES
)

# Routes without a token.
OPEN_ROUTES: Final[tuple[Route[Handler], ...]] = (
    Route(
        "GET",
        "/watch/{id}/content",
        content.read_content,
        WATCHES,
        "Read the video's bytes",
        {
            200: Response("The video, streamed from amux.", media=_VIDEO),
            206: Response("The requested range.", media=_VIDEO),
            416: Response("The requested range is outside the video.", media=_VIDEO),
        },
        "Needs a token, or the signed link in an event's `content_url`.",
        (_WATCH, *_LINK, _RANGE),
        problems=(Forbidden, errors.NotFound, WatchNotCompleted, AmuxUnavailable),
        access="link",
    ),
    Route(
        "GET",
        "/healthz",
        health.healthz,
        SERVICE,
        "Check that the process is alive",
        {200: Response("The event loop runs.", response_models.Alive)},
        access="open",
    ),
    Route(
        "GET",
        "/readyz",
        health.readyz,
        SERVICE,
        "Check that the bridge is ready",
        {
            200: Response(
                "Ready; or `degraded`, for example while amux refuses the configured key.", response_models.Ready
            ),
            503: Response("Not ready, with a reason for each failing check.", response_models.Ready),
        },
        access="open",
    ),
    Route(
        "GET",
        "/metrics",
        health.metrics,
        SERVICE,
        "Read the metrics",
        {200: Response("The metrics in Prometheus' text format.", media={"text/plain": _TEXT})},
        access="open",
    ),
    Route(
        "GET",
        "/openapi.json",
        docs.openapi,
        SERVICE,
        "Read this document as OpenAPI",
        {200: Response("The OpenAPI 3.1 document.", media={JSON: _ANY_OBJECT})},
        access="open",
    ),
    Route(
        "GET",
        "/docs",
        docs.docs,
        SERVICE,
        "Read this document as a page",
        {200: Response("A page without scripts, which loads nothing from elsewhere.", media={"text/html": _TEXT})},
        access="open",
    ),
)

# Routes for callers with a token: apps and operators.
ROUTES: Final[tuple[Route[CallersHandler], ...]] = (
    Route(
        "POST",
        "/watch",
        watches.create_watch,
        WATCHES,
        "Watch a task",
        {
            201: Response(
                "The new watch, stored durably.", response_models.WatchBody, headers={"Location": "The watch's path."}
            ),
            200: Response("An active watch with the same options exists. This is it.", response_models.WatchBody),
        },
        "A task may have several watches with different callbacks. It is polled once for all of them.",
        (_IDEMPOTENCY,),
        RequestBody(request_models.WatchRequestBody),
        (*_BODY_PROBLEMS, *_REGISTRATION_PROBLEMS, errors.WatchConflict, errors.IdempotencyConflict),
    ),
    Route(
        "POST",
        "/watch/batch",
        watches.create_watches,
        WATCHES,
        "Watch many tasks",
        {200: Response("One result for each entry, in order.", response_models.BatchResults)},
        f"Up to {request_models.MAX_BATCH} watches are stored in one commit. A bad entry does not affect the others.",
        (_IDEMPOTENCY,),
        RequestBody(request_models.BatchRequest),
        (*_BODY_PROBLEMS, Forbidden),
    ),
    Route(
        "GET",
        "/watch",
        watches.list_watches,
        WATCHES,
        "List watches",
        {200: Response("A page of watches, newest first.", response_models.WatchPage)},
        parameters=(
            Parameter("state", "Only watches in this state.", {"enum": list(WatchState)}),
            Parameter("outcome", "Only watches with this outcome.", {"enum": list(Outcome)}),
            Parameter("task_id", "Only watches of this task.", json_schemas.TASK_ID),
            Parameter("delivery_state", "Only watches with a delivery in this state.", {"enum": list(DeliveryState)}),
            Parameter(
                "limit",
                "The largest number of watches in the page.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": watches.MAX_LIMIT,
                    "default": watches.DEFAULT_LIMIT,
                },
            ),
            Parameter("cursor", "The `next_cursor` of the previous page.", json_schemas.WATCH_ID),
            Parameter(
                "app",
                "Only watches of this app. For operators: an app sees only its own watches.",
                json_schemas.APP_NAME,
            ),
        ),
    ),
    Route(
        "GET",
        "/watch/{id}",
        watches.read_watch,
        WATCHES,
        "Read a watch",
        {200: Response("The watch, its task as it was last seen, and its deliveries.", response_models.WatchBody)},
        parameters=(
            _WATCH,
            Parameter(
                "wait_seconds",
                "Hold the response until the watch is final, or for this time.",
                {"type": "number", "minimum": 0, "maximum": watches.MAX_WAIT_SECONDS},
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
        {200: Response("The cancelled watch. It is not polled, and nothing more is sent.", response_models.WatchBody)},
        "Can be repeated.",
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
            200: Response("The event stream.", media={EVENT_STREAM: _EVENT}),
            204: Response("`Last-Event-ID` is the last event of a watch that is over. A browser stops reconnecting."),
        },
        "Server-sent events: `snapshot` (the watch), `task` (its task and the polling of it), `attempt` (one POST of a"
        " delivery, and the delivery after it). The stream ends when the watch is final and no delivery is pending, or"
        f" after {LONGEST_SECONDS / 60:g} minutes.",
        (_WATCH, Parameter(event_stream.LAST_EVENT_ID, "The id of the last event received.", _TEXT, "header")),
        problems=(errors.NotFound,),
    ),
    Route(
        "GET",
        "/watch/{id}/envelope",
        watches.read_envelope,
        WATCHES,
        "Read the terminal event as a receiver gets it",
        {
            200: Response(
                "The event's exact bytes, signed now.",
                response_models.EventBody,
                headers={
                    "webhook-id": "The event's id.",
                    "webhook-timestamp": "The time of this response, in Unix seconds.",
                    "webhook-signature": "The signatures, as in a callback.",
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
        {200: Response("The delivery and its attempts.", response_models.DeliveryWithLog)},
        parameters=(_DELIVERY,),
        problems=(errors.NotFound,),
    ),
    Route(
        "POST",
        "/deliveries/{id}/retry",
        deliveries.retry_delivery,
        DELIVERIES,
        "Send a delivery again",
        {
            202: Response(
                "The delivery: due now, with a new schedule and the same `webhook-id`.", response_models.OwnedDelivery
            )
        },
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
            202: Response("The number of deliveries that are due now.", response_models.Count),
            200: Response("In a dry run: the number of deliveries that match.", response_models.Count),
        },
        body=RequestBody(request_models.RetryRequest),
        problems=_BODY_PROBLEMS,
    ),
    Route(
        "POST",
        "/ping",
        pings.ping,
        DELIVERIES,
        "Test a callback",
        {
            200: Response(
                "The result. `ok` is false when the receiver does not answer 2xx, or not at all.",
                response_models.PingOutcome,
            )
        },
        "Checks the target, then sends one signed `bridge.ping`. An app or operator can send one ping at a time, and"
        f" {PINGS_A_MINUTE} a minute.",
        body=RequestBody(request_models.PingRequest),
        problems=(*_BODY_PROBLEMS, errors.TargetRefused, TooManyPings),
    ),
)


# --- drop-in creation ---------------------------------------------------------------------------------------------

_OWN_KEY: Final = Parameter(
    drop_in.API_KEY,
    "The caller's own amux key, used instead of the bridge's key; also for a watch of the created task.",
    json_schemas.API_KEY,
    "header",
)
_CALLBACKS: Final = tuple(
    Parameter(name, f"The field `{option}` of `POST /watch`{note}.", _TEXT, "header")
    for (option, name), note in zip(
        drop_in.CALLBACK_HEADERS.items(), ("", ", as JSON", ", separated by commas", ""), strict=True
    )
)
_AMUX_JSON: Final[dict[str, dict[str, Any]]] = {JSON: {}}
_CREATED: Final = Response(
    "amux's response, unchanged.",
    media=_AMUX_JSON,
    headers={
        drop_in.WATCH_ID: "The id of the watch on the created task.",
        drop_in.WATCH_ERROR: "The reason, if the created task is not watched.",
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
        "The body is passed to amux unchanged. The callback target, the limits and the store are checked first.",
        (*_CALLBACKS, _OWN_KEY, Parameter("Idempotency-Key", "Passed to amux unchanged.", _PRINTABLE, "header")),
        RequestBody(media={JSON: _ANY_OBJECT, drop_in.MULTIPART: _ANY_OBJECT}),
        (*_REGISTRATION_PROBLEMS, MalformedBody, UnsupportedMediaType, AmuxUnavailable),
        proxied=True,
    )


def _reading(path: str, summary: str, media: dict[str, dict[str, Any]], *more: Parameter) -> Route[CallersHandler]:
    return Route(
        "GET",
        path,
        drop_in.read_content if media is _VIDEO else drop_in.read_task,
        DROP_IN,
        summary,
        {200: Response("amux's response, unchanged.", media=media)},
        parameters=(_TASK, _OWN_KEY, *more),
        problems=(Forbidden, errors.NotFound, AmuxUnavailable),
        proxied=True,
    )


DROP_IN_ROUTES: Final = (
    _creation("/v1/videos", "Create a video (OpenAI format) and watch its task"),
    _creation("/v1/video/generations", "Create a video (amux format) and watch its task"),
    _reading("/v1/videos/{id}", "Read a task from amux (OpenAI format)", _AMUX_JSON),
    _reading("/v1/video/generations/{id}", "Read a task from amux (amux format)", _AMUX_JSON),
    _reading("/v1/videos/{id}/content", "Read a video's bytes from amux", _VIDEO, _RANGE),
)
