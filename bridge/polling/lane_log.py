"""Log lines about the batch lanes: one when batches begin, one when they fail, one when they work again."""

import logging
from dataclasses import dataclass
from math import inf
from typing import Any

from bridge.core.batch_lane import LaneHealth, LaneState
from bridge.telemetry import get_logger

FORGOTTEN_SECONDS = 600.0  # after the moment at which a lane should have been asked again

_log = get_logger("polling")

_SINGLY = "tasks are read singly meanwhile; no watch ends because of this"


@dataclass(slots=True)
class _Trouble:
    """The outage of one lane. `worked_from`: since when it works again, infinity: not yet. It counts until `until`."""

    until: float
    worked_from: float = inf


class LaneLog:
    """One line for each change of the whole, however many keys there are.

    An outage has ended when its lanes have worked for `calm_seconds`: a route that fails now and then is one outage.
    """

    def __init__(self, calm_seconds: float) -> None:
        self._calm_seconds = calm_seconds
        self._said: set[str] = set()
        self._was_open: set[str] = set()
        self._troubles: dict[str, _Trouble] = {}

    def answered(self, name: str, before: LaneState, health: LaneHealth, now: float) -> None:
        """Log what an answer at `now` has changed in the lane of a credential; `name` is no key."""
        if health.is_open:
            self._was_open.add(name)
            self._once("batches_begun", credential=name, means="many tasks are read with one request")
            self._works(name, now)
        elif health.state is LaneState.ABSENT and name not in self._was_open:
            self._recovered(name)  # it answers: there is no such route, which is no outage
            self._once(
                "batches_unsupported",
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means="each task is read with a request of its own; amux is asked again at most once a minute",
            )
        elif name in self._troubles or health.state is not before:
            self._fails(name, health, now)

    def _fails(self, name: str, health: LaneHealth, now: float) -> None:
        # A lane whose tasks have ended is asked no more: its outage must not hide the next one.
        for other in [each for each, trouble in self._troubles.items() if trouble.until < now]:
            del self._troubles[other]
        if not self._troubles:
            _log.event(
                "batches_failing",
                level=logging.WARNING,
                credential=name,
                reason=health.message,
                next_request_seconds=round(health.asks_at - now, 3),
                means=_SINGLY,
            )
        self._troubles[name] = _Trouble(health.asks_at + FORGOTTEN_SECONDS)

    def _works(self, name: str, now: float) -> None:
        trouble = self._troubles.get(name)
        if trouble is None:
            return
        trouble.until, trouble.worked_from = now + FORGOTTEN_SECONDS, min(trouble.worked_from, now)
        if now - trouble.worked_from >= self._calm_seconds:
            self._recovered(name)

    def live_platform(self, platform: str) -> None:
        """Log that a platform answers live, although it is not known for that."""
        _log.event(
            "live_platform",
            platform=platform or None,
            means="amux asks the vendor at each read, so tasks of this platform are read one by one",
        )

    def forget(self, lane_name: str) -> None:
        """Drop a credential that is gone."""
        self._was_open.discard(lane_name)
        self._troubles.pop(lane_name, None)

    def _recovered(self, name: str) -> None:
        if self._troubles.pop(name, None) is not None and not self._troubles:
            _log.event("batches_resumed", credential=name, means="many tasks are read with one request again")

    def _once(self, event: str, **fields: Any) -> None:
        if event not in self._said:
            self._said.add(event)
            _log.event(event, **fields)
