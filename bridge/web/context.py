"""What handlers need, and where they find it."""

from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from bridge.amux.proxy import AmuxProxy
from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.model import Problem, TaskSnapshot
from bridge.core.signing import Signer
from bridge.maintenance.health import Health
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.registration import RegistrationService
from bridge.web.auth import Access
from bridge.web.rate_limits import PingLimits


class LiveTask(Protocol):
    """A task as its poller knows it, fresher than its row. Times are Unix seconds."""

    @property
    def snapshot(self) -> TaskSnapshot:
        """The task as last seen."""

    @property
    def polls(self) -> int:
        """How often it was asked about."""

    @property
    def last_polled_at(self) -> float | None:
        """When it was asked about last."""

    @property
    def next_poll_at(self) -> float | None:
        """When it will be asked about next."""

    @property
    def last_error(self) -> Problem | None:
        """What went wrong last: kept, with its time, when a good poll follows; None when nothing ever did."""

    @property
    def last_error_at(self) -> float | None:
        """When that was, None with it."""


class LivePoller(Protocol):
    """The poller, as far as handlers go."""

    def live(self, task_row: str) -> LiveTask | None:
        """A task of this replica's, None for any other."""


class WakefulDeliverer(Protocol):
    """The deliverer, as far as handlers go."""

    def wake(self) -> None:
        """Look for due deliveries now."""


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Seconds: between looks at what the poller knows, of silence before a comment, and of a whole stream."""

    look: float = 1.0
    heartbeat: float = 15.0  # proxies let go of connections that are silent for a minute
    longest: float = 3600.0


@dataclass(frozen=True, slots=True)
class DropIn:
    """Drop-in creation is on. Seconds: between tries to store a watch whose task is paid for."""

    pauses: tuple[float, ...] = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class AppContext:
    """Everything that handlers call. `signer` signs pings and envelopes.

    `link_key` signs content links; `drop_in` is None while drop-in creation is off; `public_url` is what the API's
    document names as its server, None where it is read.
    """

    store: Store
    registration: RegistrationService
    poller: LivePoller
    deliverer: WakefulDeliverer
    guard: Guard
    sender: Sender
    waiting: ChangeNotifier
    metrics: Metrics
    health: Health
    access: Access
    signer: Signer
    link_key: bytes = field(repr=False)
    proxy: AmuxProxy
    drop_in: DropIn | None = None
    public_url: str | None = None
    stream_times: StreamTimes = StreamTimes()
    ping_limits: PingLimits = field(default_factory=PingLimits)


CONTEXT: Final = web.AppKey("SERVICES", AppContext)
