"""The payload's bytes, built once: what is in them is all that ever leaves the bridge of a task."""

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
    """The id of an event that was built before, perhaps by a version that made ids in another way."""
    found: str = orjson.loads(payload)["id"]
    return found


def terminal_event(watch: Watch, ending: Ending, at: float, content_url: str | None) -> Event:
    """The one event that ends a watch, at its settling (Unix seconds); `content_url` counts on success only."""
    event_type = EventType(f"video.{ending.outcome}")
    link = content_url if ending.outcome is Outcome.COMPLETED else None
    return _event(watch, event_type, ending.task, ending.error, at, link)


def status_event(watch: Watch, event_type: EventType, task: TaskSnapshot, at: float) -> Event:
    """The event of a task that waits or runs, at the change (Unix seconds)."""
    return _event(watch, event_type, task, None, at, None)


def ping_payload(event_id: str, at: float) -> bytes:
    """The body of a `bridge.ping`."""
    return orjson.dumps(_envelope(event_id, PING_TYPE, at, {}))


def _event(  # noqa: PLR0913, PLR0917  a payload's parts
    watch: Watch, event_type: EventType, task: TaskSnapshot, error: Problem | None, at: float, content_url: str | None
) -> Event:
    name = event_id(watch.id, event_type)
    data = {
        "id": watch.task_id,
        "task_id": watch.task_id,
        "watch_id": watch.id,
        "status": task.status,
        "url": short_enough(task.url),
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
    """An error as apps and receivers see it: `code` and `message`, the latter cut and without control characters."""
    code = error.code[:MAX_CODE] if isinstance(error.code, str) else error.code
    return {"code": code, "message": None if error.message is None else cut(error.message)}


def cut(message: str) -> str:
    """A message of at most 2,000 characters that says so when it was longer; control characters become spaces."""
    message = message.translate(_SPACES)
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - len(_CUT)] + _CUT


def short_enough(url: str | None) -> str | None:
    """A URL, or null for one that is too long: half a URL is of no use."""
    return url if url is None or len(url.encode()) <= MAX_URL else None
