"""The description of a route: its method, path and handler, and everything that the OpenAPI document says about it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.web.auth import Caller

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
CallersHandler: TypeAlias = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
AnyHandler = TypeVar("AnyHandler", Handler, CallersHandler)

JsonSchema: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the query, the path or the headers."""

    name: str
    description: str
    schema: JsonSchema
    place: Literal["query", "path", "header"] = "query"


@dataclass(frozen=True, slots=True)
class Response:
    """A response that is not a problem.

    `model` is the type of its JSON. `media` are its other content types with their schemas. `headers` are names with
    descriptions.
    """

    description: str
    model: Any = None
    media: Mapping[str, JsonSchema] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A request's body: `model` is the type of its JSON, `media` are its other content types with their schemas."""

    model: Any = None
    media: Mapping[str, JsonSchema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route(Generic[AnyHandler]):
    """One method on one path.

    `problems` are the errors of this route; those that any route can have are added to the document by `openapi.py`.
    `access` is `open` for everyone, `token` for callers with a token, `link` for a token or a signed link.
    `proxied` is whether every status of amux is passed on.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: AnyHandler
    group: str
    summary: str
    responses: Mapping[int, Response]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: RequestBody | None = None
    problems: tuple[type[BridgeError], ...] = ()
    access: Literal["open", "token", "link"] = "token"
    proxied: bool = False
