"""The audit trail: who did what to a watch, to one of its deliveries, or to a receiver."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """The kind of a caller's token."""

    APP = "app"
    OPERATOR = "operator"


class Action(StrEnum):
    """An action of a caller. The first two concern a watch, the others a receiver."""

    CANCELLED = "cancelled"
    RESENT = "resent"
    PAUSED = "paused"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class Actor:
    """A caller: the name of its token, and the token's kind."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action, at `at` (Unix seconds). It concerns a watch or a receiver. `delivery_id` is set for RESENT."""

    at: float
    action: Action
    by: Actor
    watch_id: str | None = None
    delivery_id: str | None = None
    receiver: str | None = None
