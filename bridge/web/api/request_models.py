"""Request models: the JSON bodies that apps send. The OpenAPI document has their fields, rules and descriptions."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_network
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails

from bridge.core import registration as rules
from bridge.core.body_template import MAX_BODY_BYTES, BadBody, compile_body
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.model import TERMINAL_EVENTS, EventType
from bridge.core.signing import SECRET_PREFIX, parse_secret
from bridge.core.targets import MAX_URL_CHARACTERS, TargetPolicy, bracketed, parse_target
from bridge.core.task_class import check_model
from bridge.core.trace_context import TraceContext
from bridge.store.records import Idempotency
from bridge.watches.registration import WatchRequest
from bridge.web.api import json_schemas
from bridge.web.requests import MAX_FIELD_ERRORS, shown

# All other fields of a body are strict. A strict enum would accept only its own members, and no strings.
EventName = Annotated[EventType, Field(strict=False)]
MAX_BATCH: Final = 500
_CONTEXT_KIB: Final = rules.MAX_CONTEXT_BYTES // 1024
_BODY_KIB: Final = MAX_BODY_BYTES // 1024
_ANY_TARGET = TargetPolicy(allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
_HOST_RULE = "must be a host name or an address, without scheme, port or path"
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


def _check_secret(text: str) -> str:
    parse_secret(text)
    return text


def _check_context(context: dict[str, Any]) -> dict[str, Any]:
    rules.compact(context)
    return context


def _check_body(body: dict[str, Any]) -> dict[str, Any]:
    compile_body(body)
    return body


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    rules.check_headers(headers)
    return headers


def unix_seconds(text: str) -> float:
    """Returns an RFC 3339 time (section 5.6) as Unix seconds. Raises ValueError."""
    if _RFC3339.fullmatch(text):
        try:
            # Python 3.11 drops digits of a second past the sixth, which a datetime cannot hold.
            return datetime.fromisoformat(text.upper().replace(" ", "T")).timestamp()
        except (ValueError, OverflowError):
            pass
    raise ValueError("must be an RFC 3339 time, such as 2026-11-23T15:04:05.123Z")


def query_time(text: str) -> float:
    """Does the same as `unix_seconds`, for a query parameter, in which the + of an offset was decoded as a space."""
    return unix_seconds(re.sub(r" (?=[0-9]{2}:[0-9]{2}$)", "+", text))


def stored_host(text: str) -> str:
    """Returns a host in the form of stored targets: in lower case, IPv6 in brackets. Raises ValueError."""
    literal = text.strip("[]")
    is_ipv6 = literal.count(":") > 1
    if any(mark in text for mark in "/?#@%\\") or (":" in text and not is_ipv6):
        raise ValueError(_HOST_RULE)
    try:
        return bracketed(parse_target(f"http://{bracketed(literal) if is_ipv6 else text}/", _ANY_TARGET).host)
    except (InvalidRequest, TargetRefused):
        raise ValueError(_HOST_RULE) from None


def stored_receiver(text: str) -> str:
    """Returns a host in the form of stored targets, with its port if that is given. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if colon and port.isdecimal() and port.isascii() and (":" not in host or host.endswith("]")):
        if not 1 <= int(port[:6]) <= 65_535:
            raise ValueError("the port must be from 1 to 65535")
        return f"{stored_host(host)}:{int(port)}"
    return stored_host(text)


Rfc3339 = Annotated[
    str,
    AfterValidator(unix_seconds),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class _Body(BaseModel):
    """A JSON object. Unknown fields are refused; null counts as not given."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def read(
        cls,
        value: Any,
        others: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]] | None = None,
        outside: Sequence[tuple[str, str]] = (),
    ) -> Self:
        """Returns the model of a JSON value. Raises InvalidRequest, which names each bad field and repeats no value.

        `outside` are the bad parts of the request that are not in its body. `others` returns the fields that break
        rules of the service. It is called only if something else is bad, so that one error names all bad fields. If
        nothing is bad, the service checks its rules itself.
        """
        fields = list(outside)
        try:
            model = cls.model_validate(value)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            _add_unnamed(fields, (pair for detail in found for pair in _field_errors(detail)))
        else:
            if not fields:
                return model
        if others is not None and isinstance(value, dict):
            _add_unnamed(fields, others(value))
        raise InvalidRequest(fields[:MAX_FIELD_ERRORS])  # without the cause: it has the values, and could reach a log


def _add_unnamed(fields: list[tuple[str, str]], more: Iterable[tuple[str, str]]) -> None:
    """Adds bad fields, except those whose names are in the list already."""
    named = {name for name, _ in fields}
    fields += [pair for pair in more if pair[0] not in named]


class WatchRequestBody(_Body):
    """A watch to register: the bridge calls `callback_url` when amux's task `task_id` has ended."""

    task_id: Annotated[
        str,
        AfterValidator(rules.check_task_id),
        WithJsonSchema(json_schemas.TASK_ID),
    ] = Field(description="The task's id, as amux returned it.", examples=["task_8x7Kq2mVn4Jd9sLw3Rb6Tz1Yc5Hf0Gp2"])
    callback_url: Annotated[str, WithJsonSchema(json_schemas.CALLBACK_URL)] = Field(
        description=f"Where events are sent: an http or https URL of at most {MAX_URL_CHARACTERS:,} characters, "
        "without a user, a password or a fragment.",
        examples=["https://app.example.com/hooks/video"],
    )
    events: Annotated[list[EventName], Field(min_length=1)] | None = Field(
        None, description="The event types to send, at least one. Default: the four terminal types."
    )
    context: Annotated[dict[str, Any], AfterValidator(_check_context)] | None = Field(
        None,
        description=f"Any JSON object, returned in every event. At most {_CONTEXT_KIB} KiB as compact JSON in UTF-8.",
    )
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="The time from now until the watch times out. The bridge's settings have its default and maximum.",
    )
    headers: Annotated[dict[str, str], AfterValidator(_check_headers), WithJsonSchema(json_schemas.HEADERS)] | None = (
        Field(
            None,
            description=f"Up to {rules.MAX_HEADERS} extra headers for the callbacks. "
            "They are stored encrypted, and their values are masked in responses.",
        )
    )
    body: Annotated[dict[str, Any], AfterValidator(_check_body)] | None = Field(
        None,
        description="A JSON object that is sent instead of the event. In its strings, `{{type}}`, `{{data.url}}` and "
        "the like are replaced by the event's values; a string that is one such placeholder alone becomes the value "
        f"itself. At most {_BODY_KIB} KiB as compact JSON in UTF-8.",
        examples=[{"text": "{{type}}: {{data.url}}", "order": "{{data.context.order}}"}],
    )
    secret: Annotated[str, AfterValidator(_check_secret), WithJsonSchema(json_schemas.SECRET)] | None = Field(
        None,
        repr=False,
        description=f"The `{SECRET_PREFIX}...` secret that signs this watch's events, instead of the bridge's secrets.",
    )
    model: Annotated[str, AfterValidator(check_model), WithJsonSchema(json_schemas.MODEL)] | None = Field(
        None,
        description="The model that makes the video. It helps to choose when to poll, and is shown in the watch. It is "
        "not compared when a watch is registered again.",
        examples=["veo-3.1-generate"],
    )
    api_key: (
        Annotated[
            str,
            AfterValidator(rules.check_api_key),
            WithJsonSchema(json_schemas.API_KEY),
        ]
        | None
    ) = Field(None, repr=False, description="The amux key that the task is polled with, instead of the bridge's key.")

    def watch_request(
        self, app: str, idempotency: Idempotency | None = None, trace: TraceContext | None = None
    ) -> WatchRequest:
        """Returns the request in the form that `RegistrationService` takes."""
        return WatchRequest(
            app,
            self.task_id,
            self.callback_url,
            TERMINAL_EVENTS if self.events is None else frozenset(self.events),
            self.context,
            self.timeout_seconds,
            self.headers or {},
            self.secret,
            self.api_key,
            idempotency,
            model=self.model,
            body=self.body,
            trace=trace,
        )


class BatchRequest(_Body):
    """Watches to register in one commit. A bad entry does not affect the others."""

    watches: Annotated[
        list[Any],
        Field(min_length=1, max_length=MAX_BATCH),
        WithJsonSchema(
            {
                "type": "array",
                # `{}`: the request is valid with bad entries; each of them gets its own problem.
                "items": {"anyOf": [json_schemas.reference_to(WatchRequestBody), {}]},
                "minItems": 1,
                "maxItems": MAX_BATCH,
            }
        ),
    ] = Field(description=f"1 to {MAX_BATCH} entries, each as the body of `POST /watch`.")


class PingRequest(_Body):
    """A callback target to check and, without `dry_run`, to send one signed `bridge.ping`."""

    callback_url: Annotated[str, WithJsonSchema(json_schemas.CALLBACK_URL)] = Field(
        description="Where the ping is sent. The rules are those of a watch's `callback_url`."
    )
    dry_run: bool | None = Field(None, description="Only check the target; send nothing.")


class RetryRequest(_Body):
    """A filter for the dead deliveries to send again."""

    state: Literal["dead"] = Field(description="Must be `dead`: only dead deliveries are sent again by a filter.")
    since: Rfc3339 | None = Field(None, description="Only deliveries that became dead at this time or later.")
    until: Rfc3339 | None = Field(None, description="Only deliveries that became dead at this time or earlier.")
    callback_host: Annotated[str, AfterValidator(stored_host), WithJsonSchema(json_schemas.HOST)] | None = Field(
        None, description="Only deliveries to this host: a host name or an address, without a port."
    )
    dry_run: bool | None = Field(None, description="Only count the deliveries; send nothing.")

    def time_range(self) -> tuple[float | None, float | None]:
        """Returns `since` and `until` in Unix seconds: their validator has replaced the text with a number."""
        since: Any = self.since
        until: Any = self.until
        return since, until


class BulkRequest(_Body):
    """The page's filters, and options of the change. `up_to` is the id of the newest watch that was counted."""

    filters: dict[str, str]
    dry_run: bool | None = None
    up_to: str | None = None
    delivered: bool | None = None


# --- pydantic's errors as our sentences ---------------------------------------------------------------------------

_MESSAGES: Final[Mapping[str, str]] = {
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


def _field_errors(detail: ErrorDetails) -> list[tuple[str, str]]:
    """Returns the fields of one pydantic error, each with its rule. An error about bad strings has several fields."""
    cause = detail.get("ctx", {}).get("error")
    if not isinstance(cause, BadBody):
        return [_field_error(detail)]
    return [(_path((*detail["loc"], *path)), rule) for path, rule in cause.problems]


def _path(parts: Iterable[int | str]) -> str:
    return ".".join(shown(str(part)) for part in parts)


def _field_error(detail: ErrorDetails) -> tuple[str, str]:
    """Returns the field of one pydantic error, and the rule as the end of a sentence that begins with the field."""
    field = _path(detail["loc"])
    context = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return field or "body", str(context["error"])
        case "greater_than":
            return field, f"must be above {context['gt']:g}"
        case "literal_error" | "enum" as kind:  # a literal has one value
            return field, f"must be {'one of ' if kind == 'enum' else ''}{context['expected']}"
        case "too_short":
            return field, f"must have at least {_entries(context['min_length'])}"
        case "too_long":
            return field, f"must have at most {_entries(context['max_length'])}"
        case kind:
            return field or "body", _MESSAGES.get(kind, "has the wrong type")


def _entries(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"
