"""Response models: the JSON bodies of responses and events. The OpenAPI document has their fields and descriptions.

They are typed dictionaries: a serializer builds each one, the type checker compares it with the model, and orjson
writes it. The classes' names are the names of the schemas in the OpenAPI document, which client generators use.
"""

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from bridge.core.audit import Action, Role
from bridge.core.model import DeliveryState, EventType, Outcome, TaskStatus, WatchState
from bridge.core.operations import FIRST_IDS, NoticeType
from bridge.web.api import json_schemas
from bridge.web.errors import ProblemBody

# typing_extensions: pydantic reads `typing.TypedDict` from Python 3.12 on only.

Time: TypeAlias = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
WatchId: TypeAlias = Annotated[
    str, Field(pattern=json_schemas.WATCH_ID["pattern"], examples=["wat_06awy4cd2r8f3w0e7m5t9kz1xh"])
]
DeliveryId: TypeAlias = Annotated[
    str, Field(pattern=json_schemas.DELIVERY_ID["pattern"], examples=["evt_01kaqm3v9rwq8d2xj5t7n4b6fyc"])
]


class ErrorBody(TypedDict):
    """An error: a code for programs and a sentence for people. In an error from amux either may be null."""

    code: str | int | None
    message: str | None


class LastError(ErrorBody):
    """The error of the last failed poll, and its time."""

    at: Time | None


class Metadata(TypedDict):
    """The video's properties, as amux reports them."""

    duration: Annotated[float | None, Field(description="Seconds.")]
    fps: float | None
    width: Annotated[float | None, Field(description="Pixels.")]
    height: Annotated[float | None, Field(description="Pixels.")]
    seed: float | None


class TaskBody(TypedDict):
    """amux's task, as it was last seen."""

    status: Annotated[TaskStatus, Field(description="`unknown` before the first poll.")]
    progress: Annotated[int | None, Field(description="Percent.")]
    url: Annotated[str | None, Field(description="The video's URL, if there is one that needs no key.")]
    format: Annotated[str | None, Field(examples=["mp4"])]
    metadata: Metadata | None
    error: ErrorBody | None
    model: Annotated[str | None, Field(description="The model, as amux names it; else the `model` that the app gave.")]
    submitted_at: Annotated[Time | None, Field(description="When amux accepted the task, if amux says so.")]
    finished_at: Annotated[Time | None, Field(description="When the task ended, if amux says so.")]


class Polling(TypedDict):
    """A task and its polls."""

    task: TaskBody
    polls: Annotated[int, Field(description="The number of polls.", ge=0)]
    last_polled_at: Time | None
    next_poll_at: Annotated[Time | None, Field(description="Null once the watch is final.")]
    last_error: Annotated[
        LastError | None,
        Field(
            description="The error of the last failed poll, kept when later polls succeed. Null if none failed. "
            "The code `failure_unconfirmed` means that amux reported a failure, which the next poll confirms or clears."
        ),
    ]


class DeliveryBody(TypedDict):
    """One event for one receiver. Its id is the event's id and the `webhook-id`."""

    id: DeliveryId
    type: EventType
    state: Annotated[
        DeliveryState, Field(description="`dead`: given up. A dead delivery is kept, and sent again on request.")
    ]
    attempts: Annotated[int, Field(description="The number of attempts, including those before a retry.", ge=0)]
    next_attempt_at: Time | None
    delivered_at: Time | None
    last_error: ErrorBody | None


class WatchHead(TypedDict):
    """A watch's options, state and outcome."""

    id: WatchId
    app: str
    task_id: str
    callback_url: str
    events: Annotated[list[EventType], Field(description="The event types to send.")]
    context: Annotated[Any, WithJsonSchema({"type": ["object", "null"]}), Field(description="Returned in every event.")]
    headers: Annotated[
        dict[str, str] | None, Field(description="Extra headers for the callbacks. The values are masked.")
    ]
    state: WatchState
    outcome: Annotated[Outcome | None, Field(description="How a settled watch ended.")]


class Timing(TypedDict):
    """When each step of the watch was reached. Null: not reached yet, or not known."""

    submitted_at: Annotated[Time | None, Field(description="amux accepted the task, by amux's clock.")]
    finished_at: Annotated[Time | None, Field(description="The task ended, by amux's clock.")]
    seen_at: Annotated[Time | None, Field(description="A poll of the bridge saw the end.")]
    settled_at: Annotated[Time | None, Field(description="The end and its event were stored.")]
    first_attempt_at: Annotated[Time | None, Field(description="The first attempt of the terminal event began.")]
    delivered_at: Annotated[Time | None, Field(description="The receiver answered the terminal event with 2xx.")]


class AuditBody(TypedDict):
    """An action of a caller on the watch, or on its receiver while the watch existed."""

    at: Time | None
    action: Annotated[Action, Field(description="`cancelled`, `resent`: the watch; `paused`, `resumed`: its receiver.")]
    by: Annotated[str, Field(description="The name of the caller's token.")]
    role: Role
    delivery_id: Annotated[DeliveryId | None, Field(description="The delivery that was resent.")]
    receiver: Annotated[str | None, Field(description="The receiver that was paused or resumed.")]


class WatchBody(WatchHead, Polling):
    """A watch: the promise to notify one app about one task."""

    created_at: Time | None
    deadline_at: Annotated[Time | None, Field(description="When the watch times out.")]
    settled_at: Time | None
    deliveries: list[DeliveryBody]
    timing: Timing
    audit: Annotated[list[AuditBody], Field(description="Who did what to the watch and to its receiver, oldest first.")]


class WatchPage(TypedDict):
    """A page of watches, newest first."""

    items: list[WatchBody]
    next_cursor: Annotated[WatchId | None, Field(description="The `cursor` of the next page; null on the last page.")]
    searched_back_to: NotRequired[
        Annotated[
            Time | None,
            Field(
                description="With `q` or `callback_host`: how far back the search looked, when it did not look at all "
                "watches and has no next page. Continue with this time as `created_before`."
            ),
        ]
    ]


class BulkResult(TypedDict):
    """`count` were changed (dry run: would be). `left` more watches match. `up_to` is the newest watch that matches."""

    count: int
    left: int
    up_to: str | None


class AttemptBody(TypedDict):
    """One POST of a delivery."""

    started_at: Time | None
    duration_seconds: float
    status_code: int | None
    error: ErrorBody | None
    body: Annotated[str | None, Field(description="The first 4 KiB of the receiver's response, with secrets redacted.")]


class OwnedDelivery(DeliveryBody):
    """A delivery and the id of its watch."""

    watch_id: WatchId


class DeliveryWithLog(OwnedDelivery):
    """A delivery with its attempts, oldest first."""

    attempt_log: list[AttemptBody]


class AttemptEvent(AttemptBody):
    """An attempt in the event stream, and the delivery after it."""

    number: Annotated[int, Field(description="The attempt's number within its delivery, from 1.", ge=1)]
    delivery: DeliveryBody


class Count(TypedDict):
    """The number of dead deliveries that are due now; in a dry run, of those that the filter matches."""

    count: Annotated[int, Field(ge=0)]


class PingOutcome(TypedDict):
    """The result of a ping; in a dry run, whether the target is allowed and its name resolves."""

    ok: Annotated[bool, Field(description="Whether the receiver answered 2xx.")]
    status_code: int | None
    error: ErrorBody | None
    duration_seconds: float


class Alive(TypedDict):
    """The answer of `/healthz`: the event loop runs."""

    status: Literal["alive"]


class Ready(TypedDict):
    """Whether this replica can work."""

    status: Literal["ready", "degraded", "unready"]
    checks: Annotated[dict[str, str], Field(description="`ok`, `degraded` or `failing` for each check.")]
    reasons: Annotated[list[str], Field(description="A sentence for each check that is not `ok`.")]


# --- batches ------------------------------------------------------------------------------------------------------


class BatchResult(TypedDict):
    """The result of one entry: a `watch` with 200 or 201, or a `problem`."""

    status: int
    watch: NotRequired[WatchBody]
    problem: NotRequired[ProblemBody]


class BatchResults(TypedDict):
    """One result for each entry, in the entries' order."""

    results: list[BatchResult]


# --- what receivers get -------------------------------------------------------------------------------------------


class EventData(TypedDict):
    """The task when it ended or changed."""

    id: Annotated[str, Field(description="The task's id, the same as `task_id`.")]
    task_id: str
    watch_id: WatchId
    status: TaskStatus
    url: str | None
    format: str | None
    metadata: Metadata | None
    content_url: Annotated[str | None, Field(description="For a completed video: the URL of its bytes.")]
    error: ErrorBody | None
    context: Annotated[Any, WithJsonSchema({"type": ["object", "null"]}), Field(description="The watch's `context`.")]


class EventBody(TypedDict):
    """An event. Every attempt sends the same bytes."""

    id: Annotated[
        DeliveryId, Field(description="The same on every attempt: a receiver ignores an id that it has processed.")
    ]
    object: Literal["event"]
    type: EventType
    created_at: Annotated[int, Field(description="Unix seconds.")]
    timestamp: Time
    data: EventData


class EventFeedPage(TypedDict):
    """Events in the order of the feed, the oldest first."""

    items: Annotated[list[EventBody], Field(description="Each event exactly as a receiver gets it.")]
    next_cursor: Annotated[
        str,
        Field(
            pattern=json_schemas.CURSOR["pattern"],
            description="The next page's `after`. Always given, also when there are no items.",
            examples=["cursor_001k1b73r9hfv000000000000010"],
        ),
    ]


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


class NoticeData(TypedDict):
    """What a notice for operators is about. Fields that do not apply are null."""

    receiver: Annotated[str | None, Field(description="Host and port.")]
    credential: Annotated[str | None, Field(description="The name of an amux key, never the key.")]
    apps: list[str] | None
    count: Annotated[int | None, Field(description="The number of dead deliveries, or of pending ones.")]
    delivery_ids: Annotated[list[DeliveryId] | None, Field(description=f"The first {FIRST_IDS}.")]
    since: Time | None
    by: Annotated[str | None, Field(description="The name of the operator's token.")]
    message: Annotated[str, Field(description="The notice for people.")]
    page_url: Annotated[str | None, Field(description="The operators' page with the watches; needs a public URL.")]


class NoticeBody(TypedDict):
    """A notice for operators, sent to `BRIDGE_OPERATIONS_CALLBACK_URL`."""

    id: str
    object: Literal["event"]
    type: NoticeType
    created_at: Annotated[int, Field(description="Unix seconds.")]
    timestamp: Time
    data: NoticeData


class PingBody(TypedDict):
    """The event that `POST /ping` sends."""

    id: DeliveryId
    object: Literal["event"]
    type: Literal["bridge.ping"]
    created_at: int
    timestamp: Time
    data: PingData
