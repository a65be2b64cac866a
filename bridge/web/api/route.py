"""What a route is: where it stands, who answers it, and all that the API's document says of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from aiohttp import web

from bridge.core.errors import BridgeError
from bridge.web.auth import Caller

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
CallersHandler: TypeAlias = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
AnyHandler = TypeVar("AnyHandler", Handler, CallersHandler)

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a query, a path or the headers; `schema` is JSON Schema."""

    name: str
    description: str
    schema: Mapping[str, Any]
    place: Literal["query", "path", "header"] = "query"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no problem: `model` is the type of its JSON; `media` its other types, with their schemas."""

    description: str
    model: Any = None
    media: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: `model` is the type of its JSON; `media` its other types, with their schemas."""

    model: Any = None
    media: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route(Generic[AnyHandler]):
    """One method on one path. `problems` are the errors that are this route's own; others may come to any route.

    `access`: open to all, for who bears a token, or for who bears a token or a signed link. `passes_on`: whatever amux
    answers is an answer here.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: AnyHandler
    group: str
    summary: str
    answers: Mapping[int, Answer]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    problems: tuple[type[BridgeError], ...] = ()
    access: Literal["open", "token", "link"] = "token"
    passes_on: bool = False
