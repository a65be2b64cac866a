"""How a sandbox task goes: its times, its end, the forms it is told in, and what goes wrong while it is asked for."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BehaviourError(ValueError):
    """A `sandbox` object that cannot be followed; the message names each bad field."""


class Outcome(StrEnum):
    """How a task ends; `never` runs on for ever."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    NEVER = "never"


class FaultKind(StrEnum):
    """What can go wrong with one answer. "Good" is the answer that would have been given."""

    # Answers in the good one's place.
    HTML_200 = "html_200"  # a page with status 200: a wrong base URL, or a proxy's sign-in
    EMPTY_BODY = "empty_body"  # 200, JSON's content type, no body
    DATA_NULL = "data_null"  # form F
    NOT_FOUND_400 = "not_found_400"  # the server's: flat, task_not_exist
    NOT_FOUND_404 = "not_found_404"  # the document's: task_not_found
    WRONG_BASE_404 = "wrong_base_404"
    UNAUTHORIZED = "unauthorized"  # 401, the key is wrong
    QUOTA = "quota"  # 401 too, the key's quota is used up
    FORBIDDEN_KEY = "forbidden_key"  # a 403 that speaks of the key
    FORBIDDEN_TASK = "forbidden_task"  # a 403 that speaks of the task
    REJECTED = "rejected"  # amux's JSON error with 400, or with any `status`
    RATE_LIMITED = "rate_limited"  # 429; `retry_after`, `as_date`, `empty`
    SERVER_ERROR = "server_error"
    PANIC = "panic"
    NOT_IMPLEMENTED = "not_implemented"
    BAD_GATEWAY_HTML = "bad_gateway_html"  # a proxy's page with 502, or with any `status`; `empty`, `retry_after`
    ECHO_KEY = "echo_key"  # a 500 whose message repeats the caller's key
    REDIRECT = "redirect"  # 302, or any `status`, to /moved here
    GZIP_BOMB = "gzip_bomb"  # 64 KB that unpack to 64 MiB

    # The good answer, twisted.
    TRUNCATED_JSON = "truncated_json"
    WRONG_CONTENT_TYPE = "wrong_content_type"
    WRONG_TASK = "wrong_task"  # the record of another task
    HUGE_BODY = "huge_body"  # good JSON of 2 MiB
    NUL_IN_STRINGS = "nul_in_strings"
    BOM = "bom"
    NAN = "nan"
    HUGE_NUMBER = "huge_number"
    LONE_SURROGATE = "lone_surrogate"
    DEEP_JSON = "deep_json"

    # The connection's own troubles.
    SLOW = "slow"  # the good answer, `seconds` late
    STALLED_BODY = "stalled_body"  # half of the good body, then nothing for `seconds`, then the rest
    ENDLESS_BODY = "endless_body"  # a body that goes on until the client leaves
    CUT_BODY = "cut_body"  # half of the good body, then the connection is reset
    # The connection is reset instead of an answer. aiohttp's client then asks once more by itself (GET only), and that
    # is a poll as well: `times=2` is one failure for it.
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Fault:
    """One trouble, for `times` answers in a row (None: for ever). The other fields serve the kinds that name them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: FaultKind
    times: Annotated[int, Field(ge=1)] | None = 1
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    seconds: Seconds = 1.0
    retry_after: Seconds | None = None
    """Seconds, in the Retry-After header; None: no header."""
    as_date: bool = False
    """Retry-After as an HTTP date."""
    empty: bool = False
    """No body."""


def _one_fault(given: object) -> object:
    """A fault may be its bare name."""
    return {"kind": given} if isinstance(given, str) else given


def _joined(given: object) -> object:
    """Forms may come as a list of letters."""
    return "".join(map(str, given)) if isinstance(given, list) else given


AnyFault = Annotated[Fault, BeforeValidator(_one_fault)]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """All that is chosen about a task when it is created; every field has a default. Times are seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    queue_seconds: Seconds = 1.0
    run_seconds: Seconds = 2.0
    outcome: Outcome = Outcome.COMPLETED
    late_seconds: Seconds = 0.0
    """How long after its creation the task is still unknown."""
    form: Annotated[str, Field(pattern="^[A-F]+$"), BeforeValidator(_joined)] = "C"
    """One letter, or several that take turns, one a poll. F tells nothing. The alias tells D, whatever is here."""
    faults: tuple[AnyFault, ...] = ()
    """For the first status polls, in this order; a fault for ever is the last that counts."""
    create_fault: AnyFault | None = None
    """For the answer of the create call; the task exists all the same."""
    content_fault: AnyFault | None = None
    """For every answer of the content route."""
    url: str | None = "file"
    """A success's URL: "file" (served here, no key), "content" (the content route), None, or any text as it is."""
    error_code: int | str = 50001
    error_message: str = "Upstream model rejected the prompt due to content policy."
    error_in_url: bool = False
    """A failure's message stands in `result_url` and `metadata.url`, as with amux's older records."""
    error_always: bool = False
    """An error stands beside statuses that are not failures, too."""
    running_word: str | None = None
    """The status while running, instead of the form's own word."""
    final_word: str | None = None
    """The status at the end, instead of the form's own word."""
    milliseconds: bool = False
    """The record's times are in milliseconds, as Kling's."""

    def form_at(self, poll: int) -> str:
        """The letter for one poll, counted from 0; a poll that meets a fault counts as well."""
        return self.form[poll % len(self.form)]

    def fault_at(self, poll: int) -> Fault | None:
        """The fault for one poll, counted from 0, if any."""
        for fault in self.faults:
            if fault.times is None or poll < fault.times:
                return fault
            poll -= fault.times
        return None


_BEHAVIOUR = TypeAdapter(Behaviour)
_PROMPT_WORDS = {
    "fail": Outcome.FAILED,
    "cancel": Outcome.CANCELLED,
    "expire": Outcome.EXPIRED,
    "never": Outcome.NEVER,
}
_IMPLICIT = re.compile(rf"sandbox_(\d{{1,9}})_(\d{{1,9}})_({'|'.join(Outcome)})_.+")


def parse(given: object, prompt: str = "", default: Behaviour | None = None) -> Behaviour:
    """Read a create request's `sandbox` object (None: nothing was chosen); what it leaves out is as in `default`.

    Raises `BehaviourError` for anything but an object with known fields and fitting values.
    """
    if not isinstance(given, Mapping | None):
        raise BehaviourError("sandbox: should be an object")
    chosen: dict[str, Any] = asdict(default or Behaviour())
    words = prompt.split(maxsplit=1)
    if words and (outcome := _PROMPT_WORDS.get(words[0].lower())):
        chosen["outcome"] = outcome
    try:
        return _BEHAVIOUR.validate_python(chosen | dict(given or {}))
    except ValidationError as error:
        raise BehaviourError("; ".join(_sentences(error))) from None


def _sentences(error: ValidationError) -> list[str]:
    """Each bad field with its rule, without the value and the link that pydantic adds."""
    return [f"sandbox.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]


@lru_cache(maxsize=1024)
def _told(queue_ms: str, run_ms: str, outcome: str, default: Behaviour) -> Behaviour:
    """One behaviour for all ids that say the same: a load test asks for 100,000 of them."""
    return replace(
        default, queue_seconds=int(queue_ms) / 1000, run_seconds=int(run_ms) / 1000, outcome=Outcome(outcome)
    )


def implied_by(task_id: str, default: Behaviour) -> Behaviour | None:
    """What an id of the form `sandbox_<queue ms>_<run ms>_<outcome>_<anything>` says; None for any other id."""
    match = _IMPLICIT.fullmatch(task_id)
    return _told(match[1], match[2], match[3], default) if match else None
