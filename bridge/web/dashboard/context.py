"""What the page's handlers need beside the API's services, and where they find it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from bridge.polling.state import CredentialStatus, LiveTask
from bridge.polling.stats import PollingStats
from bridge.telemetry.history import History
from bridge.web.dashboard.sessions import Sessions
from bridge.web.rate_limits import SignInLimits


class WatchedPoller(Protocol):
    """The poller, as far as the page goes."""

    def live(self, task_row: str) -> LiveTask | None:
        """A task of this replica's, None for any other."""

    def credentials(self) -> Sequence[CredentialStatus]:
        """The amux keys in use, by name, and how amux takes each."""

    async def stats(self, most_stuck: int) -> PollingStats:
        """How all tasks fare."""


@dataclass(frozen=True, slots=True)
class DashboardContext:
    """The operators' page. `public_url` is the bridge's own, if it has one; it may have a path."""

    sessions: Sessions
    history: History
    poller: WatchedPoller
    public_url: str | None = None
    limits: SignInLimits = field(default_factory=SignInLimits)
    version: str = ""
    beat_seconds: float = 1.0  # between two looks of a live page at its table
    overview_good_for_seconds: float = 2.0  # however many pages are open, the store is asked once

    @property
    def secure(self) -> bool:
        """Whether browsers reach the bridge over TLS, as far as it knows."""
        return (self.public_url or "").startswith("https://")


DASHBOARD: Final = web.AppKey("PAGE", DashboardContext)
MOST_STUCK: Final = 200
Live = Callable[[str], LiveTask | None]
