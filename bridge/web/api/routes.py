"""The table of the API's routes. The application and the OpenAPI document are made from it."""

from typing import Any, Final

from bridge.amux import AmuxUnavailable
from bridge.core import errors
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.idempotency_keys import IDEMPOTENCY_SECONDS
from bridge.web.api import (
    content,
    deliveries,
    docs,
    event_stream,
    health,
    json_schemas,
    pings,
    request_models,
    response_models,
    watches,
)
from bridge.web.api.event_feed_routes import EVENT_FEED_ROUTES, EVENTS
from bridge.web.api.receiver_routes import RECEIVER_ROUTES, RECEIVERS
from bridge.web.api.route import CallersHandler, Handler, Parameter, RequestBody, Response, Route
from bridge.web.errors import (
    PROBLEM_TYPE,
    BodyTooLarge,
    Draining,
    Forbidden,
    MalformedJson,
    PreconditionFailed,
    ProblemBody,
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
    EVENTS: "Read the events of an app in order.",
    DELIVERIES: "Read the deliveries of events, and send them again.",
    RECEIVERS: "For operators: list the receivers with their figures, pause them and resume them.",
    DROP_IN: "amux's own routes, for clients made for amux. With `X-Callback-Url` the created task is watched.",
    SERVICE: "The bridge's health, metrics and documentation. No token is needed.",
}

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
_WATCH: Final = Parameter("id", "The watch's id.", json_schemas.WATCH_ID, "path")
_DELIVERY: Final = Parameter("id", "The delivery's id, which is also `webhook-id`.", json_schemas.DELIVERY_ID, "path")
_IDEMPOTENCY: Final = Parameter(
    "Idempotency-Key",
    f"The key is kept for {IDEMPOTENCY_SECONDS / 3600:g} hours. The same key with the same body gets the status of the "
    "first response, with the watch as it is now.",
    json_schemas.IDEMPOTENCY_KEY,
    "header",
)
_TRACE: Final = (
    Parameter(
        "traceparent",
        "W3C Trace Context, sent on the callbacks too. A malformed one is dropped.",
        json_schemas.TEXT,
        "header",
    ),
    Parameter("tracestate", "As `traceparent`. It is dropped if that is dropped.", json_schemas.TEXT, "header"),
)
RANGE: Final = Parameter(
    "Range", "One range of bytes. amux may ignore it and send the whole video.", json_schemas.TEXT, "header"
)
_FILE_RANGE: Final = Parameter(
    "Range",
    "One range of bytes. It is ignored where the answer says `Accept-Ranges: none`.",
    json_schemas.TEXT,
    "header",
)
_IF_RANGE: Final = Parameter(
    "If-Range", "The `ETag` of the range. If the video has another one, it is sent whole.", json_schemas.TEXT, "header"
)
_CONTENT_HEADERS: Final = {
    "Accept-Ranges": "`bytes`, or `none` where the video is passed through from amux as it comes.",
    "ETag": "The version of the bytes.",
}
_LINK: Final = tuple(Parameter(name, "Part of a signed link.", json_schemas.TEXT) for name in content.LINK_PARAMETERS)
_BODY_PROBLEMS: Final = (MalformedJson, BodyTooLarge, UnsupportedMediaType)
REGISTRATION_PROBLEMS: Final = (Forbidden, errors.TargetRefused, errors.TooManyWatches, Draining)

# Routes without a token.
OPEN_ROUTES: Final[tuple[Route[Handler], ...]] = (
    Route(
        "GET",
        "/watch/{id}/content",
        content.read_content,
        WATCHES,
        "Read the video's bytes",
        {
            200: Response("The video.", media=json_schemas.VIDEO, headers=_CONTENT_HEADERS),
            206: Response("The requested range.", media=json_schemas.VIDEO, headers=_CONTENT_HEADERS),
            304: Response("`If-None-Match` has the `ETag` of the video."),
            416: Response(
                "`range_not_satisfiable`: the requested range is outside the video.",
                media={**json_schemas.VIDEO, PROBLEM_TYPE: json_schemas.reference_to(ProblemBody)},
            ),
        },
        "Needs a token, or the signed link in an event's `content_url`. The video is read from amux into a file once,"
        " at full speed, and sent from there at the reader's speed, from the first byte on.",
        (_WATCH, *_LINK, _FILE_RANGE, _IF_RANGE),
        problems=(Forbidden, errors.NotFound, WatchNotCompleted, PreconditionFailed, AmuxUnavailable),
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
        {200: Response("The metrics in Prometheus' text format.", media={"text/plain": json_schemas.TEXT})},
        access="open",
    ),
    Route(
        "GET",
        "/openapi.json",
        docs.openapi,
        SERVICE,
        "Read this document as OpenAPI",
        {200: Response("The OpenAPI 3.1 document.", media={JSON: json_schemas.ANY_OBJECT})},
        access="open",
    ),
    Route(
        "GET",
        "/docs",
        docs.docs,
        SERVICE,
        "Read this document as a page",
        {
            200: Response(
                "A page without scripts. It loads nothing from other sites.", media={"text/html": json_schemas.TEXT}
            )
        },
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
            200: Response("The active watch with the same options, which existed before.", response_models.WatchBody),
        },
        "A task may have several watches with different callbacks. It is polled once for all of them.",
        (_IDEMPOTENCY, *_TRACE),
        RequestBody(request_models.WatchRequestBody),
        (*_BODY_PROBLEMS, *REGISTRATION_PROBLEMS, errors.WatchConflict, errors.IdempotencyConflict),
    ),
    Route(
        "POST",
        "/watch/batch",
        watches.create_watches,
        WATCHES,
        "Watch many tasks",
        {200: Response("One result for each entry, in order.", response_models.BatchResults)},
        f"Up to {request_models.MAX_BATCH} watches are stored in one commit. A bad entry does not affect the others.",
        (_IDEMPOTENCY, *_TRACE),
        RequestBody(request_models.BatchRequest),
        (*_BODY_PROBLEMS, Forbidden, Draining),
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
            Parameter("event_id", "Only the watch that has this event.", json_schemas.DELIVERY_ID),
            Parameter("delivery_state", "Only watches with a delivery in this state.", {"enum": list(DeliveryState)}),
            Parameter(
                "callback_host",
                "Only watches whose callbacks go to this host: a name or an address, with or without a port.",
                json_schemas.HOST,
            ),
            Parameter("created_after", "Only watches registered at this time or later.", json_schemas.TIME),
            Parameter("created_before", "Only watches registered before this time.", json_schemas.TIME),
            Parameter(
                "q",
                "Only watches that have this text: a watch, event or task id or a part of one; a callback URL, or a "
                "part of its host and path; a part of a string or number in `context`. Case does not count. The query "
                "of a callback URL is not searched. Whole ids are searched in all watches. Other text is searched in "
                "the newest 100,000 watches, for at most 2 seconds: see `searched_back_to`.",
                json_schemas.SEARCH_TEXT,
            ),
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
        "Server-sent events: `snapshot` (the watch), `task` (its task and the task's polls), `attempt` (one POST of a"
        " delivery, and the delivery after it). The stream ends when the watch is final and no delivery is pending, or"
        f" after {LONGEST_SECONDS / 60:g} minutes.",
        (
            _WATCH,
            Parameter(event_stream.LAST_EVENT_ID, "The id of the last event received.", json_schemas.TEXT, "header"),
        ),
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
        problems=(errors.NotFound, errors.WatchCancelled, Draining),
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
        problems=(*_BODY_PROBLEMS, Draining),
    ),
    Route(
        "POST",
        "/ping",
        pings.ping,
        DELIVERIES,
        "Test a callback",
        {
            200: Response(
                "The result. `ok` is false if the receiver does not answer, or not with 2xx.",
                response_models.PingOutcome,
            )
        },
        "Checks the target, then sends one signed `bridge.ping`. An app or operator can send one ping at a time, and"
        f" {PINGS_A_MINUTE} a minute.",
        body=RequestBody(request_models.PingRequest),
        problems=(*_BODY_PROBLEMS, errors.TargetRefused, TooManyPings, Draining),
    ),
    *EVENT_FEED_ROUTES,
    *RECEIVER_ROUTES,
)
