"""A task's record, in any of amux's forms, read as what was seen. Pure; nothing but the model's fields leaves it.

The forms A to F are those of amux's document and of its server: a bare record (A, D), one in an envelope (B, C), a
vendor's own (E), none (F).
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

LONGEST_MESSAGE = 4_000  # characters: twice what an event shows, so that what is redacted later is cut after that
LONGEST_CODE = 128
LONGEST_WORD = 64  # of a status we don't know; it is logged and counted
_LONGEST_URL = 16_384  # an event has no room for more than a part of it
_LONGEST_PERCENTAGE = 16

_STATUSES: Mapping[str, TaskStatus] = {
    **dict.fromkeys(("completed", "succeeded", "success", "succeed", "done"), TaskStatus.COMPLETED),
    **dict.fromkeys(("failed", "failure", "error", "cancelled", "canceled", "expired"), TaskStatus.FAILED),
    **dict.fromkeys(("queued", "not_start", "submitted", "pending"), TaskStatus.QUEUED),
    **dict.fromkeys(("in_progress", "processing", "running"), TaskStatus.IN_PROGRESS),
}
_PERCENTAGE = re.compile(r"\s*([0-9]{1,9})(?:\.[0-9]*)?\s*%?\s*")
_HTTP_URL = re.compile(r"https?://[^\s\x00-\x20\x7f]+", re.IGNORECASE)
_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+/_-]{0,31}")
_INTEGERS = range(-(2**63), 2**64)  # what a JSON writer, orjson among them, can be asked to write
_MILLISECONDS_FROM = 1e11  # as seconds the year 5138, as milliseconds 1973: Kling's times are in milliseconds
_TIMES_UNTIL = 1e14


def record_in(document: Any) -> Record | None:
    """The record in an answer's JSON value; None when there is none (form F, or no answer of amux's).

    `data` is it when it is an object that carries a status, unless what is around it is plainly the record itself: in
    a record that came without its envelope, `data` is the vendor's body, and its status is a vendor's opinion.
    """
    if not isinstance(document, dict):
        return None
    data = document.get("data")
    bare = _has_status(document)
    if isinstance(data, dict) and _has_status(data) and not (bare and isinstance(document.get("task_id"), str)):
        return data
    return document if bare else None


def is_of_another_task(record: Record, task_id: str) -> bool:
    """Whether a record names a task that is not ours.

    Only a string `task_id` can say so. `id` is a row's number in form C and may be a vendor's in D, one that itself
    begins with `task_` where the vendor is another amux: refusing by it would let every watch there time out.
    """
    named = record.get("task_id")
    return named != task_id and isinstance(named, str) and clean(named).strip() not in ("", task_id)


def read_record(record: Record, document: Record, *, task_id: str, base_url: str) -> TaskRecord:
    """What a record says; `document` is the whole answer, whose `message` may be a failure's only reason.

    URL, format and metadata are a success's, the error is a failure's: beside other statuses they are not believed.
    """
    word = clean(record["status"]).strip().lower()[:LONGEST_WORD]
    status = _STATUSES.get(word, TaskStatus.UNKNOWN)
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
    return _running(word, progress)


def text_of(value: Any, longest: int) -> str | None:
    """A text made fit and cut to `longest` characters; None for anything that is no text, or blank."""
    if not isinstance(value, str):
        return None
    return clean(value[: 2 * longest]).strip()[:longest] or None


def code_of(value: Any) -> str | int | None:
    """An error's code, an integer or a text of at most 128 characters; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value in _INTEGERS else None
    return text_of(value, LONGEST_CODE)


@lru_cache(maxsize=1024)
def _running(word: str, progress: int | None) -> TaskRecord:
    """What nearly every poll says: made once for each word and progress, for a frozen object costs 2 µs to make."""
    status = _STATUSES.get(word, TaskStatus.UNKNOWN)
    return TaskRecord(status, progress, word=word if status is TaskStatus.UNKNOWN else None)


def _has_status(value: Record) -> bool:
    status = value.get("status")
    return isinstance(status, str) and status != ""


def _progress(value: Any) -> int | None:
    """Per cent, 0 to 100, from a number or from "30%"."""
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
    """The first that is an http(s) URL; None when that is amux's own `/content`, which needs the key."""
    for candidate in _candidates(record):
        if (parts := _http_url(candidate)) is not None:
            return None if _is_own_content(parts, task_id, base_url) else clean(candidate).strip()
    return None


def _candidates(record: Record) -> Iterator[Any]:
    """Where a record may keep its video's URL, in the order of trust."""
    yield record.get("url")
    yield record.get("result_url")
    yield _inside(record, "metadata", "url")
    yield _inside(record, "content", "video_url")
    yield _inside(record, "data", "output", "url")


def _inside(value: Any, *names: str) -> Any:
    """A member of a member; None where there is none."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _http_url(value: Any) -> SplitResult | None:
    """The parts of a text that is an http(s) URL with a host; None for any other value."""
    if not isinstance(value, str) or len(value) > _LONGEST_URL:
        return None
    text = clean(value).strip()
    if not _HTTP_URL.fullmatch(text):
        return None
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        return None
    return parts if usable else None


def _is_own_content(url: SplitResult, task_id: str, base_url: str) -> bool:
    """Whether a URL is amux's own `/content`.

    amux builds it from the public name it was given, which need not be the one we ask: of another host the task's id
    in the path tells, of our own any id does.
    """
    path = unquote(url.path).rstrip("/")
    if path.endswith(f"/v1/videos/{task_id}/content"):
        return True
    return path.endswith("/content") and "/v1/videos/" in path and url.hostname == urlsplit(base_url).hostname


def _format(value: Any) -> str | None:
    """A container's name such as `mp4`; what does not look like one is no format."""
    text = text_of(value, LONGEST_CODE)
    return text if text and _FORMAT.fullmatch(text) else None


def _metadata(value: Any) -> VideoMetadata | None:
    """The five numbers that leave the bridge; None when there is none of them."""
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
    """The reason amux gives: the error, object or text, else `fail_reason`, else the answer's own message."""
    error = record.get("error")
    of_object = error if isinstance(error, dict) else {"message": error}
    reasons = (of_object.get("message"), record.get("fail_reason"), document.get("message"))
    texts = (text_of(reason, LONGEST_MESSAGE) for reason in reasons)
    return Problem(code_of(of_object.get("code")), next(filter(None, texts), None))


def _finished_at(record: Record) -> float | None:
    """When it ended by amux's own clock, in Unix seconds: form C's or D's."""
    for name in ("finish_time", "completed_at"):
        at = _number(record.get(name))
        if at is not None and 0 < at < _TIMES_UNTIL:
            return at / 1000 if at >= _MILLISECONDS_FROM else float(at)
    return None
