"""Reads a task's record, in any of amux's forms, into a TaskRecord. Pure. Only the model's fields are read.

The forms A to F are those of amux's documentation and of its server: a bare record (A, D), a record in an envelope
(B, C), a vendor's own record (E), no record (F).
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from bridge.amux.lenient_json import clean
from bridge.core.model import Problem, TaskRecord, TaskStatus, VideoMetadata

Record: TypeAlias = Mapping[str, Any]

LONGEST_MESSAGE = (
    4_000  # characters: twice what an event shows, because keys are redacted before it is cut for an event
)
LONGEST_CODE = 128  # characters
LONGEST_STATUS = 64  # characters of an unknown status; it is logged and counted
_LONGEST_URL = 16_384  # characters; events hold only URLs of up to 4,096 bytes
_LONGEST_PERCENTAGE = 16  # characters

_STATUSES: Mapping[str, TaskStatus] = {
    **dict.fromkeys(("completed", "succeeded", "success", "succeed", "done"), TaskStatus.COMPLETED),
    **dict.fromkeys(("failed", "failure", "error", "cancelled", "canceled", "expired"), TaskStatus.FAILED),
    **dict.fromkeys(("queued", "not_start", "submitted", "pending"), TaskStatus.QUEUED),
    **dict.fromkeys(("in_progress", "processing", "running"), TaskStatus.IN_PROGRESS),
}
_PERCENTAGE = re.compile(r"\s*([0-9]{1,9})(?:\.[0-9]*)?\s*%?\s*")
_HTTP_URL = re.compile(r"https?://[^\s\x00-\x20\x7f]+", re.IGNORECASE)
_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+/_-]{0,31}")
_INTEGERS = range(-(2**63), 2**64)  # the integers that orjson can write
_MILLISECONDS_FROM = 1e11  # in seconds the year 5138, in milliseconds the year 1973: Kling's times are in milliseconds
_TIMES_UNTIL = 1e14


def record_in(document: Any) -> Record | None:
    """Returns the record in an answer's JSON value, or None (form F, or not an answer of amux).

    The record is `data` if that is an object with a status. But if the object around it has a status and a `task_id`,
    it is itself the record: it came without its envelope, and `data` is the vendor's body, whose status does not count.
    """
    if not isinstance(document, dict):
        return None
    data = document.get("data")
    bare = _has_status(document)
    if isinstance(data, dict) and _has_status(data) and not (bare and isinstance(document.get("task_id"), str)):
        return data
    return document if bare else None


def is_of_another_task(record: Record, task_id: str) -> bool:
    """Whether a record names another task than `task_id`.

    Only a string in its `task_id` counts. `id` is a row number in form C and may be the vendor's id in form D. If the
    vendor is another amux, that id also begins with `task_`, and if it counted, every watch there would time out.
    """
    own_id = record.get("task_id")
    return own_id != task_id and isinstance(own_id, str) and clean(own_id).strip() not in ("", task_id)


def read_record(record: Record, document: Record, *, task_id: str, base_url: str) -> TaskRecord:
    """Reads a record. `document` is the whole answer: its `message` may be the only reason of a failure.

    URL, format and metadata are read for a completed task only, the error for a failed one only.
    """
    raw_status = clean(record["status"]).strip().lower()[:LONGEST_STATUS]
    status = _STATUSES.get(raw_status, TaskStatus.UNKNOWN)
    progress = _progress(record.get("progress"))
    if status is TaskStatus.COMPLETED:
        return TaskRecord(
            status,
            progress,
            _video_url(record, task_id, base_url),
            _format(record.get("format")),
            _metadata(record.get("metadata")),
            finished_at=_finished_at(record),
        )
    if status is TaskStatus.FAILED:
        return TaskRecord(status, progress, error=_failure(record, document), finished_at=_finished_at(record))
    return _running(raw_status, progress)


def text_of(value: Any, longest: int) -> str | None:
    """Returns a text, cleaned and cut to `longest` characters; None for a blank text or any other type."""
    if not isinstance(value, str):
        return None
    return clean(value[: 2 * longest]).strip()[:longest] or None


def code_of(value: Any) -> str | int | None:
    """Returns an error's code, an integer or a text of at most 128 characters; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INTEGERS else None
    return text_of(value, LONGEST_CODE)


@lru_cache(maxsize=1024)
def _running(raw_status: str, progress: int | None) -> TaskRecord:
    """Returns the result of nearly all polls. It is cached, because making a frozen object costs 2 µs."""
    status = _STATUSES.get(raw_status, TaskStatus.UNKNOWN)
    return TaskRecord(status, progress, raw_status=raw_status if status is TaskStatus.UNKNOWN else None)


def _has_status(value: Record) -> bool:
    status = value.get("status")
    return isinstance(status, str) and status != ""


def _progress(value: Any) -> int | None:
    """Returns per cent, 0 to 100, from a number or from a text such as "30%"."""
    match value:
        case bool():
            return None
        case int():
            return min(max(value, 0), 100)
        case float() if math.isfinite(value):
            return min(max(int(value), 0), 100)
        case str() if len(value) <= _LONGEST_PERCENTAGE:
            return _percentage(value)
    return None


@lru_cache(maxsize=1024)
def _percentage(text: str) -> int | None:
    found = _PERCENTAGE.fullmatch(clean(text))
    return min(int(found[1]), 100) if found else None


def _video_url(record: Record, task_id: str, base_url: str) -> str | None:
    """Returns the first http(s) URL of a record, or None if that is amux's own `/content`, which needs the key."""
    for candidate in _candidates(record):
        if (parts := _http_url(candidate)) is not None:
            return None if _is_own_content(parts, task_id, base_url) else clean(candidate).strip()
    return None


def _candidates(record: Record) -> Iterator[Any]:
    """Yields the values that may be the video's URL, the most reliable first."""
    yield record.get("url")
    yield record.get("result_url")
    yield _member(record, "metadata", "url")
    yield _member(record, "content", "video_url")
    yield _member(record, "data", "output", "url")


def _member(value: Any, *names: str) -> Any:
    """Returns a member of nested objects by its path, or None if it does not exist."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _http_url(value: Any) -> SplitResult | None:
    """Returns the parts of an http(s) URL that has a host; None for any other value."""
    if not isinstance(value, str) or len(value) > _LONGEST_URL:
        return None
    text = clean(value).strip()
    if not _HTTP_URL.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return None
    return parts if usable else None


def _is_own_content(url: SplitResult, task_id: str, base_url: str) -> bool:
    """Whether a URL is amux's own `/content` route.

    amux builds it from its configured public name, which may differ from the host in `base_url`. On another host the
    path must hold the task's id; on the host of `base_url` it may hold any id.
    """
    path = unquote(url.path).rstrip("/")
    if path.endswith(f"/v1/videos/{task_id}/content"):
        return True
    return path.endswith("/content") and "/v1/videos/" in path and url.hostname == urlsplit(base_url).hostname


def _format(value: Any) -> str | None:
    """Returns the name of a container format such as `mp4`; None for a text that does not look like one."""
    text = text_of(value, LONGEST_CODE)
    return text if text and _FORMAT.fullmatch(text) else None


def _metadata(value: Any) -> VideoMetadata | None:
    """Returns the five numbers that leave the bridge, or None if none of them is given."""
    if not isinstance(value, dict):
        return None
    numbers = {name: _number(value.get(name)) for name in VideoMetadata.__slots__}
    return VideoMetadata(**numbers) if any(number is not None for number in numbers.values()) else None


def _number(value: Any) -> float | None:
    match value:
        case bool():
            return None
        case int():
            return value if value in _INTEGERS else None
        case float() if math.isfinite(value):
            return value
    return None


def _failure(record: Record, document: Record) -> Problem:
    """Returns amux's reason: `error` (an object or a text), else `fail_reason`, else the answer's own message."""
    error = record.get("error")
    error_object = error if isinstance(error, dict) else {"message": error}
    reasons = (error_object.get("message"), record.get("fail_reason"), document.get("message"))
    texts = (text_of(reason, LONGEST_MESSAGE) for reason in reasons)
    return Problem(code_of(error_object.get("code")), next(filter(None, texts), None))


def _finished_at(record: Record) -> float | None:
    """Returns when the task ended by amux's clock, in Unix seconds. Forms C and D hold it."""
    for name in ("finish_time", "completed_at"):
        at = _number(record.get(name))
        if at is not None and 0 < at < _TIMES_UNTIL:
            return at / 1000 if at >= _MILLISECONDS_FROM else float(at)
    return None
