"""Log lines about the batch lanes: one when batches begin, one when they fail, one when they succeed again."""

import logging
from dataclasses import dataclass
from math import inf
from typing import Any

from bridge.core.batch_lane import LaneHealth, LaneState
from bridge.telemetry import get_logger

FORGET_SECONDS = 600.0  # an outage of a lane is forgotten this long after the time of its next request

_log = get_logger("polling")

_SINGLY = "each task is read with its own request meanwhile; no watch ends because of this"


@dataclass(slots=True)
class _Outage:
    """The outage of one lane. It is forgotten after `until`.

    `worked_from` is the time of the first success after the failures, infinity before it.
    """

    until: float
    worked_from: float = inf


class LaneLog:
    """Logs one line for each change, for any number of keys.

    An outage ends when its lanes have worked for `calm_seconds`. So a route that fails from time to time is one outage.
    """

    def __init__(self, calm_seconds: float) -> None:
        self._calm_seconds = calm_seconds
        self._logged: set[str] = set()
        self._was_open: set[str] = set()
        self._outages: dict[str, _Outage] = {}  # by the credential's name

    def answered(self, name: str, before: LaneState, health: LaneHealth, now: float) -> None:
        """Log the change that an answer at `now` made in the lane of a credential. `name` is the name, not the key."""
        if health.is_open:
            self._was_open.add(name)
            self._log_once("batches_begun", credential=name, means="many tasks are read with one request")
            self._count_success(name, now)
        elif health.state is LaneState.ABSENT and name not in self._was_open:
            self._end_outage(name)  # amux answers that there is no such route, which is no outage
            self._log_once(
                "batches_unsupported",
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means=(
                    "this is normal for a server without the batch route, and nothing is lost: each task is read with"
                    " its own request; the route is tried again after a minute or later"
                ),
            )
        elif name in self._outages or health.state is not before:
            self._count_failure(name, health, now)

    def _count_failure(self, name: str, health: LaneHealth, now: float) -> None:
        # A lane without tasks sends no more requests, so its outage cannot end. It must not hide the next outage.
        for other in [each for each, outage in self._outages.items() if outage.until < now]:
            del self._outages[other]
        if not self._outages:
            _log.event(
                "batches_failing",
                level=logging.WARNING,
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means=_SINGLY,
            )
        self._outages[name] = _Outage(health.asks_at + FORGET_SECONDS)

    def _count_success(self, name: str, now: float) -> None:
        outage = self._outages.get(name)
        if outage is None:
            return
        outage.until, outage.worked_from = now + FORGET_SECONDS, min(outage.worked_from, now)
        if now - outage.worked_from >= self._calm_seconds:
            self._end_outage(name)

    def live_platform(self, platform: str, credential: str) -> None:
        """Log that a platform is live for a credential. For platforms 24, 41 and 54 this is known and not logged."""
        _log.event(
            "live_platform",
            platform=platform or None,
            credential=credential,
            means="amux asks the vendor at each read: each task of this platform with this key is read alone",
        )

    def forget(self, lane_name: str) -> None:
        """Drop a credential that is not in use any more."""
        self._was_open.discard(lane_name)
        self._outages.pop(lane_name, None)

    def _end_outage(self, name: str) -> None:
        if self._outages.pop(name, None) is not None and not self._outages:
            _log.event("batches_resumed", credential=name, means="many tasks are read with one request again")

    def _log_once(self, event: str, **fields: Any) -> None:
        if event not in self._logged:
            self._logged.add(event)
            _log.event(event, **fields)
