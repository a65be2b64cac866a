"""What handlers need, and where they find it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.core.model import Problem, TaskSnapshot
from bridge.core.signing import Secret, SigningKey
from bridge.intake import Intake
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.web.auth import Access
from bridge.web.limits import PingLimits
from bridge.web.readiness import Health
from bridge.web.waiting import Waiting


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
        """What went wrong last, None when the last poll was good."""

    @property
    def last_error_at(self) -> float | None:
        """When that was."""


class LivePoller(Protocol):
    """The poller, as far as handlers go."""

    def live(self, task_row: str) -> LiveTask | None:
        """A task of this replica's, None for any other."""


class WakefulDeliverer(Protocol):
    """The deliverer, as far as handlers go."""

    def wake(self) -> None:
        """Look for due deliveries now."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that handlers call. `secrets` are the configured signing secrets, the current one first."""

    store: Store
    intake: Intake
    poller: LivePoller
    deliverer: WakefulDeliverer
    guard: Guard
    sender: Sender
    waiting: Waiting
    metrics: Metrics
    health: Health
    access: Access
    secrets: Sequence[Secret] = field(repr=False)
    signing_key: SigningKey | None = None
    ping_limits: PingLimits = field(default_factory=PingLimits)


SERVICES: Final = web.AppKey("SERVICES", Services)
