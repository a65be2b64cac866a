"""From errors to answers: one table, and problem details as RFC 9457 has them."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Final, NotRequired

import orjson
from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bridge.amux import AmuxUnavailable
from bridge.amux.proxy import UploadBroken
from bridge.core import errors
from bridge.core.errors import BridgeError, InvalidRequest, WatchConflict
from bridge.core.registration import WATCH_ID_PATTERN

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:amux-bridge:problem:"


class FieldError(TypedDict):
    """A field, and the rule that it breaks."""

    field: str
    message: str


class ProblemBody(TypedDict):
    """Problem details (RFC 9457). `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: Annotated[str, Field(examples=["invalid_request"])]
    errors: NotRequired[Annotated[list[FieldError], Field(description="With `invalid_request`: the bad fields.")]]
    watch_id: NotRequired[
        Annotated[
            str, Field(pattern=f"^{WATCH_ID_PATTERN}$", description="With `watch_conflict`: the existing watch's id.")
        ]
    ]


class MalformedJson(BridgeError):
    """A body that cannot be read as JSON."""

    code = "malformed_json"


class MalformedBody(BridgeError):
    """A body that is not what its HTTP headers say."""

    code = "malformed_body"


class Unauthorized(BridgeError):
    """No token, or none that is known."""

    code = "unauthorized"


class Forbidden(BridgeError):
    """Known, or local, and still not allowed."""

    code = "forbidden"


class NoSuchMethod(BridgeError):
    """A path that is there, asked by a method that it has not."""

    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this path takes {', '.join(allowed)}")
        self.allowed = allowed


class BodyTooLarge(BridgeError):
    """A body over the route's limit."""

    code = "body_too_large"


class UnsupportedMediaType(BridgeError):
    """A body that does not say it is JSON."""

    code = "unsupported_media_type"


class UnknownExpectation(BridgeError):
    """An Expect header other than 100-continue."""

    code = "expectation_failed"


class WatchNotCompleted(BridgeError):
    """A watch whose video is not there, or not yet."""

    code = "watch_not_completed"


class TooManyPings(BridgeError):
    """A ping too many; `retry_after_seconds` is until the next may be sent."""

    code = "too_many_pings"

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


STATUSES: Final[Mapping[type[BridgeError], HTTPStatus]] = {
    MalformedJson: HTTPStatus.BAD_REQUEST,
    MalformedBody: HTTPStatus.BAD_REQUEST,
    UploadBroken: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    NoSuchMethod: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.WatchConflict: HTTPStatus.CONFLICT,
    errors.IdempotencyConflict: HTTPStatus.CONFLICT,
    errors.WatchSettled: HTTPStatus.CONFLICT,
    errors.WatchActive: HTTPStatus.CONFLICT,
    WatchNotCompleted: HTTPStatus.CONFLICT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnknownExpectation: HTTPStatus.EXPECTATION_FAILED,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TargetRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyWatches: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyPings: HTTPStatus.TOO_MANY_REQUESTS,
    AmuxUnavailable: HTTPStatus.BAD_GATEWAY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}
TITLES: Final[Mapping[str, str]] = {
    "malformed_json": "The body is not JSON",
    "malformed_body": "The body is not whole",
    "unauthorized": "A token is needed",
    "forbidden": "Not allowed",
    "not_found": "Not found",
    "method_not_allowed": "The method is not allowed here",
    "watch_conflict": "A watch on this task and callback has other options",
    "idempotency_conflict": "The Idempotency-Key was used with another body",
    "watch_settled": "The watch is settled",
    "watch_active": "The watch is still active",
    "watch_not_completed": "The watch has no video",
    "body_too_large": "The body is too large",
    "unsupported_media_type": "The body is of a type that is not taken here",
    "expectation_failed": "The expectation cannot be met",
    "invalid_request": "The request breaks a rule",
    "no_api_key": "An amux key is needed",
    "callback_refused": "The callback target is not allowed",
    "too_many_watches": "Too many active watches",
    "too_many_pings": "Too many pings",
    "amux_unavailable": "amux does not answer as it should",
    "store_unavailable": "The store does not answer",
    "internal_error": "Something is wrong here",
}


def status_of(error: BridgeError) -> HTTPStatus:
    """The status of an error; 500 for one that no request can come to."""
    return STATUSES.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem_of(error: BridgeError) -> ProblemBody:
    """An error as problem details; one without a status is told as `internal_error`, without its message."""
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(status, "internal_error", "the bridge could not answer; its log says why")
    told = problem(status, error.code, str(error))
    if isinstance(error, InvalidRequest):
        told["errors"] = [{"field": name, "message": rule} for name, rule in error.fields]
    if isinstance(error, WatchConflict):
        told["watch_id"] = error.watch_id
    return told


def problem(status: HTTPStatus, code: str, detail: str) -> ProblemBody:
    """Problem details: `type`, `title`, `status`, `detail`, `code`."""
    return {
        "type": TYPE_PREFIX + code,
        "title": TITLES.get(code, status.phrase),
        "status": int(status),
        "detail": detail,
        "code": code,
    }


def problem_answer(error: BridgeError) -> web.Response:
    """The answer that an error comes to, with Retry-After, Allow or WWW-Authenticate where they belong."""
    headers = {}
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers["Retry-After"] = str(max(1, math.ceil(seconds)))
    if isinstance(error, NoSuchMethod):
        headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="amux-bridge"'
    return as_response(problem_of(error), headers)


def as_response(details: ProblemBody, headers: Mapping[str, str] | None = None) -> web.Response:
    """Problem details as an answer of their own status."""
    return web.Response(
        body=orjson.dumps(details), status=details["status"], headers=headers, content_type=PROBLEM_TYPE
    )
