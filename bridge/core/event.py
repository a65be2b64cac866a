"""Builds the bytes of each event, once. Only the fields that are written here leave the bridge."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from bridge.core.body_template import fill_body
from bridge.core.ids import event_id
from bridge.core.model import Event, EventType, Outcome, Problem, TaskSnapshot, Watch
from bridge.core.watch import Ending

PING_TYPE = "bridge.ping"
DATA_FIELDS = ("id", "task_id", "watch_id", "status", "url", "format", "metadata", "content_url", "error", "context")
MAX_MESSAGE = 2_000  # characters
MAX_CODE = 200  # characters
MAX_URL = 4_096  # bytes; with a context of 4 KiB and a message of 2,000 characters a body stays under 20 KB
_CUT_MARK = "... [cut at 2,000 characters]"
_SPACES = {code: " " for code in range(0x20) if chr(code) != "\n"} | {0x7F: " "}


def event_id_in(payload: bytes) -> str:
    """Returns the id in the bytes of a stored event. For an event of version 0.1.0, `event_id` returns another id."""
    found: str = orjson.loads(payload)["id"]
    return found


def terminal_event(watch: Watch, ending: Ending, at: float, content_url: str | None) -> Event:
    """Returns the one event that ends a watch. The watch settles at `at` (Unix seconds).

    `content_url` is used for a completed video only.
    """
    event_type = EventType(f"video.{ending.outcome}")
    link = content_url if ending.outcome is Outcome.COMPLETED else None
    return _event(watch, event_type, ending.task, ending.error, at, link)


def status_event(watch: Watch, event_type: EventType, task: TaskSnapshot, at: float) -> Event:
    """Returns the event of a task that is queued or in progress since `at` (Unix seconds)."""
    return _event(watch, event_type, task, None, at, None)


def ping_payload(event_id: str, at: float) -> bytes:
    """Returns the body of a `bridge.ping` that is sent at `at` (Unix seconds).

    `data` has the fields of every event, all null: a receiver that reads them must not fail on a ping.
    """
    return orjson.dumps(envelope(event_id, PING_TYPE, at, dict.fromkeys(DATA_FIELDS)))


def _event(  # noqa: PLR0913, PLR0917  the parts of a payload
    watch: Watch, event_type: EventType, task: TaskSnapshot, error: Problem | None, at: float, content_url: str | None
) -> Event:
    new_id = event_id(watch.id, event_type)
    data = {
        "id": watch.task_id,
        "task_id": watch.task_id,
        "watch_id": watch.id,
        "status": task.status,
        "url": limited_url(task.url),
        "format": task.format,
        "metadata": None if task.metadata is None else asdict(task.metadata),
        "content_url": content_url,
        "error": None if error is None else error_view(error),
        "context": orjson.Fragment(watch.context),
    }
    payload = orjson.dumps(envelope(new_id, event_type, at, data))
    body = None if watch.body is None or event_type not in watch.events else fill_body(watch.body, payload)
    return Event(new_id, watch.id, event_type, at, payload, body)


def envelope(event_id: str, event_type: str, at: float, data: dict[str, Any]) -> dict[str, Any]:
    """Returns an event: `data`, and the fields that every event has around it. `at` is in Unix seconds."""
    second = int(at)
    timestamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created_at": second,
        "timestamp": timestamp,
        "data": data,
    }


def error_view(error: Problem) -> dict[str, str | int | None]:
    """Returns an error as apps and receivers see it: `code` and `message`, both with a limited length.

    Control characters in the message become spaces.
    """
    code = error.code[:MAX_CODE] if isinstance(error.code, str) else error.code
    return {"code": code, "message": None if error.message is None else cut(error.message)}


def cut(message: str) -> str:
    """Returns at most 2,000 characters of a message; a longer one ends with a note that it was cut.

    Control characters other than the line feed become spaces.
    """
    message = message.translate(_SPACES)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - len(_CUT_MARK)] + _CUT_MARK


def limited_url(url: str | None) -> str | None:
    """Returns the URL, or None if it is longer than 4,096 bytes: a part of a URL is useless."""
    return url if url is None or len(url.encode()) <= MAX_URL else None
