"""OpenAPI 3.1, made from the route table and from the types that the handlers take and answer with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from pydantic import TypeAdapter

from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable
from bridge.core.model import TERMINAL_EVENTS, EventType
from bridge.watches.registration import TimeoutLimits
from bridge.web.api.request_models import WatchRequestBody
from bridge.web.api.response_models import AttemptEvent, EventBody, PingBody, Polling
from bridge.web.api.route import JSON, Answer, Body, Parameter, Route
from bridge.web.errors import PROBLEM_TYPE, STATUSES, ProblemBody, Unauthorized

_REFERENCE: Final = "#/components/schemas/{model}"
_ALWAYS: Final = (EventBody, PingBody, Polling, AttemptEvent, ProblemBody, WatchRequestBody)
_NOISE: Final = {("title", str), ("default", type(None))}
_ABOUT: Final = """\
The amux bridge polls amux's video tasks and tells your app once when each has ended, by a signed webhook that is \
tried again until it arrives.

Register a watch by `POST /watch`; receive the events under *Webhooks*. Every error is a problem document (RFC 9457) \
with a `code` for programs. Times are RFC 3339 in UTC, durations are seconds. Unknown fields and parameters are refused.
"""
_EVENTS: Final = {
    EventType.COMPLETED: "amux says success.",
    EventType.FAILED: "amux says failure; `data.error` is amux's.",
    EventType.TIMED_OUT: "The watch's deadline has passed; `data.error` tells what was last seen.",
    EventType.UNAVAILABLE: "amux will not tell of the task; `data.error` tells why.",
    EventType.QUEUED: "The task waits. Sent only if a watch's `events` asks for it, and once.",
    EventType.IN_PROGRESS: "The task runs. Sent only if a watch's `events` asks for it, and once.",
}
_TOKEN: Final = {"type": "http", "scheme": "bearer", "description": "An app's token, or an operator's."}
_WEBHOOK_HEADERS: Final = (
    Parameter("webhook-id", "The event's id: the same on every attempt.", {"type": "string"}, "header"),
    Parameter("webhook-timestamp", "Unix seconds, of this attempt.", {"type": "string"}, "header"),
    Parameter(
        "webhook-signature",
        "`v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`, one for each active secret, separated by spaces.",
        {"type": "string"},
        "header",
    ),
)


@dataclass(frozen=True, slots=True)
class About:
    """What the document says of this bridge. `open_to_all`: no token is configured."""

    version: str
    server: str
    open_to_all: bool
    timeouts: TimeoutLimits


def document(routes: Sequence[Route[Any]], groups: Mapping[str, str], about: About) -> Mapping[str, Any]:
    """The whole document."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, about)
    used = {route.group for route in routes}
    return {
        "openapi": "3.1.0",
        "info": {"title": "The amux bridge", "version": about.version, "description": _ABOUT},
        "servers": [{"url": about.server}],
        "tags": [{"name": name, "description": told} for name, told in groups.items() if name in used],
        "paths": paths,
        "webhooks": _webhooks(schemas),
        "components": {
            "schemas": schemas.all(about.timeouts),
            "securitySchemes": {"token": _TOKEN},
        },
    }


class _Schemas:
    """The schema of each type that a route names."""

    def __init__(self, routes: Iterable[Route[Any]]) -> None:
        models = {model: None for route in routes for model in _models(route)} | dict.fromkeys(_ALWAYS)
        found, self._definitions = TypeAdapter.json_schemas(
            [(model, "validation", TypeAdapter(model)) for model in models], ref_template=_REFERENCE
        )
        self._of = {model: found[model, "validation"] for model in models}

    def of(self, model: Any) -> Mapping[str, Any]:
        """A reference to a type's schema."""
        return self._of[model]

    def all(self, timeouts: TimeoutLimits) -> Mapping[str, Any]:
        """Every schema by name, in the order of names."""
        schemas: dict[str, Any] = _plain(dict(sorted(self._definitions["$defs"].items())))
        seconds = schemas["WatchRequestBody"]["properties"]["timeout_seconds"]
        seconds["anyOf"][0]["maximum"] = timeouts.most
        seconds["default"] = timeouts.default
        return schemas


def _plain(schema: Any) -> Any:
    """A schema without what pydantic adds and nobody reads: titles made of names, defaults that are null."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: one for key, one in schema.items() if (key, type(one)) not in _NOISE}
    return {key: _plain(one) for key, one in kept.items()}


def _models(route: Route[Any]) -> Iterable[Any]:
    if route.body is not None and route.body.model is not None:
        yield route.body.model
    for answer in route.answers.values():
        if answer.model is not None:
            yield answer.model


# --- one operation ------------------------------------------------------------------------------------------------


def _operation(route: Route[Any], schemas: _Schemas, about: About) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": route.handler.__name__ if not route.path.startswith("/v1/") else _plain_name(route),
        "tags": [route.group],
        "summary": route.summary,
    }
    if route.description:
        told["description"] = route.description
    if route.parameters:
        told["parameters"] = [_parameter(one) for one in route.parameters]
    if route.body is not None:
        told["requestBody"] = {"required": True, "content": _content(route.body, schemas)}
    told["responses"] = {str(status): _answer(one, schemas) for status, one in sorted(route.answers.items())}
    told["responses"] |= _problems(route, schemas)
    told["security"] = _security(route, about)
    return told


def _plain_name(route: Route[Any]) -> str:
    """A name for one of amux's own routes, several of which share a handler."""
    words = route.path.removeprefix("/v1/").replace("{id}", "").replace("/", " ").split()
    return "_".join([route.method.lower(), "amux", *words])


def _security(route: Route[Any], about: About) -> list[dict[str, list[str]]]:
    if route.access == "open" or about.open_to_all:
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


def _content(body: Body | Answer, schemas: _Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": dict(schema)} for kind, schema in body.media.items()}
    if body.model is not None:
        content[JSON] = {"schema": schemas.of(body.model)}
    return content


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    told: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        told["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if content := _content(answer, schemas):
        told["content"] = content
    return told


def _problems(route: Route[Any], schemas: _Schemas) -> dict[str, Any]:
    """The problems by status, each with its codes; `default` for those that may come to any route."""
    kinds: list[type[BridgeError]] = [InvalidRequest, *route.problems]
    if route.access != "open":
        kinds += [Unauthorized, StoreUnavailable]
    if any(one.place == "path" for one in route.parameters):
        kinds.append(NotFound)
    codes: dict[HTTPStatus, dict[str, None]] = {}
    for kind in kinds:
        codes.setdefault(STATUSES[kind], {})[kind.code] = None
    content: dict[str, Any] = {PROBLEM_TYPE: {"schema": schemas.of(ProblemBody)}}
    if route.passes_on:
        content[JSON] = {}
    told = {
        str(int(status)): {"description": _told(status, names), "content": content}
        for status, names in sorted(codes.items())
        if int(status) not in route.answers
    }
    rest = "amux's answer, or any other trouble." if route.passes_on else "Any other trouble."
    return {**told, "default": {"description": rest, "content": content}}


def _told(status: HTTPStatus, codes: Iterable[str]) -> str:
    return f"{status.phrase}: {', '.join(f'`{code}`' for code in codes)}"


# --- what receivers get -------------------------------------------------------------------------------------------


def _webhooks(schemas: _Schemas) -> dict[str, Any]:
    body = schemas.of(EventBody)
    told = {str(event): _webhook(text, body, ends=event in TERMINAL_EVENTS) for event, text in _EVENTS.items()}
    return told | {"bridge.ping": _webhook("What `POST /ping` sends.", schemas.of(PingBody), ends=False)}


def _webhook(text: str, schema: Mapping[str, Any], *, ends: bool) -> dict[str, Any]:
    answers = {
        "2XX": {"description": "Had: it is not sent again."},
        "410": {"description": "Gone: this event is not tried again."},
        "default": {"description": "Anything else, a redirect too: it is tried again, for about three days."},
    }
    return {
        "post": {
            "summary": text,
            "description": "Ends its watch: each has exactly one such event." if ends else "",
            "parameters": [_parameter(one) for one in _WEBHOOK_HEADERS],
            "requestBody": {"required": True, "content": {JSON: {"schema": schema}}},
            "responses": answers,
        }
    }
