"""The types of alerts, and of the data from which alerts are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from bridge.core.health import HealthCode, HealthReason
from bridge.core.receivers import Receiver as ReceiverFigures
from bridge.maintenance.health import Readiness
from bridge.polling.state import CredentialStatus
from bridge.polling.stats import PollingStats
from bridge.store.dashboard_queries import Receiver, StoreFacts
from bridge.store.records import Counts
from bridge.telemetry.history import Minute

MAX_KEYS: Final = 100  # amux keys that the page lists; apps can send any number


class Level(StrEnum):
    """The severity of an alert: something fails, something needs attention, or the alert is information only."""

    BAD = "bad"
    WARN = "warn"
    NOTE = "note"


LEVELS: Final = tuple(Level)


class Kind(StrEnum):
    """The subject of an alert. The page shows the alerts of one kind together."""

    BRIDGE = "bridge"
    AMUX = "amux"
    RECEIVERS = "receivers"
    WATCHES = "watches"


KINDS: Final = tuple(Kind)


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. `key` identifies it from one refresh to the next.

    `filters` are the table's filters that list the watches concerned. `resend_host` is a host with dead callbacks.
    `current_alerts` sets `kind`.
    """

    key: str
    level: Level
    title: str
    explanation: str
    next_step: str
    filters: Mapping[str, str] = field(default_factory=dict)
    resend_host: str | None = None
    kind: Kind = Kind.BRIDGE


@dataclass(frozen=True, slots=True)
class AlertInputs:
    """The data from which alerts are made. A field from the store is None if the store did not answer.

    `now` is in Unix seconds. `shared` is whether several replicas can use the database. `nearing_deadline` is a number
    of watches, counted up to 1,000.
    """

    now: float
    readiness: Readiness
    stats: PollingStats
    credentials: Sequence[CredentialStatus]
    minutes: Sequence[Minute]
    shared: bool
    counts: Counts | None = None
    store: StoreFacts | None = None
    receivers: Sequence[Receiver] | None = None
    nearing_deadline: int | None = None
    all_receivers: Sequence[ReceiverFigures] | None = None

    def reason(self, *codes: HealthCode) -> HealthReason | None:
        """Returns the first reason of the readiness with one of these codes; None if there is none."""
        return next((reason for reason in self.readiness.reasons if reason.code in codes), None)
