"""The bodies that apps are answered with: their fields, types and descriptions. OpenAPI is made from these types.

They are dictionaries, for what is answered is built once and written at once; the type checker holds the views to them.
"""

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from bridge.core.model import DeliveryState, EventType, Outcome, TaskStatus, WatchState
from bridge.web.api import json_schemas
from bridge.web.errors import ProblemBody

# typing_extensions: pydantic reads `typing`'s own TypedDict from Python 3.12 on only.

Time: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
WatchId: TypeAlias = Annotated[
    str, Field(pattern=json_schemas.WATCH_ID["pattern"], examples=["wat_06awy4cd2r8f3w0e7m5t9kz1xh"])
]
DeliveryId: TypeAlias = Annotated[
    str, Field(pattern=json_schemas.DELIVERY_ID["pattern"], examples=["evt_01kaqm3v9rwq8d2xj5t7n4b6fyc"])
]
AnyJsonObject: TypeAlias = Annotated[Any, WithJsonSchema({"type": "object"})]


class ErrorView(TypedDict):
    """What went wrong: a code for programs and a sentence for people. Of amux's own errors either may be null."""

    code: str | int | None
    message: str | None


class LastError(ErrorView):
    """What went wrong at the last poll, and when."""

    at: Time | None


class Metadata(TypedDict):
    """What amux tells of the video itself."""

    duration: Annotated[float | None, Field(description="Seconds.")]
    fps: float | None
    width: Annotated[float | None, Field(description="Pixels.")]
    height: Annotated[float | None, Field(description="Pixels.")]
    seed: float | None


class TaskView(TypedDict):
    """amux's task as it was last seen."""

    status: Annotated[TaskStatus, Field(description="`unknown` before the first poll.")]
    progress: Annotated[int | None, Field(description="Percent.")]
    url: Annotated[str | None, Field(description="The video's, once there is one that anybody can open.")]
    format: Annotated[str | None, Field(examples=["mp4"])]
    metadata: Metadata | None
    error: ErrorView | None


class Polling(TypedDict):
    """A task, and how asking amux about it goes."""

    task: TaskView
    polls: Annotated[int, Field(description="How often amux was asked.", ge=0)]
    last_polled_at: Time | None
    next_poll_at: Annotated[Time | None, Field(description="Null once the watch is final.")]
    last_error: Annotated[LastError | None, Field(description="Null when the last poll was good.")]


class DeliveryBody(TypedDict):
    """One event owed to one receiver. Its id is the event's and `webhook-id`."""

    id: DeliveryId
    type: EventType
    state: Annotated[DeliveryState, Field(description="`dead`: given up, kept, and sent again on request.")]
    attempts: Annotated[int, Field(description="All of them, over all rounds of the schedule.", ge=0)]
    next_attempt_at: Time | None
    delivered_at: Time | None
    last_error: ErrorView | None


class WatchHead(TypedDict):
    """A watch as it was asked for, and how it stands."""

    id: WatchId
    app: str
    task_id: str
    callback_url: str
    events: Annotated[list[EventType], Field(description="The event types to send.")]
    context: Annotated[Any, WithJsonSchema({"type": ["object", "null"]}), Field(description="Given back in events.")]
    headers: Annotated[dict[str, str] | None, Field(description="Extra headers on callbacks, their values masked.")]
    state: WatchState
    outcome: Annotated[Outcome | None, Field(description="How a settled watch ended.")]


class WatchBody(WatchHead, Polling):
    """A watch: the promise to tell one app about one task."""

    created_at: Time | None
    deadline_at: Annotated[Time | None, Field(description="When the watch times out.")]
    settled_at: Time | None
    deliveries: list[DeliveryBody]


class WatchPage(TypedDict):
    """A page of watches, newest first."""

    items: list[WatchBody]
    next_cursor: Annotated[WatchId | None, Field(description="The next page's `cursor`; null on the last.")]


class AttemptBody(TypedDict):
    """One POST of a delivery."""

    started_at: Time | None
    duration_seconds: float
    status_code: int | None
    error: ErrorView | None
    body: Annotated[str | None, Field(description="The first 4 KiB of the answer, secrets redacted.")]


class OwnedDelivery(DeliveryBody):
    """A delivery, and the watch it belongs to."""

    watch_id: WatchId


class DeliveryWithLog(OwnedDelivery):
    """A delivery with its attempts, the oldest first."""

    attempt_log: list[AttemptBody]


class AttemptEvent(AttemptBody):
    """An attempt as the event stream tells it, and the delivery as it stands after it."""

    number: Annotated[int, Field(description="Of the delivery's attempts, counted from 1.", ge=1)]
    delivery: DeliveryBody


class Count(TypedDict):
    """How many dead deliveries were made due, or, of a dry run, would be."""

    count: Annotated[int, Field(ge=0)]


class PingOutcome(TypedDict):
    """What came of a ping; of a dry run, whether the target may be sent to."""

    ok: Annotated[bool, Field(description="The receiver answered 2xx.")]
    status_code: int | None
    error: ErrorView | None
    duration_seconds: float


class Alive(TypedDict):
    """The event loop answers."""

    status: Literal["alive"]


class Ready(TypedDict):
    """Whether this replica can do its work."""

    status: Literal["ready", "degraded", "unready"]
    checks: Annotated[dict[str, str], Field(description="`ok`, `degraded` or `failing` for each.")]
    reasons: Annotated[list[str], Field(description="A sentence for every check that is not ok.")]


# --- problems -----------------------------------------------------------------------------------------------------


class BatchResult(TypedDict):
    """What came of one entry: `watch` with 200 or 201, else `problem`."""

    status: int
    watch: NotRequired[WatchBody]
    problem: NotRequired[ProblemBody]


class BatchResults(TypedDict):
    """One result for each entry, in their order."""

    results: list[BatchResult]


# --- what receivers get -------------------------------------------------------------------------------------------


class EventData(TypedDict):
    """The task, as it ended or changed."""

    id: Annotated[str, Field(description="The task's id, as in `task_id`.")]
    task_id: str
    watch_id: WatchId
    status: TaskStatus
    url: str | None
    format: str | None
    metadata: Metadata | None
    content_url: Annotated[str | None, Field(description="Of a completed video: where its bytes are.")]
    error: ErrorView | None
    context: Annotated[Any, WithJsonSchema({"type": ["object", "null"]}), Field(description="The watch's own.")]


class EventBody(TypedDict):
    """An event, as every attempt sends it."""

    id: Annotated[DeliveryId, Field(description="The same on every attempt: a receiver drops what it has had.")]
    object: Literal["event"]
    type: EventType
    created_at: Annotated[int, Field(description="Unix seconds.")]
    timestamp: Time
    data: EventData


class PingBody(TypedDict):
    """What `POST /ping` sends."""

    id: DeliveryId
    object: Literal["event"]
    type: Literal["bridge.ping"]
    created_at: int
    timestamp: Time
    data: AnyJsonObject
