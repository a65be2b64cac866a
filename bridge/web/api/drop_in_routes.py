"""The table of amux's own routes, which the bridge has while drop-in creation is on."""

from typing import Any, Final

from bridge.amux import AmuxUnavailable
from bridge.core.errors import NotFound
from bridge.web.api import drop_in, json_schemas
from bridge.web.api.route import CallersHandler, Parameter, RequestBody, Response, Route
from bridge.web.api.routes import DROP_IN, RANGE, REGISTRATION_PROBLEMS
from bridge.web.errors import Forbidden, MalformedBody, UnsupportedMediaType
from bridge.web.requests import JSON

_TASK_ID: Final = Parameter("id", "The task's id.", json_schemas.TASK_ID, "path")
_OWN_KEY: Final = Parameter(
    drop_in.API_KEY,
    "The caller's own amux key, used instead of the bridge's key; also for a watch of the created task.",
    json_schemas.API_KEY,
    "header",
)
_CALLBACKS: Final = tuple(
    Parameter(name, f"The field `{option}` of `POST /watch`{note}.", json_schemas.TEXT, "header")
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
        (
            *_CALLBACKS,
            _OWN_KEY,
            Parameter("Idempotency-Key", "Passed to amux unchanged.", json_schemas.PRINTABLE, "header"),
        ),
        RequestBody(media={JSON: json_schemas.ANY_OBJECT, drop_in.MULTIPART: json_schemas.ANY_OBJECT}),
        (*REGISTRATION_PROBLEMS, MalformedBody, UnsupportedMediaType, AmuxUnavailable),
        proxied=True,
    )


def _reading(path: str, summary: str, media: dict[str, dict[str, Any]], *more: Parameter) -> Route[CallersHandler]:
    return Route(
        "GET",
        path,
        drop_in.read_content if media is json_schemas.VIDEO else drop_in.read_task,
        DROP_IN,
        summary,
        {200: Response("amux's response, unchanged.", media=media)},
        parameters=(_TASK_ID, _OWN_KEY, *more),
        problems=(Forbidden, NotFound, AmuxUnavailable),
        proxied=True,
    )


DROP_IN_ROUTES: Final = (
    _creation("/v1/videos", "Create a video (OpenAI format) and watch its task"),
    _creation("/v1/video/generations", "Create a video (amux format) and watch its task"),
    _reading("/v1/videos/{id}", "Read a task from amux (OpenAI format)", _AMUX_JSON),
    _reading("/v1/video/generations/{id}", "Read a task from amux (amux format)", _AMUX_JSON),
    _reading("/v1/videos/{id}/content", "Read a video's bytes from amux", json_schemas.VIDEO, RANGE),
)
