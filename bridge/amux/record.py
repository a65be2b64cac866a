"""Reads a task's record, in any of amux's forms, into a TaskRecord. Pure. Only the model's fields are read.

amux's documentation and its server have the forms A to F: a bare record (A, D), a record in an envelope (B, C), a
vendor's own record (E), and no record (F).
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from bridge.amux import paths
from bridge.amux.lenient_json import clean
from bridge.amux.paths import STATUS_WORDS, Path, value_at
from bridge.core.model import Problem, TaskRecord, TaskStatus, VideoMetadata

Record: TypeAlias = Mapping[str, Any]

LONGEST_MESSAGE = (
    4_000  # characters: twice what an event shows, because keys are redacted before it is cut for an event
)
LONGEST_CODE = 128  # characters
LONGEST_STATUS = 64  # characters of an unknown status; it is logged and counted
LONGEST_MODEL = 191  # characters, as in amux's own table
LONGEST_PLATFORM = 30  # characters, as in amux's own table
_LONGEST_URL = 16_384  # characters; events hold only URLs of up to 4,096 bytes
_LONGEST_PERCENTAGE = 16  # characters
_LONGEST_SIZE = 32  # characters

_PERCENTAGE = re.compile(r"\s*([0-9]{1,9})(?:\.[0-9]*)?\s*%?\s*")
_HTTP_URL = re.compile(r"https?://[^\s\x00-\x20\x7f]+", re.IGNORECASE)
_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+/_-]{0,31}")
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SIZE = re.compile(r"([0-9]{1,5})\s*[x*\u00d7]\s*([0-9]{1,5})", re.IGNORECASE)
_CONTAINERS = frozenset(
    {"3gp", "avi", "flv", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ogv", "ts", "webm", "wmv"}
)
_INTEGERS = range(-(2**63), 2**64)  # the integers that orjson can write
MILLISECONDS_FROM = 1e11  # larger times are in milliseconds, as Kling's: in seconds this would be the year 5138
_TIMES_UNTIL = 1e14


def record_in(document: Any) -> Record | None:
    """Returns the record in an answer's JSON value, or None (form F, or not an answer of amux).

    The record is `data` if that is an object with a status. But if the outer object has a status and a `task_id`, it is
    the record itself: it came without an envelope, and `data` is the vendor's body, whose status does not count. An
    answer without any `status` may come from a vendor that has another name for it.
    """
    if not isinstance(document, dict):
        return None
    data = document.get("data")
    bare = has_status(document)
    if isinstance(data, dict) and has_status(data) and not (bare and isinstance(document.get("task_id"), str)):
        return data
    return document if bare else _vendors_record(document)


def _vendors_record(document: Record) -> Record | None:
    wrapped = (document.get(name) for name in paths.WRAPPERS)
    for record in (*wrapped, document):
        if isinstance(record, dict) and _status_word(record):
            return record
    return None


def is_of_another_task(record: Record, task_id: str) -> bool:
    """Returns whether a record is of another task than `task_id`.

    Only a text in the record's `task_id` counts. `id` does not: it is a row number in form C, and can be the vendor's
    id in form D. A vendor that is another amux has ids that also begin with `task_`. If `id` counted, all its watches
    would time out.
    """
    own_id = record.get("task_id")
    return own_id != task_id and isinstance(own_id, str) and clean(own_id).strip() not in ("", task_id)


def read_record(record: Record, document: Record, *, task_id: str, base_url: str) -> TaskRecord:
    """Reads a record. `document` is the whole answer: its `message` may be the only reason for a failure.

    URL, format and metadata are read only for a completed task, and the error only for a failed one.
    """
    raw_status = clean(_status_word(record)).strip().lower()[:LONGEST_STATUS]
    status = STATUS_WORDS.get(raw_status, TaskStatus.UNKNOWN)
    progress = _progress(record.get("progress"))
    origin = _origin(record, document)
    if status is TaskStatus.COMPLETED:
        url, is_own = _video_url(record, task_id, base_url)
        return TaskRecord(
            status,
            progress,
            None if is_own else url,
            _format(record) or _format_of(url),
            _metadata(record),
            finished_at=_time(record, paths.FINISHED_AT),
            **origin._asdict(),
        )
    if status is TaskStatus.FAILED:
        finished_at = _time(record, paths.FINISHED_AT)
        return TaskRecord(
            status, progress, error=_failure(record, document), finished_at=finished_at, **origin._asdict()
        )
    return _running(raw_status, progress, origin)


class _Origin(NamedTuple):
    """The fields that a record of any status has. The names are those of TaskRecord."""

    model: str | None
    platform: str | None
    submitted_at: float | None
    live: bool


def _origin(record: Record, document: Record) -> _Origin:
    return _Origin(
        _name(record, paths.MODEL, LONGEST_MODEL),
        _name(record, paths.PLATFORM, LONGEST_PLATFORM) or _number_as_name(record, paths.PLATFORM),
        _time(record, paths.SUBMITTED_AT),
        _is_live(record, document),
    )


def _is_live(record: Record, document: Record) -> bool:
    """Whether amux asked the vendor for this answer (form B): it has amux's envelope, and no field of amux's row."""
    return record is not document and document.get("code") == "success" and paths.ROW_FIELDS.isdisjoint(record)


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


def _running(raw_status: str, progress: int | None, origin: _Origin) -> TaskRecord:
    status = STATUS_WORDS.get(raw_status, TaskStatus.UNKNOWN)
    word = raw_status if status is TaskStatus.UNKNOWN else None
    return TaskRecord(status, progress, raw_status=word, **origin._asdict())


def has_status(value: Record) -> bool:
    """Returns whether a record has a text in `status` that is not empty."""
    status = value.get("status")
    return isinstance(status, str) and status != ""


def _status_word(record: Record) -> str:
    """Returns the first status in a record, "" if there is none."""
    if has_status(record):
        return str(record["status"])
    return next((word for word in _values(record, paths.STATUS) if isinstance(word, str) and word), "")


def _values(record: Record, places: Iterable[Path]) -> Iterator[Any]:
    """Yields the values at places, in the places' order. Skips places whose first names the record does not have."""
    vendors = record.get("data")
    names: Record = vendors if isinstance(vendors, dict) else {}
    for place in places:
        # These two look-ups are a tenth of the cost of `value_at`, and a record has few of the 70 places.
        if place[0] in record and (place[0] != "data" or place[1] in names):
            yield value_at(record, place)


def _name(record: Record, places: Iterable[Path], longest: int) -> str | None:
    for place in places:  # no generator: this runs once a poll
        value = value_at(record, place)
        if isinstance(value, str) and value and (text := _text(value[: 2 * longest], longest)) is not None:
            return text
    return None


def _number_as_name(record: Record, places: Iterable[Path]) -> str | None:
    """Returns the first integer of up to nine digits as a text. amux sends platforms as texts; a fork may not."""
    for place in places:
        value = value_at(record, place)
        if type(value) is int and 0 <= value < 10**9:
            return str(value)
    return None


@lru_cache(maxsize=1024)
def _text(value: str, longest: int) -> str | None:
    """Does the same as `text_of`, with a cache. It is small, because there are few names, and they were cut before."""
    return text_of(value, longest)


def _progress(value: Any) -> int | None:
    """Returns per cent, 0 to 100, from a number or from a text such as "30%"; None for any other value."""
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


def _video_url(record: Record, task_id: str, base_url: str) -> tuple[str | None, bool]:
    """Returns the first http(s) URL of a record, and whether it is amux's own `/content`, which needs the key."""
    for candidate in _values(record, paths.URL):
        if (parts := _http_url(candidate)) is not None:
            return clean(candidate).strip(), _is_own_content(parts, task_id, base_url)
    return None, False


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
    path must contain the task's id. On the host of `base_url` it may contain any id.
    """
    path = unquote(url.path).rstrip("/")
    if path.endswith(f"/v1/videos/{task_id}/content"):
        return True
    return path.endswith("/content") and "/v1/videos/" in path and url.hostname == urlsplit(base_url).hostname


def _format(record: Record) -> str | None:
    """Returns the name of a container format such as `mp4`; None for a text that does not look like one."""
    text = _name(record, paths.FORMAT, LONGEST_CODE)
    return text if text and _FORMAT.fullmatch(text) else None


def _format_of(url: str | None) -> str | None:
    """Returns the container format in the suffix of a URL's path, or None."""
    if url is None:
        return None
    suffix = urlsplit(url).path.rpartition(".")[2].lower()
    return suffix if suffix in _CONTAINERS else None


def _metadata(record: Record) -> VideoMetadata | None:
    """Returns the video's duration, fps, width, height and seed, or None if the record has none of them."""
    own = record.get("metadata")
    numbers = {name: _number(own.get(name)) if isinstance(own, dict) else None for name in VideoMetadata.__slots__}
    for name, number in numbers.items():
        if number is None:
            found = map(_vendors_number, _values(record, paths.METADATA[name]))
            # A vendor sends 0 for an unknown value. A seed can be 0.
            numbers[name] = next((n for n in found if n is not None and (n > 0 or name == "seed")), None)
    if numbers["width"] is None and numbers["height"] is None:
        numbers["width"], numbers["height"] = _size(record)
    return VideoMetadata(**numbers) if any(number is not None for number in numbers.values()) else None


def _size(record: Record) -> tuple[float | None, float | None]:
    """Returns width and height from a text such as "720x1280"."""
    for value in _values(record, paths.SIZE):
        if isinstance(value, str) and len(value) <= _LONGEST_SIZE and (found := _SIZE.fullmatch(value.strip())):
            return int(found[1]) or None, int(found[2]) or None
    return None, None


def _vendors_number(value: Any) -> float | None:
    """Returns a number, also from a text that is a decimal number: Sora and Kling send "4" and "5.1"."""
    if not isinstance(value, str):
        return _number(value)
    found = _DECIMAL.fullmatch(value.strip()) if len(value) <= _LONGEST_SIZE else None
    return None if found is None else float(found[0]) if found[1] else int(found[0])


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
    """Returns the code and the reason of a failure."""
    return Problem(_error_code(record), _reason(record, document))


def _error_code(record: Record) -> str | int | None:
    own = code_of(value_at(record, ("error", "code")))
    if own is not None:
        return own
    codes = map(code_of, _values(record, paths.ERROR_CODE))
    return next((code for code in codes if code not in (None, 0)), None)


def _reason(record: Record, document: Record) -> str | None:
    """Returns the first text that gives a reason. Kling and MiniMax send "success" if they have none."""
    reasons = (*_values(record, paths.REASON), document.get("message"))
    for text in (text_of(reason, LONGEST_MESSAGE) for reason in reasons):
        if text and STATUS_WORDS.get(text.lower()) is not TaskStatus.COMPLETED:
            return text
    return None


def _time(record: Record, places: Iterable[Path]) -> float | None:
    """Returns the first time that is at one of the places, in Unix seconds by amux's clock; None if there is none.

    Forms C and D have such times. Some vendors send milliseconds.
    """
    for place in places:
        at = _number(value_at(record, place))
        if at is not None and 0 < at < _TIMES_UNTIL:
            return at / 1000 if at >= MILLISECONDS_FROM else float(at)
    return None
