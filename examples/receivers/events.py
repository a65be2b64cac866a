"""The events that a receiver gets, as types. Made from the bridge's own models; do not edit."""

from typing import Any, Literal, TypeAlias, TypedDict


class Metadata(TypedDict):
    """The video's properties, as amux reports them."""

    duration: float | None  # Seconds.
    fps: float | None
    width: float | None  # Pixels.
    height: float | None  # Pixels.
    seed: float | None


class EventError(TypedDict):
    """An error: a code for programs and a sentence for people. In an error from amux either may be null."""

    code: str | int | None
    message: str | None


class VideoData(TypedDict):
    """The task when it ended or changed."""

    id: str  # The task's id, the same as `task_id`.
    task_id: str
    watch_id: str
    status: Literal["unknown", "queued", "in_progress", "completed", "failed"]
    url: str | None
    format: str | None
    metadata: Metadata | None
    content_url: str | None  # For a completed video: the URL of its bytes.
    error: EventError | None
    context: dict[str, Any] | None  # The watch's `context`.


class VideoEvent(TypedDict):
    """An event. Every attempt sends the same bytes."""

    id: str  # The same on every attempt: a receiver ignores an id that it has processed.
    object: Literal["event"]
    type: Literal[
        "video.completed",
        "video.failed",
        "video.timed_out",
        "video.unavailable",
        "video.queued",
        "video.in_progress",
    ]
    created_at: int  # Unix seconds.
    timestamp: str
    data: VideoData


class PingData(TypedDict):
    """The fields of every event, all null."""

    id: None
    task_id: None
    watch_id: None
    status: None
    url: None
    format: None
    metadata: None
    content_url: None
    error: None
    context: None


class PingEvent(TypedDict):
    """The event that `POST /ping` sends."""

    id: str
    object: Literal["event"]
    type: Literal["bridge.ping"]
    created_at: int
    timestamp: str
    data: PingData


class NoticeData(TypedDict):
    """What a notice for operators is about. Fields that do not apply are null."""

    receiver: str | None  # Host and port.
    credential: str | None  # The name of an amux key, never the key.
    apps: list[str] | None
    count: int | None  # The number of dead deliveries, or of pending ones.
    delivery_ids: list[str] | None  # The first 20.
    since: str | None
    by: str | None  # The name of the operator's token.
    message: str  # The notice for people.
    page_url: str | None  # The operators' page with the watches; needs a public URL.


class NoticeEvent(TypedDict):
    """A notice for operators, sent to `BRIDGE_OPERATIONS_CALLBACK_URL`."""

    id: str
    object: Literal["event"]
    type: Literal[
        "bridge.receiver_failing",
        "bridge.receiver_recovered",
        "bridge.receiver_paused",
        "bridge.receiver_resumed",
        "bridge.delivery_dead",
        "bridge.key_refused",
        "bridge.key_accepted",
    ]
    created_at: int  # Unix seconds.
    timestamp: str
    data: NoticeData


Event: TypeAlias = VideoEvent | PingEvent | NoticeEvent
"""Any event. Its `type` says which one it is."""
