"""Builds events: the payload is built once as bytes, and has all that a receiver gets about a task."""

import base64
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from bridge.core.model import Event, EventType, Outcome, Problem, TaskSnapshot, Watch
from bridge.core.registration import WATCH_ID_PREFIX
from bridge.core.watch import Ending

PING_TYPE = "bridge.ping"
ID_PREFIX = "evt_"
# As they are made now, and as 0.1.0 made them.
ID_PATTERN = ID_PREFIX + r"(?:[0-9a-hjkmnp-tv-z]{26}[cftuqp]|[a-z2-7]{32})"
_ID_ENDS = {
    EventType.COMPLETED: "c",
    EventType.FAILED: "f",
    EventType.TIMED_OUT: "t",
    EventType.UNAVAILABLE: "u",
    EventType.QUEUED: "q",
    EventType.IN_PROGRESS: "p",
}
MAX_MESSAGE = 2_000  # characters
MAX_CODE = 200  # characters
MAX_URL = 4_096  # bytes; with a context of 4 KiB and a message of 2,000 characters a body stays under 20 KB
_CUT = "... [cut at 2,000 characters]"
_SPACES = {code: " " for code in range(0x20) if chr(code) != "\n"} | {0x7F: " "}


def event_id(watch_id: str, event_type: EventType) -> str:
    """The id of a watch's event of one type: made from both, so it is the same after any restart or restore.

    It begins as its watch's does, in the order of registering: what is sent together lies together in the store.
    """
    return ID_PREFIX + watch_id.removeprefix(WATCH_ID_PREFIX) + _ID_ENDS[event_type]


def ping_id(random: bytes) -> str:
    """A fresh id, of 20 random bytes, for a ping."""
    return ID_PREFIX + base64.b32encode(random).decode().lower()


def id_in(payload: bytes) -> str:
    """Returns the id in an event's payload. An older version of the bridge may have made it in another way."""
    event_id: str = orjson.loads(payload)["id"]
    return event_id


def terminal_event(watch: Watch, ending: Ending, at: float, content_url: str | None) -> Event:
    """Builds the terminal event of a watch that settled at `at` (Unix seconds).

    `content_url` is used for a completed video only.
    """
    event_type = EventType(f"video.{ending.outcome}")
    return _event(
        watch,
        event_type,
        ending.task,
        at,
        error=ending.error,
        content_url=content_url if ending.outcome is Outcome.COMPLETED else None,
    )


def status_event(watch: Watch, event_type: EventType, task: TaskSnapshot, at: float) -> Event:
    """Builds the event of a task that became queued or in progress at `at` (Unix seconds)."""
    return _event(watch, event_type, task, at)


def ping_payload(event_id: str, at: float) -> bytes:
    """Returns the body of a `bridge.ping` sent at `at` (Unix seconds)."""
    return orjson.dumps(_envelope(event_id, PING_TYPE, at, {}))


def _event(  # noqa: PLR0913  the parts of a payload
    watch: Watch,
    event_type: EventType,
    task: TaskSnapshot,
    at: float,
    *,
    error: Problem | None = None,
    content_url: str | None = None,
) -> Event:
    name = event_id(watch.id, event_type)
    data = {
        "id": watch.task_id,
        "task_id": watch.task_id,
        "watch_id": watch.id,
        "status": task.status,
        "url": bounded_url(task.url),
        "format": task.format,
        "metadata": None if task.metadata is None else asdict(task.metadata),
        "content_url": content_url,
        "error": None if error is None else error_view(error),
        "context": orjson.Fragment(watch.context),
    }
    return Event(name, watch.id, event_type, at, orjson.dumps(_envelope(name, event_type, at, data)))


def _envelope(name: str, event_type: str, at: float, data: dict[str, Any]) -> dict[str, Any]:
    second = int(at)
    timestamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": name,
        "object": "event",
        "type": event_type,
        "created_at": second,
        "timestamp": timestamp,
        "data": data,
    }


def error_view(error: Problem) -> dict[str, str | int | None]:
    """Returns an error as apps and receivers get it: `code` and `message`, both limited in length.

    Control characters in the message become spaces.
    """
    code = error.code[:MAX_CODE] if isinstance(error.code, str) else error.code
    return {"code": code, "message": None if error.message is None else cut_message(error.message)}


def cut_message(message: str) -> str:
    """Returns the message without control characters, cut to 2,000 characters with a note at its end that says so."""
    message = message.translate(_SPACES)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - len(_CUT)] + _CUT


def bounded_url(url: str | None) -> str | None:
    """Returns the URL, or None when it is longer than 4,096 bytes: a cut URL is of no use."""
    return url if url is None or len(url.encode()) <= MAX_URL else None
