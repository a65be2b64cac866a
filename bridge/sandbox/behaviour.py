"""How a sandbox task behaves: its times, its outcome, the forms of its answers, and the errors of its polls."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from bridge.sandbox.video import MAX_VIDEO_BYTES, MIN_VIDEO_BYTES

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BehaviourError(ValueError):
    """An invalid `sandbox` object. The message names each bad field."""


class Outcome(StrEnum):
    """How a task ends. `never` means that it never ends."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    NEVER = "never"


class Platform(StrEnum):
    """A vendor's number in amux. Gemini, Vertex and Doubao are live, the others are recorded."""

    ALI = "17"
    GEMINI = "24"
    MINIMAX = "35"
    VERTEX = "41"
    KLING = "50"
    VIDU = "52"
    DOUBAO = "54"
    SORA = "55"


class VendorAnswer(StrEnum):
    """What a vendor answers to one request of amux."""

    GOOD = "good"
    SOFT_FAILURE = "soft_failure"  # a refusal of this one request; amux reads it as the failure of a live task
    ERROR = "error"  # status 429 or 500 with an error; amux's reaction depends on the platform
    UNREACHABLE = "unreachable"  # no answer, or no JSON: amux does not change its record


class FaultKind(StrEnum):
    """A fault of one answer. The "good" answer is the one without the fault."""

    # Answers that replace the good one.
    HTML_200 = "html_200"  # a page with status 200: a wrong base URL, or a proxy's sign-in
    EMPTY_BODY = "empty_body"  # 200, JSON's content type, no body
    DATA_NULL = "data_null"  # form F
    NOT_FOUND_400 = "not_found_400"  # as amux's server answers: flat, task_not_exist
    NOT_FOUND_404 = "not_found_404"  # as amux's documentation says: task_not_found
    WRONG_BASE_404 = "wrong_base_404"
    UNAUTHORIZED = "unauthorized"  # 401, the key is wrong
    QUOTA = "quota"  # 401 too, the key's quota is used up
    FORBIDDEN_KEY = "forbidden_key"  # a 403 about the key
    FORBIDDEN_TASK = "forbidden_task"  # a 403 about the task
    REJECTED = "rejected"  # amux's JSON error with 400, or with any `status`
    RATE_LIMITED = "rate_limited"  # 429; `retry_after`, `as_date`, `empty`
    SERVER_ERROR = "server_error"
    PANIC = "panic"
    NOT_IMPLEMENTED = "not_implemented"
    BAD_GATEWAY_HTML = "bad_gateway_html"  # a proxy's page with 502, or with any `status`; `empty`, `retry_after`
    ECHO_KEY = "echo_key"  # a 500 whose message repeats the caller's key
    REDIRECT = "redirect"  # 302, or any `status`, to /moved here
    GZIP_BOMB = "gzip_bomb"  # 64 KB that unpack to 64 MiB

    # Changes of the good answer.
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

    # Failures of the connection.
    SLOW = "slow"  # the good answer, `seconds` late
    STALLED_BODY = "stalled_body"  # half of the good body, then nothing for `seconds`, then the rest
    ENDLESS_BODY = "endless_body"  # a body that continues until the client closes the connection
    CUT_BODY = "cut_body"  # half of the good body, then the connection is reset
    # A reset of the connection instead of an answer. aiohttp's client then repeats a GET by itself, and the stand-in
    # counts that as a poll too: `times=2` is one failure for the client.
    RESET = "reset"


class GatewayFault(StrEnum):
    """Answers of amux's gateway about the key or about amux's machine. They replace the good answer."""

    DEAD_CHANNEL = "dead_channel"  # 400, or 403 with `status`: an admin's key names a deleted or disabled channel
    USER_DELETED = "user_deleted"  # 500 "Database error"
    CPU_OVERLOADED = "cpu_overloaded"  # 503 system_cpu_overloaded, which amux gives on the batch route only


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, for `times` answers in a row (None: for all). The comment of a kind names its other fields."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    kind: FaultKind | GatewayFault
    times: Annotated[int, Field(ge=1)] | None = 1
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    seconds: Seconds = 1.0
    retry_after: Seconds | None = None
    """The Retry-After header, in seconds; None: no header."""
    as_date: bool = False
    """Whether Retry-After is an HTTP date."""
    empty: bool = False
    """Whether the answer has no body."""


def _fault_from_name(value: object) -> object:
    """Accepts the name of a kind as a fault."""
    return {"kind": value} if isinstance(value, str) else value


def _platform_from_name(value: object) -> object:
    """Accepts a platform as an integer, or by name: kling."""
    if isinstance(value, str) and value.upper() in Platform.__members__:
        return Platform[value.upper()]
    return str(value) if isinstance(value, int) else value


def _joined(value: object) -> object:
    """Accepts forms as a list of letters."""
    return "".join(map(str, value)) if isinstance(value, list) else value


AnyFault = Annotated[Fault, BeforeValidator(_fault_from_name)]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one task behaves, chosen when the task is created. Every field has a default. Times are in seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    queue_seconds: Seconds = 1.0
    run_seconds: Seconds = 2.0
    outcome: Outcome = Outcome.COMPLETED
    late_seconds: Seconds = 0.0
    """For this time after its creation, polls do not find the task."""
    form: Annotated[str, Field(pattern="^[A-F]+$"), BeforeValidator(_joined)] = "C"
    """One letter, or several that alternate from poll to poll. F has no record. `/v1/videos` always answers in D."""
    faults: tuple[AnyFault, ...] = ()
    """The faults of the first single status polls, in this order. Faults after one with `times=None` never happen."""
    create_fault: AnyFault | None = None
    """For the answer of the create call. The task exists nevertheless."""
    content_fault: AnyFault | None = None
    """For every answer of the content route."""
    url: str | None = "file"
    """The video's URL: "file" (served here without a key), "content" (the content route), None, or any other text."""
    error_code: int | str = 50001
    error_message: str = "Upstream model rejected the prompt due to content policy."
    error_in_url: bool = False
    """A failure's message is in `result_url` and `metadata.url`, as in amux's older records."""
    error_always: bool = False
    """The record has an error also when its status is not a failure."""
    running_word: str | None = None
    """The status while the task runs, instead of the form's own word."""
    final_word: str | None = None
    """The status at the end, instead of the form's own word."""
    milliseconds: bool = False
    """The record's times are in milliseconds, as with Kling."""

    platform: Annotated[Platform, BeforeValidator(_platform_from_name)] | None = None
    """The vendor, by number or name. amux then answers from a record that it updates as the real server does (see
    `records.py`). The fields form, error_in_url, error_always, running_word, final_word and milliseconds do not apply
    then. If `url` is "content" or None, the vendor gives no URL."""
    vendor_answers: tuple[VendorAnswer, ...] = ()
    """The vendor's first answers to a live task's status requests, else to the sweep. Later answers are good."""
    forget_seconds: Seconds | None = None
    """The vendor deletes a task this long after its end (None: never). amux then shows a live success as processing."""
    amux_timeout_seconds: Seconds = 86400.0
    """The age at which amux's sweep fails an unfinished task. A live task goes back to IN_PROGRESS at the next GET."""
    content_bytes: Annotated[int, Field(ge=MIN_VIDEO_BYTES, le=MAX_VIDEO_BYTES)] | None = None
    """The size of the video's file, up to 1 GiB. None: the few kilobytes of `MP4`."""

    @property
    def vendor_gives_url(self) -> bool:
        """Whether the vendor's answer names the video's URL. If not, amux names its own content route."""
        return self.url not in {None, "content"}

    def vendor_answer_at(self, request: int) -> VendorAnswer:
        """Returns the vendor's answer to a request. Requests are counted from 0."""
        return self.vendor_answers[request] if request < len(self.vendor_answers) else VendorAnswer.GOOD

    def form_at(self, poll: int) -> str:
        """Returns the letter of the form for a poll. Polls are counted from 0, those with a fault too."""
        return self.form[poll % len(self.form)]

    def fault_at(self, poll: int) -> Fault | None:
        """Returns the fault of a poll, or None. Polls are counted from 0."""
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
_IMPLICIT = re.compile(rf"sandbox({'|'.join(Platform)})?_(\d{{1,9}})_(\d{{1,9}})_({'|'.join(Outcome)})_.+")


def parse(value: object, prompt: str = "", default: Behaviour | None = None) -> Behaviour:
    """Reads the `sandbox` object of a create request (None: there is none). Missing fields are as in `default`.

    Raises BehaviourError for anything but an object with known fields and valid values.
    """
    if not isinstance(value, Mapping | None):
        raise BehaviourError("sandbox: should be an object")
    chosen: dict[str, Any] = asdict(default or Behaviour())
    words = prompt.split(maxsplit=1)
    if words and (outcome := _PROMPT_WORDS.get(words[0].lower())):
        chosen["outcome"] = outcome
    try:
        return _BEHAVIOUR.validate_python(chosen | dict(value or {}))
    except ValidationError as error:
        raise BehaviourError("; ".join(_sentences(error))) from None


def _sentences(error: ValidationError) -> list[str]:
    """Returns each bad field with its rule, without the value and the link that pydantic adds."""
    return [f"sandbox.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]


@lru_cache(maxsize=1024)
def _behaviour_from_id(platform: str | None, queue_ms: str, run_ms: str, outcome: str, default: Behaviour) -> Behaviour:
    """Returns the behaviour. All ids with the same values share one object, because a load test uses 100,000 ids."""
    return replace(
        default,
        platform=Platform(platform) if platform else default.platform,
        queue_seconds=int(queue_ms) / 1000,
        run_seconds=int(run_ms) / 1000,
        outcome=Outcome(outcome),
    )


def implied_by(task_id: str, default: Behaviour) -> Behaviour | None:
    """Returns the behaviour in an id `sandbox_<queue ms>_<run ms>_<outcome>_<anything>`; None for any other id.

    The number of a platform may follow the word, as in `sandbox50_0_1000_completed_17`.
    """
    match = _IMPLICIT.fullmatch(task_id)
    return _behaviour_from_id(match[1], match[2], match[3], match[4], default) if match else None
