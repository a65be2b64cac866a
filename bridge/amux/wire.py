"""Reads amux's answers: any HTTP answer to a poll becomes an observation. Pure; no bytes make it raise.

Only the model's fields are taken from a body. Messages may repeat what was sent to amux, even the key. The caller must
remove the key.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bridge.amux.lenient_json import read_json
from bridge.amux.record import (
    LONGEST_MESSAGE,
    code_of,
    is_of_another_task,
    read_record,
    record_in,
    text_of,
)
from bridge.amux.usual_row import running_record
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
_GATEWAY_ERROR = "new_api_error"
_SHORTEST_DISTINCT_ID = 8  # characters; a shorter task id could be a word in any message


@dataclass(frozen=True, slots=True)
class _AmuxError:
    """amux's JSON error. `code` is in lower case, "" if missing. `message` is None if it only repeats the code.

    `of_gateway` marks a nested error of type `new_api_error`. On the status routes, only the part of amux that checks
    the key sends such errors. Errors of a task are flat.
    """

    code: str
    message: str | None
    of_gateway: bool = False


def observe(  # noqa: PLR0913  the parts of an answer
    status: int, content_type: str, body: bytes, *, task_id: str, base_url: str, retry_after: float | None = None
) -> Observation:
    """Returns the observation of an answer to a poll of `task_id`.

    `content_type` is the unchanged header ("" for none), `body` the whole body, not compressed. `base_url` is the base
    URL of amux: URLs under it that need the key are not video URLs. `retry_after` is in seconds, for a 429.
    """
    if 200 <= status < 300:
        return _on_success(content_type, body, task_id, base_url)
    return _on_error_status(status, _error_in(content_type, body), task_id, retry_after)


def error_reason(content_type: str, body: bytes) -> str | None:
    """Returns the message of amux's JSON error in a body; None if the body has no such error."""
    error = _error_in(content_type, body)
    return None if error is None else error.message or error.code or None


def created_task(body: bytes) -> str | None:
    """Returns the new task's id in the answer to a create call: a text in `task_id`, else in `id`, else None.

    The answer may be wrapped in `data`, as on amux's other generic routes. A number is never a task's id: it is the row
    number in amux's own table.
    """
    try:
        answer = read_json(body)
    except ValueError:
        return None
    wrapped = answer.get("data") if isinstance(answer, dict) else None
    for record in (answer, wrapped):
        if isinstance(record, dict):
            for name in ("task_id", "id"):
                if isinstance(record.get(name), str) and record[name]:
                    return str(record[name])
    return None


def _on_success(content_type: str, body: bytes, task_id: str, base_url: str) -> Observation:
    """Returns the observation of a 2xx: a record, or a TransientError if the answer says nothing about the task."""
    if not body or media_type(content_type) != "json":
        return _not_json(content_type, body)
    try:
        document = read_json(body)
    except ValueError:
        return TransientError("bad_json", "amux answered with JSON that cannot be read")
    record = record_in(document)
    if record is None:
        reason = text_of(document.get("message"), LONGEST_MESSAGE) if isinstance(document, dict) else None
        return TransientError("no_record", sentence("amux answered without a record of the task", reason))
    if is_of_another_task(record, task_id):
        return TransientError("wrong_task", "amux answered with the record of another task")
    return running_record(record) or read_record(record, document, task_id=task_id, base_url=base_url)


def _not_json(content_type: str, body: bytes) -> TransientError:
    """Returns the error for a 2xx without JSON.

    A web page comes from a wrong base URL or from the sign-in of a proxy. Its error is `misrouted`, so that the
    operator gets the warning about a wrong base URL.
    """
    if not body:
        return TransientError("empty_body", "amux answered without a body")
    if media_type(content_type) == "html":
        return TransientError("html", "amux answered with a web page: is the base URL right?", misrouted=True)
    return TransientError("wrong_content_type", "amux answered with a body that is not JSON")


def _on_error_status(status: int, error: _AmuxError | None, task_id: str, retry_after: float | None) -> Observation:
    """Returns the observation of any other status. `error` is amux's JSON error, None if the body has none."""
    reason = error.message if error else None
    if status == 401:
        return KeyRefused(sentence("amux refused the key", reason))
    if status == 429:
        return Throttled(sentence("amux asks for fewer requests", reason), retry_after)
    if 400 <= status < 500 and status not in (408, 425):
        return _on_client_error(status, error, task_id)
    # A redirect is never followed. A wrong base URL causes it: http instead of https, or a name that has changed.
    return TransientError(f"http_{status}", sentence(f"amux answered {status}", reason), misrouted=300 <= status < 400)


def _on_client_error(status: int, error: _AmuxError | None, task_id: str) -> Observation:
    """Returns the observation of a 4xx about the request or about the key.

    If the answer is not an error that amux gives for a task, the base URL is wrong or a proxy answered. Such an answer
    must not end any watch.
    """
    if error is not None and error.of_gateway:
        return KeyRefused(sentence("amux refused the key", error.message))
    if error is None or (status == 404 and error.code not in _UNKNOWN_TASK):
        message = f"amux answered {status} without the error that it gives for a task: is the base URL right?"
        return TransientError(f"http_{status}", message, misrouted=True)
    if status in (400, 404) and error.code in _UNKNOWN_TASK:
        return TaskNotFound(sentence("amux knows no such task", error.message))
    if status == 403:
        return _forbidden(error, task_id)
    return PollRejected(error.code or f"http_{status}", sentence(f"amux answered {status}", error.message))


def _forbidden(error: _AmuxError, task_id: str) -> Observation:
    """Returns the observation of a 403, which is about the task or about the key.

    It is about the task if its code contains "task", or if it has no code and its message names the task.
    """
    message = error.message or ""
    names_task = not error.code and len(task_id) >= _SHORTEST_DISTINCT_ID and task_id in message
    if "task" in error.code or names_task:
        return TaskForbidden(sentence("amux does not let this key see the task", error.message))
    return KeyRefused(sentence("amux refused the key", error.message))


def _error_in(content_type: str, body: bytes) -> _AmuxError | None:
    """Returns amux's JSON error, flat or nested; None for the answer of a proxy or another service."""
    if media_type(content_type) != "json":
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
    """Returns the error in `{message, type, code}`, None for another form.

    The content route's errors have no code. The gateway's errors have an empty code.
    """
    code, kind = code_of(error.get("code")), error.get("type")
    if not isinstance(error.get("message"), str) or (code is None and not isinstance(kind, str)):
        return None
    of_gateway = isinstance(kind, str) and kind.strip().lower() == _GATEWAY_ERROR
    return _amux_error("" if code is None else str(code), error["message"], of_gateway=of_gateway)


def _flat_error(document: dict[str, Any]) -> _AmuxError | None:
    """Returns the error in `{code, message, data}`, None for another form. The code is always a text."""
    code, message = code_of(document.get("code")), document.get("message")
    if not isinstance(code, str) or not (isinstance(message, str) or code.lower() in _UNKNOWN_TASK):
        return None
    return _amux_error(code, message)


def _amux_error(code: str, message: Any, *, of_gateway: bool = False) -> _AmuxError:
    reason = text_of(message, LONGEST_MESSAGE)
    return _AmuxError(code.lower(), None if reason == code else reason, of_gateway)


def sentence(start: str, reason: str | None) -> str:
    """Returns a message with amux's reason, if it gave one."""
    return f"{start}: {reason}" if reason else start


@lru_cache(maxsize=64)
def media_type(content_type: str) -> str:
    """Returns "json" or "html" for a Content-Type, "" for every other. Parameters are ignored."""
    kind = content_type.partition(";")[0].strip().lower()
    subtype = kind.partition("/")[2]
    if subtype == "json" or subtype.endswith("+json"):
        return "json"
    return "html" if subtype in ("html", "xhtml+xml") else ""
