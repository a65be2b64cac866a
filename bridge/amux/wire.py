"""Any HTTP answer to a poll, read as an observation. Pure, and raises nothing, whatever the bytes.

amux's bodies end here: what leaves are the model's fields. Messages may repeat what amux was sent, the key included:
whoever knows the key takes it out.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bridge.amux.lenient_json import read_json
from bridge.amux.record import LONGEST_MESSAGE, code_of, is_of_another_task, read_record, record_in, text_of
from bridge.core.model import (
    KeyRefused,
    Observation,
    PollRejected,
    TaskForbidden,
    TaskNotFound,
    Throttled,
    TransientError,
)

_UNKNOWN_TASK = frozenset({"task_not_exist", "task_not_found"})
_TELLING_ID = 8  # characters: a shorter task id may be a word of any message


@dataclass(frozen=True, slots=True)
class _AmuxError:
    """amux's JSON error; `code` in lower case, "" for none, `message` None where it only repeats the code."""

    code: str
    message: str | None


def observe(  # noqa: PLR0913 - an answer has these parts
    status: int, content_type: str, body: bytes, *, task_id: str, base_url: str, retry_after: float | None = None
) -> Observation:
    """What an answer to a poll of `task_id` says.

    `content_type` is the header as it came ("" for none), `body` the whole body, not compressed. `base_url` is what
    amux is asked under: a URL there that needs the key is no video's. `retry_after` is in seconds, for a 429.
    """
    if 200 <= status < 300:
        return _told(content_type, body, task_id, base_url)
    return _refused(status, _error_in(content_type, body), task_id, retry_after)


def _told(content_type: str, body: bytes, task_id: str, base_url: str) -> Observation:
    """What a 2xx says: a record, or nothing of the task."""
    if not body or _media_type(content_type) != "json":
        return _no_json(content_type, body)
    try:
        document = read_json(body)
    except ValueError:
        return TransientError("bad_json", "amux answered with JSON that cannot be read")
    record = record_in(document)
    if record is None:
        reason = text_of(document.get("message"), LONGEST_MESSAGE) if isinstance(document, dict) else None
        return TransientError("no_record", _sentence("amux told nothing of the task", reason))
    if is_of_another_task(record, task_id):
        return TransientError("wrong_task", "amux told of another task")
    return read_record(record, document, task_id=task_id, base_url=base_url)


def _no_json(content_type: str, body: bytes) -> TransientError:
    """A page in the record's place is a wrong base URL's sign, or that of a proxy's sign-in.

    Transient as any trouble, but the operator should hear of it as of other wrong base URLs: `misrouted`.
    """
    if not body:
        return TransientError("empty_body", "amux answered without a body")
    if _media_type(content_type) == "html":
        return TransientError("html", "amux answered with a web page: is the base URL right?", misrouted=True)
    return TransientError("wrong_content_type", "amux answered with something that is not JSON")


def _refused(status: int, error: _AmuxError | None, task_id: str, retry_after: float | None) -> Observation:
    """What any other status says, with amux's JSON error (None: the body holds none)."""
    reason = error.message if error else None
    if status == 401:
        return KeyRefused(_sentence("amux refused the key", reason))
    if status == 429:
        return Throttled(_sentence("amux asks for fewer requests", reason), retry_after)
    if 400 <= status < 500 and status not in (408, 425):
        return _rejected(status, error, task_id)
    # A redirect, never followed, is a wrong base URL's sign too: http for https, or a name that moved.
    return TransientError(f"http_{status}", _sentence(f"amux answered {status}", reason), misrouted=300 <= status < 400)


def _rejected(status: int, error: _AmuxError | None, task_id: str) -> Observation:
    """What a 4xx says that speaks of the request, if it is amux's.

    Where it is no error that amux gives for a task, the base URL is wrong or something in between answered: not one
    watch may end by that.
    """
    if error is None or (status == 404 and error.code not in _UNKNOWN_TASK):
        message = f"amux answered {status}, not as it does for a task: is the base URL right?"
        return TransientError(f"http_{status}", message, misrouted=True)
    if status in (400, 404) and error.code in _UNKNOWN_TASK:
        return TaskNotFound(_sentence("amux knows no such task", error.message))
    if status == 403:
        return _forbidden(error, task_id)
    return PollRejected(error.code or f"http_{status}", _sentence(f"amux answered {status}", error.message))


def _forbidden(error: _AmuxError, task_id: str) -> Observation:
    """A 403 speaks of the task when its code does, or, with no code, when its message names the task; else the key."""
    message = error.message or ""
    names_task = not error.code and len(task_id) >= _TELLING_ID and task_id in message
    if "task" in error.code or names_task:
        return TaskForbidden(_sentence("amux does not let this key see the task", error.message))
    return KeyRefused(_sentence("amux refused the key", error.message))


def _error_in(content_type: str, body: bytes) -> _AmuxError | None:
    """The JSON error of amux, flat or nested; None for what a proxy or another service would say."""
    if _media_type(content_type) != "json":
        return None
    try:
        document = read_json(body)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    nested = document.get("error")
    return _nested_error(nested) if isinstance(nested, dict) else _flat_error(document)


def _nested_error(error: dict[str, Any]) -> _AmuxError | None:
    """`{message, type, code}`; the content route's has no code, and the gateway's an empty one."""
    code = code_of(error.get("code"))
    if not isinstance(error.get("message"), str) or (code is None and not isinstance(error.get("type"), str)):
        return None
    return _amux_error("" if code is None else str(code), error["message"])


def _flat_error(document: dict[str, Any]) -> _AmuxError | None:
    """`{code, message, data}`; its code is always a text."""
    code, message = code_of(document.get("code")), document.get("message")
    if not isinstance(code, str) or not (isinstance(message, str) or code.lower() in _UNKNOWN_TASK):
        return None
    return _amux_error(code, message)


def _amux_error(code: str, message: Any) -> _AmuxError:
    reason = text_of(message, LONGEST_MESSAGE)
    return _AmuxError(code.lower(), None if reason == code else reason)


def _sentence(ours: str, reason: str | None) -> str:
    return f"{ours}: {reason}" if reason else ours


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    """A Content-Type as "json", "html" or "" for every other, parameters aside."""
    kind = content_type.partition(";")[0].strip().lower()
    subtype = kind.partition("/")[2]
    if subtype == "json" or subtype.endswith("+json"):
        return "json"
    return "html" if subtype in ("html", "xhtml+xml") else ""
