"""The objects that the API's handlers use, in one value stored in the aiohttp application."""

from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from bridge.aio.system import SYSTEM, System
from bridge.amux.content_cache import ContentCache
from bridge.amux.proxy import AmuxProxy
from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.signing import Signer
from bridge.delivery.receivers import Receivers
from bridge.maintenance.health import Health
from bridge.store.records import TaskView
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.event_numbering import EventNumbering
from bridge.watches.registration import RegistrationService
from bridge.web.auth import Access
from bridge.web.errors import Draining
from bridge.web.rate_limits import PingLimits
from bridge.web.sse import HEARTBEAT_SECONDS, LONGEST_SECONDS


class LivePoller(Protocol):
    """The part of the poller that handlers use."""

    def live(self, task_row: str) -> TaskView | None:
        """Returns a task from this replica's memory, by the id of its row; None if this replica does not poll it."""


class WakeableDeliverer(Protocol):
    """The part of the deliverer that handlers use."""

    def wake(self) -> None:
        """Makes the deliverer look for due deliveries now."""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Times of an event stream, in seconds.

    `check_seconds`: between two checks of the poller's data. `heartbeat_seconds`: the longest time without a line.
    `longest_seconds`: the longest duration of a stream.
    """

    check_seconds: float = 1.0
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    longest_seconds: float = LONGEST_SECONDS


@dataclass(frozen=True, slots=True)
class DropIn:
    """The options of drop-in creation, when it is on.

    `retry_delays` are the seconds between the tries to store a watch whose task already exists and is paid for.
    """

    retry_delays: tuple[float, ...] = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class AppContext:
    """The objects that handlers use.

    `change_notifier` wakes requests that wait for a watch. `event_numbering.notifier` wakes requests that wait for
    events. `signer` signs pings and envelopes; `link_key` signs content links. `drop_in` is None while drop-in creation
    is off. `content_cache` is None if every video is passed through. `public_url` is the server's URL in the OpenAPI
    document, which has a relative URL if it is None.
    """

    store: Store
    registration: RegistrationService
    poller: LivePoller
    deliverer: WakeableDeliverer
    guard: Guard
    sender: Sender
    change_notifier: ChangeNotifier
    event_numbering: EventNumbering
    metrics: Metrics
    health: Health
    access: Access
    signer: Signer
    receivers: Receivers
    link_key: bytes = field(repr=False)
    proxy: AmuxProxy
    content_cache: ContentCache | None = None
    drop_in: DropIn | None = None
    public_url: str | None = None
    stream_times: StreamTimes = StreamTimes()
    ping_limits: PingLimits = field(default_factory=PingLimits)
    system: System = SYSTEM

    def check_not_draining(self) -> None:
        """Raises Draining while the bridge stops. Registrations, pings and retries are then refused."""
        if self.health.draining:
            raise Draining


CONTEXT: Final = web.AppKey("CONTEXT", AppContext)
