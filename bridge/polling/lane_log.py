"""Log lines about the batch lanes: one when batches begin, one when they fail, one when they work again."""

import logging
from typing import Any

from bridge.core.batch_lane import LaneHealth, LaneState
from bridge.telemetry import get_logger

_log = get_logger("polling")

_SINGLY = "tasks are read singly meanwhile; no watch ends because of this"


class LaneLog:
    """One line for each change of the whole, however many keys there are."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._was_open: set[str] = set()
        self._failing: set[str] = set()

    def changed(self, name: str, health: LaneHealth, now: float) -> None:
        """Log that the lane of a credential has changed at `now`; `name` is no key."""
        if health.state is LaneState.OPEN:
            self._was_open.add(name)
            self._recovered(name)
            self._once("batches_begun", credential=name, means="many tasks are read with one request")
            return
        if health.state is LaneState.ABSENT and name not in self._was_open:
            self._recovered(name)  # it answers: there is no such route, which is no outage
            self._once(
                "batches_unsupported",
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means="each task is read with a request of its own; amux is asked again at most once a minute",
            )
            return
        if not self._failing:
            _log.event(
                "batches_failing",
                level=logging.WARNING,
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means=_SINGLY,
            )
        self._failing.add(name)

    def live_platform(self, platform: str) -> None:
        """Log that a platform answers live, although it is not known for that."""
        _log.event(
            "live_platform", platform=platform, means="amux asks the vendor at each read: its tasks are read singly"
        )

    def forget(self, lane_name: str) -> None:
        """Drop a credential that is gone."""
        self._was_open.discard(lane_name)
        self._recovered(lane_name)

    def _recovered(self, name: str) -> None:
        if name in self._failing:
            self._failing.discard(name)
            if not self._failing:
                _log.event("batches_resumed", credential=name, means="many tasks are read with one request again")

    def _once(self, event: str, **fields: Any) -> None:
        if event not in self._said:
            self._said.add(event)
            _log.event(event, **fields)
