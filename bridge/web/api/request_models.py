"""The bodies that apps send: their fields, rules and descriptions. OpenAPI is made from these models."""

import re
from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from bridge.core import registration as rules
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.signing import parse_secret
from bridge.core.targets import TargetPolicy, bracketed, parse_target
from bridge.store.records import Idempotency
from bridge.watches.registration import WatchRequest
from bridge.web.api import json_schemas
from bridge.web.requests import shown

EventName = Literal[
    "video.completed", "video.failed", "video.timed_out", "video.unavailable", "video.queued", "video.in_progress"
]
EVENT_NAMES: Final[tuple[str, ...]] = get_args(EventName)
MAX_BATCH: Final = 500
_MOST_ERRORS = 20  # of one answer: a body of 64 KiB can hold thousands of unknown fields
_ANY_TARGET = TargetPolicy(allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
_HOST_RULE = "must be a host name or an address, without scheme, port or path"
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _secret(text: str) -> str:
    parse_secret(text)
    return text


def _context(context: dict[str, Any]) -> dict[str, Any]:
    rules.compact(context)
    return context


def _headers(headers: dict[str, str]) -> dict[str, str]:
    rules.check_headers(headers)
    return headers


def _moment(text: str) -> float:
    """RFC 3339 (section 5.6) as Unix seconds."""
    if _RFC3339.fullmatch(text):
        try:
            # Seven to nine digits of a second are more than a datetime holds, and Python 3.11 cuts them.
            return datetime.fromisoformat(text.upper().replace(" ", "T")).timestamp()
        except (ValueError, OverflowError):
            pass
    raise ValueError("must be a time as RFC 3339 has it, such as 2026-11-23T15:04:05.123Z")


def _host(text: str) -> str:
    """A host in the spelling that targets are stored under: IPv6 in brackets."""
    literal = text.strip("[]")
    is_ipv6 = literal.count(":") > 1
    if any(mark in text for mark in "/?#@%\\") or (":" in text and not is_ipv6):
        raise ValueError(_HOST_RULE)
    try:
        return bracketed(parse_target(f"http://{bracketed(literal) if is_ipv6 else text}/", _ANY_TARGET).host)
    except (InvalidRequest, TargetRefused):
        raise ValueError(_HOST_RULE) from None


Moment = Annotated[
    str,
    AfterValidator(_moment),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class _Body(BaseModel):
    """A JSON object of known fields; null is the same as not given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def read(cls, value: Any) -> Self:
        """A body from its JSON value. Raises InvalidRequest that names each bad field and repeats no value."""
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            # `from None`: the cause holds the values, and may reach a log.
            raise InvalidRequest([_finding(detail) for detail in found[:_MOST_ERRORS]]) from None


class WatchRequestBody(_Body):
    """A watch to be registered: tell `callback_url` once when amux's task `task_id` has ended."""

    task_id: Annotated[
        str,
        AfterValidator(rules.check_task_id),
        WithJsonSchema(json_schemas.TASK_ID),
    ] = Field(description="The task's id as amux gave it.", examples=["task_8x7Kq2mVn4Jd9sLw3Rb6Tz1Yc5Hf0Gp2"])
    callback_url: Annotated[str, WithJsonSchema(json_schemas.CALLBACK_URL)] = Field(
        description="Where events are sent: http(s), at most 2,048 characters, without user info or fragment.",
        examples=["https://app.example.com/hooks/video"],
    )
    events: Annotated[list[EventName], Field(min_length=1)] | None = Field(
        None, description="The event types to send; the four terminal ones when not given."
    )
    context: Annotated[dict[str, Any], AfterValidator(_context)] | None = Field(
        None, description="Given back in every event; at most 4 KiB as compact UTF-8."
    )
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="From now until the watch times out; default and upper bound are the bridge's settings."
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers), WithJsonSchema(json_schemas.HEADERS)] | None = Field(
        None, description="Up to 10 extra headers on callbacks. Stored encrypted, shown masked."
    )
    secret: Annotated[str, AfterValidator(_secret), WithJsonSchema(json_schemas.SECRET)] | None = Field(
        None, repr=False, description="`whsec_...` that signs this watch's events instead of the configured ones."
    )
    api_key: (
        Annotated[
            str,
            AfterValidator(rules.check_api_key),
            WithJsonSchema(json_schemas.API_KEY),
        ]
        | None
    ) = Field(None, repr=False, description="The amux key to ask about this task with, instead of the configured one.")

    def wanted(self, idempotency: Idempotency | None = None) -> WatchRequest:
        """The same, as intake takes it."""
        return WatchRequest(
            self.task_id,
            self.callback_url,
            None if self.events is None else rules.wanted_events(self.events),
            self.context,
            self.timeout_seconds,
            self.headers or {},
            self.secret,
            self.api_key,
            idempotency,
        )


class BatchRequest(_Body):
    """Up to 500 watches to be registered in one commit; a bad one fails alone."""

    watches: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH),
        WithJsonSchema(
            {
                "type": "array",
                # Any entry is taken: a bad one fails alone.
                "items": {"anyOf": [{"$ref": "#/components/schemas/WatchRequestBody"}, {}]},
                "minItems": 1,
                "maxItems": MAX_BATCH,
            }
        ),
    ] = Field(description="What `POST /watch` takes, each.")


class PingRequest(_Body):
    """A target to be judged and, unless it is a dry run, sent one signed `bridge.ping`."""

    callback_url: Annotated[str, WithJsonSchema(json_schemas.CALLBACK_URL)] = Field(
        description="Where the ping goes; the same rules as for a watch."
    )
    dry_run: bool | None = Field(None, description="Only judge the target.")


class RetryRequest(_Body):
    """Which dead deliveries are sent again."""

    state: Literal["dead"] = Field(description="Only dead deliveries are resent in bulk.")
    since: Moment | None = Field(None, description="Those that became dead at this time or later.")
    until: Moment | None = Field(None, description="Those that became dead at this time or before.")
    callback_host: Annotated[str, AfterValidator(_host), WithJsonSchema(json_schemas.HOST)] | None = Field(
        None, description="Those to this host: a name, no port."
    )
    dry_run: bool | None = Field(None, description="Only count.")

    def moments(self) -> tuple[float | None, float | None]:
        """`since` and `until` in Unix seconds."""
        since: Any = self.since
        until: Any = self.until
        return since, until


# --- pydantic's findings as sentences of ours ---------------------------------------------------------------------

_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be a string",
    "string_unicode": "must be valid Unicode",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be a JSON object",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
}


def _finding(detail: ErrorDetails) -> tuple[str, str]:
    """One bad field and the end of the sentence that begins with its name."""
    field = ".".join(shown(str(part)) for part in detail["loc"])
    context = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return field or "body", str(context["error"])
        case "greater_than":
            return field, f"must be above {context['gt']:g}"
        case "literal_error":
            return field, f"must be one of {context['expected']}"
        case "too_short":
            return field, f"must hold at least {context['min_length']}"
        case "too_long":
            return field, f"must hold at most {context['max_length']}"
        case kind:
            return field or "body", _SENTENCES.get(kind, "is not of the kind that belongs here")
