"""The objects that the dashboard's handlers use in addition to the API's context."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web

from bridge.polling.state import CredentialStatus
from bridge.polling.stats import PollingStats
from bridge.polling.task_classes import TaskClasses
from bridge.telemetry.history import History
from bridge.web.context import LivePoller
from bridge.web.dashboard.sessions import Sessions
from bridge.web.rate_limits import SignInLimits

MAX_STUCK_TASKS: Final = 200  # task rows that the filter for stuck tasks lists


class DashboardPoller(LivePoller, Protocol):
    """The part of the poller that the dashboard uses."""

    classes: TaskClasses

    def credentials(self) -> Sequence[CredentialStatus]:
        """Returns the state of each amux key in use."""

    async def stats(self, max_rows: int) -> PollingStats:
        """Returns the statistics of this replica's tasks, with the rows of at most `max_rows` tasks."""


@dataclass(frozen=True, slots=True)
class DashboardContext:
    """The objects that the dashboard uses. `public_url` is BRIDGE_PUBLIC_URL, or None; it may have a path."""

    sessions: Sessions
    history: History
    poller: DashboardPoller
    public_url: str | None = None
    limits: SignInLimits = field(default_factory=SignInLimits)
    version: str = ""
    refresh_seconds: float = 1.0  # between two reads of the table for one live stream
    overview_max_age_seconds: float = 2.0  # all open pages share one overview

    @property
    def secure(self) -> bool:
        """Whether browsers reach the bridge over TLS, according to `public_url`."""
        return (self.public_url or "").startswith("https://")


DASHBOARD: Final = web.AppKey("DASHBOARD", DashboardContext)
