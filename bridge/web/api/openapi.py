"""The OpenAPI 3.1 document, made from the route table and from the request and response models."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from pydantic import TypeAdapter

from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable
from bridge.core.event import PING_TYPE
from bridge.core.model import TERMINAL_EVENTS, EventType
from bridge.core.operations import NoticeType
from bridge.watches.registration import TimeoutLimits
from bridge.web.api.json_schemas import COMPONENTS
from bridge.web.api.request_models import WatchRequestBody
from bridge.web.api.response_models import AttemptEvent, EventBody, NoticeBody, PingBody, Polling
from bridge.web.api.route import Parameter, RequestBody, Response, Route
from bridge.web.api.samples import recorded, samples_of
from bridge.web.errors import PROBLEM_TYPE, STATUSES, TITLES, ProblemBody, Unauthorized
from bridge.web.requests import JSON

# Models that no route has as its body or response: events, problems, and the entries of a batch.
_OTHER_MODELS: Final = (EventBody, PingBody, NoticeBody, Polling, AttemptEvent, ProblemBody, WatchRequestBody)
_DROPPED_KEYS: Final = {("title", str), ("default", type(None))}
_ABOUT: Final = """\
The amux bridge polls amux's video tasks. When a task has ended, it sends your app one signed webhook, and retries it \
until it is delivered.

Register a watch with `POST /watch`, and receive the events of the *Event catalogue*. Every error is a problem \
document (RFC 9457) with a `code` for programs. Times are RFC 3339 in UTC, durations are seconds. Unknown fields and \
parameters are refused.
"""
EXAMPLES: Final = "#/components/examples/"
_FOR_OPERATORS: Final = "Sent to `BRIDGE_OPERATIONS_CALLBACK_URL` only."
_ONCE: Final = "Sent at most once, and only if the watch's `events` has it."
_EVENTS: Final = {
    EventType.COMPLETED: "amux reports success.",
    EventType.FAILED: "amux reports failure; `data.error` is amux's error.",
    EventType.TIMED_OUT: "The watch's deadline passed; `data.error` says what was last seen.",
    EventType.UNAVAILABLE: "amux does not report on the task; `data.error` says why.",
    EventType.QUEUED: f"The task is queued. {_ONCE}",
    EventType.IN_PROGRESS: f"The task runs. {_ONCE}",
}
_NOTICES: Final = {
    NoticeType.RECEIVER_FAILING: "A receiver fails: several attempts in a row had no answer, or 429, 502, 503 or 504.",
    NoticeType.RECEIVER_RECOVERED: "A receiver that failed answers again.",
    NoticeType.RECEIVER_PAUSED: "An operator paused a receiver.",
    NoticeType.RECEIVER_RESUMED: "An operator resumed a receiver.",
    NoticeType.DELIVERY_DEAD: "Deliveries are dead: a notice for the first one, then one a minute for each receiver.",
    NoticeType.KEY_REFUSED: "amux refuses an amux key.",
    NoticeType.KEY_ACCEPTED: "amux accepts an amux key again.",
}
_TOKEN: Final = {"type": "http", "scheme": "bearer", "description": "An app's token, or an operator's token."}
_WEBHOOK_HEADERS: Final = (
    Parameter("webhook-id", "The event's id: the same on every attempt.", {"type": "string"}, "header"),
    Parameter("webhook-timestamp", "The time of this attempt, in Unix seconds.", {"type": "string"}, "header"),
    Parameter(
        "webhook-signature",
        "`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`, one for each active secret, separated by spaces.",
        {"type": "string"},
        "header",
    ),
)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The facts about this bridge that the document has. `open_to_all` is whether no token is configured."""

    version: str
    url: str
    open_to_all: bool
    timeouts: TimeoutLimits


def document(routes: Sequence[Route[Any]], groups: Mapping[str, str], server: ServerInfo) -> Mapping[str, Any]:
    """Returns the whole document. `groups` are the routes' groups with their descriptions."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, server)
    used = {route.group for route in routes}
    return {
        "openapi": "3.1.0",
        "info": {"title": "The amux bridge", "version": server.version, "description": _ABOUT},
        "servers": [{"url": server.url}],
        "tags": [{"name": name, "description": text} for name, text in groups.items() if name in used],
        "paths": paths,
        "webhooks": _webhooks(schemas),
        "components": {
            "schemas": schemas.all(server.timeouts),
            "examples": {
                code: {"summary": TITLES[code], "value": problem} for code, problem in recorded()["errors"].items()
            },
            "securitySchemes": {"token": _TOKEN},
        },
    }


class _Schemas:
    """The JSON Schemas of the models that routes name."""

    def __init__(self, routes: Iterable[Route[Any]]) -> None:
        models = {model: None for route in routes for model in _models(route)} | dict.fromkeys(_OTHER_MODELS)
        found, self._definitions = TypeAdapter.json_schemas(
            [(model, "validation", TypeAdapter(model)) for model in models], ref_template=COMPONENTS + "{model}"
        )
        self._of = {model: found[model, "validation"] for model in models}

    def of(self, model: Any) -> Mapping[str, Any]:
        """Returns a reference to a model's schema."""
        return self._of[model]

    def all(self, timeouts: TimeoutLimits) -> Mapping[str, Any]:
        """Returns every schema by name, in alphabetical order, with the configured limits of `timeout_seconds`."""
        schemas: dict[str, Any] = _plain(dict(sorted(self._definitions["$defs"].items())))
        seconds = schemas[WatchRequestBody.__name__]["properties"]["timeout_seconds"]
        seconds["anyOf"][0]["maximum"] = timeouts.most
        seconds["default"] = timeouts.default
        return schemas


def _plain(schema: Any) -> Any:
    """Returns a schema without two things that pydantic adds: titles made from names, and defaults that are null."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _plain(one) for key, one in schema.items() if (key, type(one)) not in _DROPPED_KEYS}


def _models(route: Route[Any]) -> Iterable[Any]:
    if route.body is not None and route.body.model is not None:
        yield route.body.model
    for response in route.responses.values():
        if response.model is not None:
            yield response.model


# --- one operation ------------------------------------------------------------------------------------------------


def _operation(route: Route[Any], schemas: _Schemas, server: ServerInfo) -> dict[str, Any]:
    # Client generators make method names from operation ids: a renamed handler would rename a method of clients.
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ if not route.path.startswith("/v1/") else _proxied_id(route),
        "tags": [route.group],
        "summary": route.summary,
    }
    if route.description:
        operation["description"] = route.description
    if route.parameters:
        operation["parameters"] = [_parameter(one) for one in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, schemas)}
    operation["responses"] = {str(status): _response(one, schemas) for status, one in sorted(route.responses.items())}
    operation["responses"] |= _problems(route, schemas)
    operation["security"] = _security(route, server)
    _add_example(operation, route, server)
    return operation


def _add_example(operation: dict[str, Any], route: Route[Any], server: ServerInfo) -> None:
    """Adds a real request, and the answer that it got, to an operation."""
    example = recorded()["operations"].get(f"{route.method} {route.path}")
    if example is None:
        return
    request, answer = example["request"], example["answer"]
    operation["x-codeSamples"] = samples_of(request, server.url, open_to_all=server.open_to_all)
    if "body" in request:
        operation["requestBody"]["content"][JSON]["examples"] = {"example": {"value": request["body"]}}
    for content in operation["responses"].get(str(answer["status"]), {}).get("content", {}).values():
        if answer["value"] is not None:
            content["examples"] = {"example": {"value": answer["value"]}}


def _proxied_id(route: Route[Any]) -> str:
    """Returns the operation id of one of amux's own routes, several of which share a handler."""
    words = route.path.removeprefix("/v1/").replace("{id}", "").replace("/", " ").split()
    return "_".join([route.method.lower(), "amux", *words])


def _security(route: Route[Any], server: ServerInfo) -> list[dict[str, list[str]]]:
    if route.access == "open" or server.open_to_all:
        return []
    return [{"token": []}, {}] if route.access == "link" else [{"token": []}]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.description,
        "schema": dict(parameter.schema),
    }


def _content(body: RequestBody | Response, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {media_type: {"schema": dict(schema)} for media_type, schema in body.media.items()}
    if body.model is not None:
        content[JSON] = {"schema": schemas.of(body.model)}
    return content


def _response(response: Response, schemas: _Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": response.description}
    if response.headers:
        described["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in response.headers.items()
        }
    if content := _content(response, schemas):
        described["content"] = content
    return described


def _problems(route: Route[Any], schemas: _Schemas) -> dict[str, Any]:
    """Returns the problems of a route by status, each with its codes. `default` is for problems of any route."""
    errors: list[type[BridgeError]] = [InvalidRequest, *route.problems]
    if route.access != "open":
        errors += [Unauthorized, StoreUnavailable]
    if any(one.place == "path" for one in route.parameters):
        errors.append(NotFound)
    codes: dict[HTTPStatus, dict[str, None]] = {}
    for error in errors:
        codes.setdefault(STATUSES[error], {})[error.code] = None
    problems = {
        str(int(status)): {
            "description": _codes_text(status, names),
            "content": _problem_content(schemas, names, proxied=route.proxied),
        }
        for status, names in sorted(codes.items())
        if int(status) not in route.responses
    }
    other = "amux's response, or any other error." if route.proxied else "Any other error."
    return {
        **problems,
        "default": {"description": other, "content": _problem_content(schemas, (), proxied=route.proxied)},
    }


def _problem_content(schemas: _Schemas, codes: Iterable[str], *, proxied: bool) -> dict[str, Any]:
    problem: dict[str, Any] = {"schema": schemas.of(ProblemBody)}
    if examples := {code: {"$ref": EXAMPLES + code} for code in codes if code in recorded()["errors"]}:
        problem["examples"] = examples
    content = {PROBLEM_TYPE: problem}
    if proxied:
        content[JSON] = {}
    return content


def _codes_text(status: HTTPStatus, codes: Iterable[str]) -> str:
    return f"{status.phrase}: {', '.join(f'`{code}`' for code in codes)}"


# --- what receivers get -------------------------------------------------------------------------------------------


def _webhooks(schemas: _Schemas) -> dict[str, Any]:
    body = schemas.of(EventBody)
    webhooks = {str(event): _webhook(text, body, terminal=event in TERMINAL_EVENTS) for event, text in _EVENTS.items()}
    webhooks[PING_TYPE] = _webhook("The event that `POST /ping` sends.", schemas.of(PingBody), terminal=False)
    notice = schemas.of(NoticeBody)
    webhooks |= {
        str(kind): _webhook(f"{text} {_FOR_OPERATORS}", notice, terminal=False) for kind, text in _NOTICES.items()
    }
    for name, webhook in webhooks.items():
        if (event := recorded()["events"].get(name)) is not None:
            webhook["post"]["requestBody"]["content"][JSON]["examples"] = {"event": {"value": event}}
    return webhooks


def _webhook(text: str, schema: Mapping[str, Any], *, terminal: bool) -> dict[str, Any]:
    responses = {
        "2XX": {"description": "Delivered: the event is not sent again."},
        "410": {"description": "Gone: the delivery is dead, and the event is not sent again."},
        "default": {
            "description": "Any other status, a redirect too: the event is sent again, by default for about three days."
        },
    }
    return {
        "post": {
            "summary": text,
            "description": "A terminal event. A watch that is not cancelled has exactly one." if terminal else "",
            "parameters": [_parameter(one) for one in _WEBHOOK_HEADERS],
            "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
            "responses": responses,
        }
    }
