"""Makes HTTP responses of errors: problem details (RFC 9457), with a status and a title for each kind of error."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Final, NotRequired

import orjson
from aiohttp import hdrs, web
from pydantic import Field
from typing_extensions import TypedDict

from bridge.amux import AmuxUnavailable
from bridge.amux.content_read import ContentInterrupted
from bridge.amux.proxy import AnswerInterrupted, UploadInterrupted
from bridge.core import errors
from bridge.core.errors import BridgeError, InvalidRequest, TargetRefused, WatchConflict
from bridge.core.ids import WATCH_ID_PATTERN

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:amux-bridge:problem:"
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_DEFAULT_TYPE: Final = "invalid_request_error"


class FieldError(TypedDict):
    """A field and the rule that it breaks."""

    field: str
    message: str


class OpenAiError(TypedDict):
    """A problem in the form that OpenAI's SDKs read."""

    message: str
    type: str
    code: str
    param: str | None


class ProblemBody(TypedDict):
    """Problem details (RFC 9457). `code` is for programs, `detail` for people."""

    type: str
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: Annotated[str, Field(examples=["invalid_request"])]
    errors: NotRequired[Annotated[list[FieldError], Field(description="With `invalid_request`: the bad fields.")]]
    error: NotRequired[
        Annotated[OpenAiError, Field(description="On `/v1/*`: the same problem, as OpenAI's SDKs read it.")]
    ]
    settings: NotRequired[
        Annotated[list[str], Field(description="With `callback_refused`: settings of which each can allow the target.")]
    ]
    watch_id: NotRequired[
        Annotated[
            str, Field(pattern=f"^{WATCH_ID_PATTERN}$", description="With `watch_conflict`: the existing watch's id.")
        ]
    ]


class MalformedJson(BridgeError):
    """The body is not valid JSON."""

    code = "malformed_json"


class MalformedBody(BridgeError):
    """The body is not what the request's headers announce."""

    code = "malformed_body"


class Unauthorized(BridgeError):
    """The request has no token, or an unknown one."""

    code = "unauthorized"


class Forbidden(BridgeError):
    """The caller is known, or local, and may not do this."""

    code = "forbidden"


class NoSuchMethod(BridgeError):
    """The path exists, but it does not support the request's method."""

    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"this path supports {', '.join(allowed)}")
        self.allowed = allowed


class BodyTooLarge(BridgeError):
    """The body is larger than the route's limit."""

    code = "body_too_large"


class PreconditionFailed(BridgeError):
    """The request's If-Match names another version of the body."""

    code = "precondition_failed"


class RangeNotSatisfiable(BridgeError):
    """The requested range is outside of the body, which has `length` bytes."""

    code = "range_not_satisfiable"

    def __init__(self, length: int) -> None:
        super().__init__(f"the video has {length:,} bytes")
        self.length = length


class UnsupportedMediaType(BridgeError):
    """The body has a content type or an encoding that the route does not accept."""

    code = "unsupported_media_type"


class UnknownExpectation(BridgeError):
    """The request has an Expect header other than 100-continue."""

    code = "expectation_failed"


class WatchNotCompleted(BridgeError):
    """The watch does not have the outcome `completed`, so it has no video. An active watch may have one later."""

    code = "watch_not_completed"


class Draining(BridgeError):
    """The bridge is stopping and accepts no new work."""

    code = "draining"
    retry_after_seconds = 5

    def __init__(self) -> None:
        super().__init__("the bridge is stopping and begins nothing new; repeat the request later")


class TooManyPings(BridgeError):
    """The caller's limit of pings is reached. `retry_after_seconds` is the time until the next ping is allowed."""

    code = "too_many_pings"

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


STATUSES: Final[Mapping[type[BridgeError], HTTPStatus]] = {
    MalformedJson: HTTPStatus.BAD_REQUEST,
    MalformedBody: HTTPStatus.BAD_REQUEST,
    UploadInterrupted: HTTPStatus.BAD_REQUEST,
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    NoSuchMethod: HTTPStatus.METHOD_NOT_ALLOWED,
    errors.WatchConflict: HTTPStatus.CONFLICT,
    errors.IdempotencyConflict: HTTPStatus.CONFLICT,
    errors.WatchSettled: HTTPStatus.CONFLICT,
    errors.WatchCancelled: HTTPStatus.CONFLICT,
    errors.WatchActive: HTTPStatus.CONFLICT,
    WatchNotCompleted: HTTPStatus.CONFLICT,
    errors.CursorExpired: HTTPStatus.GONE,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnknownExpectation: HTTPStatus.EXPECTATION_FAILED,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TargetRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooManyWatches: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyPings: HTTPStatus.TOO_MANY_REQUESTS,
    AmuxUnavailable: HTTPStatus.BAD_GATEWAY,
    AnswerInterrupted: HTTPStatus.BAD_GATEWAY,
    ContentInterrupted: HTTPStatus.BAD_GATEWAY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Draining: HTTPStatus.SERVICE_UNAVAILABLE,
}
TITLES: Final[Mapping[str, str]] = {
    "malformed_json": "The body is not valid JSON",
    "malformed_request": "The request is not valid HTTP",
    "malformed_body": "The body does not match its headers",
    "unauthorized": "A valid token is required",
    "forbidden": "Not allowed",
    "not_found": "Not found",
    "method_not_allowed": "The path does not support this method",
    "watch_conflict": "A watch with this task and callback exists with other options",
    "idempotency_conflict": "The Idempotency-Key was used with another body",
    "watch_settled": "The watch is settled",
    "watch_cancelled": "The watch is cancelled",
    "watch_active": "The watch is still active",
    "watch_not_completed": "The watch has no video",
    "cursor_expired": "Events after the cursor may have been removed",
    "precondition_failed": "The video is not the version that If-Match names",
    "body_too_large": "The body is too large",
    "range_not_satisfiable": "The range is outside of the video",
    "unsupported_media_type": "The body's content type is not supported",
    "expectation_failed": "The Expect header is not supported",
    "invalid_request": "The request is invalid",
    "no_api_key": "An amux key is required",
    "callback_refused": "The callback target is not allowed",
    "too_many_watches": "Too many active watches",
    "too_many_pings": "Too many pings",
    "amux_unavailable": "amux did not answer as expected",
    "store_unavailable": "The store does not answer",
    "draining": "The bridge is stopping",
    "internal_error": "Internal error",
}


def status_of(error: BridgeError) -> HTTPStatus:
    """Returns the status of an error; 500 for an error that is not in the table."""
    return STATUSES.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem_of(error: BridgeError) -> ProblemBody:
    """Returns an error as problem details. An error outside the table is `internal_error`, without its message."""
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(status, "internal_error", "the bridge failed to answer this request; its log has the reason")
    details = problem(status, error.code, str(error))
    if isinstance(error, InvalidRequest):
        details["errors"] = [{"field": name, "message": rule} for name, rule in error.fields]
    if isinstance(error, TargetRefused) and error.settings:
        details["settings"] = list(error.settings)
    if isinstance(error, WatchConflict):
        details["watch_id"] = error.watch_id
    return details


def problem(status: HTTPStatus, code: str, detail: str) -> ProblemBody:
    """Returns problem details with `type`, `title`, `status`, `detail` and `code`."""
    return {
        "type": TYPE_PREFIX + code,
        "title": TITLES.get(code, status.phrase),
        "status": int(status),
        "detail": detail,
        "code": code,
    }


def openai_error(details: ProblemBody) -> OpenAiError:
    """Returns a problem in the form that OpenAI's SDKs read. They show its `message`."""
    fields = details.get("errors", [])
    return {
        "message": details["detail"],
        "type": _OPENAI_TYPES.get(details["status"], "api_error" if details["status"] >= 500 else _OPENAI_DEFAULT_TYPE),
        "code": details["code"],
        "param": fields[0]["field"] if fields else None,
    }


def problem_answer(error: BridgeError, *, for_sdk: bool = False) -> web.Response:
    """Returns the response for an error, with Retry-After, Allow or WWW-Authenticate where the error has one.

    `for_sdk` adds the member that OpenAI's SDKs read.
    """
    headers: dict[str, str] = {}
    if (seconds := getattr(error, "retry_after_seconds", None)) is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(seconds)))
    if isinstance(error, NoSuchMethod):
        headers[hdrs.ALLOW] = ", ".join(error.allowed)
    if isinstance(error, RangeNotSatisfiable):
        headers[hdrs.CONTENT_RANGE] = f"bytes */{error.length}"
        headers[hdrs.ACCEPT_RANGES] = "bytes"
    if isinstance(error, Unauthorized):
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="amux-bridge"'
    details = problem_of(error)
    if for_sdk:
        details["error"] = openai_error(details)
    return as_response(details, headers)


def as_response(details: ProblemBody, headers: Mapping[str, str] | None = None) -> web.Response:
    """Returns a response of problem details, with their status."""
    return web.Response(
        body=orjson.dumps(details), status=details["status"], headers=headers, content_type=PROBLEM_TYPE
    )
