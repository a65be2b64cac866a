"""Receivers: their names, their health, how long their answers take, and how waiting deliveries are spread over time.

A receiver is a host and a port, `example.com:443` or `[2606:4700::1]:80`. All of its callback URLs share its figures.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from bridge.core.delivery import FAILURES_UNTIL_PROBING
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.model import Problem
from bridge.core.targets import bracketed, split_authority

FIGURES_SECONDS = 86_400.0  # the time that the figures of a receiver cover
SLOT_SECONDS = 3_600  # figures are kept by the hour
RESUMED_PER_SECOND = 100.0  # deliveries of a resumed receiver that become due in a second
LONGEST_SPREAD_SECONDS = 900.0  # if there are more than 90,000, more than 100 become due in a second

_LOWEST_SECONDS = 0.001
_BINS_PER_DOUBLING = 8  # a bin is 9 % wide, so a quantile is right to 5 %
_HIGHEST_BIN = 8 * 17  # 131 s: no attempt takes longer with the usual settings


class ReceiverHealth(StrEnum):
    """How likely a receiver is to answer."""

    UNKNOWN = "unknown"  # no attempt is known
    HEALTHY = "healthy"  # its last attempt had a good answer: see `health_of`
    DOUBTFUL = "doubtful"  # its last attempt failed, and fewer than three in a row have failed
    FAILING = "failing"  # three or more in a row have failed; it gets one attempt at a time


def receiver_of(text: str) -> str:
    """Returns a receiver's name in the form that the bridge stores.

    Raises InvalidRequest (field `receiver`) for text that is not a host and a port.
    """
    try:
        host, _, port = split_authority(text)
    except (InvalidRequest, TargetRefused) as error:
        rule = error.fields[0][1] if isinstance(error, InvalidRequest) else str(error)
        raise InvalidRequest([("receiver", rule)]) from None
    if port is None:
        raise InvalidRequest([("receiver", "must be a host and a port, such as example.com:443 or [2001:db8::1]:80")])
    return f"{bracketed(host)}:{port}"


@dataclass(frozen=True, slots=True)
class LastAnswer:
    """How a receiver's last attempt ended, at `at` (Unix seconds). Without an answer there is no status code."""

    at: float
    status_code: int | None
    error: Problem | None


def health_of(failures: int, *, answered: bool | None) -> ReceiverHealth:
    """Returns a receiver's health. `failures` are its failed attempts in a row.

    `answered` is whether its last attempt had a good answer, None if no attempt is known. The caller decides what is
    good. For the limit of attempts at a time, every answer is good. For what operators see, only a 2xx is good.
    """
    if failures >= FAILURES_UNTIL_PROBING:
        return ReceiverHealth.FAILING
    if failures or answered is False:
        return ReceiverHealth.DOUBTFUL
    return ReceiverHealth.UNKNOWN if answered is None else ReceiverHealth.HEALTHY


@dataclass(slots=True)
class Figures:
    """Counts of the attempts at one receiver, and the last answer. `durations` counts by the bin of the duration."""

    attempts: int = 0
    delivered: int = 0
    durations: dict[int, int] = field(default_factory=dict)
    last: LastAnswer | None = None

    def add(self, seconds: float, last: LastAnswer, *, delivered: bool) -> None:
        """Counts one attempt, which took `seconds`."""
        self.attempts += 1
        self.delivered += delivered
        number = duration_bin(seconds)
        self.durations[number] = self.durations.get(number, 0) + 1
        self.last = last

    def copy(self) -> "Figures":
        """Returns an independent copy."""
        return replace(self, durations=dict(self.durations))

    def merge(self, other: "Figures") -> None:
        """Adds the figures of other attempts."""
        self.attempts += other.attempts
        self.delivered += other.delivered
        for number, count in other.durations.items():
            self.durations[number] = self.durations.get(number, 0) + count
        if other.last is not None and (self.last is None or other.last.at > self.last.at):
            self.last = other.last


@dataclass(frozen=True, slots=True)
class Pause:
    """A receiver's pause: its beginning (Unix seconds), and the name of the operator."""

    at: float
    by: str


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver as operators see it. `failures` are in a row; the figures cover the last 24 h."""

    name: str
    failures: int
    figures: Figures
    pending: int
    dead: int
    pause: Pause | None

    @property
    def health(self) -> ReceiverHealth:
        """How likely it is to answer."""
        last = self.figures.last
        return health_of(self.failures, answered=None if last is None else last.error is None)

    @property
    def success_share(self) -> float | None:
        """The share of attempts that were answered with 2xx; None without attempts."""
        return self.figures.delivered / self.figures.attempts if self.figures.attempts else None


# --- durations ----------------------------------------------------------------------------------------------------


def duration_bin(seconds: float) -> int:
    """Returns the number of the bin that counts attempts of this duration."""
    if seconds <= _LOWEST_SECONDS:
        return 0
    return min(_HIGHEST_BIN, 1 + int(math.log2(seconds / _LOWEST_SECONDS) * _BINS_PER_DOUBLING))


def duration_quantile(durations: Mapping[int, int], share: float) -> float | None:
    """Returns the duration in seconds that `share` of the attempts did not exceed (±5 %); None without attempts."""
    wanted = share * sum(durations.values())
    seen = 0
    for number in sorted(durations):
        seen += durations[number]
        if seen >= wanted:
            middle = _LOWEST_SECONDS * 2.0 ** ((number - 0.5) / _BINS_PER_DOUBLING)
            return middle if number else _LOWEST_SECONDS
    return None


# --- resuming -----------------------------------------------------------------------------------------------------


def spread_seconds(waiting: int) -> float:
    """Returns the time, in seconds, over which the deliveries of a resumed receiver become due."""
    return min(waiting / RESUMED_PER_SECOND, LONGEST_SPREAD_SECONDS)


def due_times(resumed_at: float, waiting: int, already: int, count: int) -> list[float]:
    """Returns the due times (Unix seconds) of the next `count` of `waiting` deliveries. `already` of them have theirs.

    Each time is later than `resumed_at`, which shows that a delivery already has its time.
    """
    step = spread_seconds(waiting) / max(waiting, 1)
    return [resumed_at + step * (already + number) for number in range(1, count + 1)]
