"""The receivers of callbacks, and a sender whose requests never leave the process."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bridge.callback.guard import Guard
from bridge.callback.sender import Sender, SendResult
from bridge.core.model import Answer, Answered, NoAnswer
from tests.simulation.loop import HOST, SimulatedLoop

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger


class Kind(StrEnum):
    """How a receiver answers."""

    GOOD = "good"
    SLOW = "slow"
    FLAKY = "flaky"
    BUSY = "busy"  # often answers 429 or 503, with Retry-After
    DEAD = "dead"
    GONE = "gone"
    HANGING = "hanging"
    FORGETFUL = "forgetful"  # takes the event, but its answer is often lost


LASTING = {Kind.DEAD, Kind.GONE, Kind.HANGING}


@dataclass(eq=False)
class Receivers:
    """All receivers. When `calm` is true, each answers 2xx, except the kinds that never do."""

    loop: SimulatedLoop
    random: Random
    ledger: "Ledger"
    timeout: float
    calm: bool = False

    async def answer(self, url: str) -> tuple[Answer, float]:  # noqa: PLR0911  one for each kind
        """Return a receiver's answer, and the seconds that it takes. The first part of its name is its kind."""
        kind, chance = Kind((urlsplit(url).hostname or "").split("-")[0]), self.random.random()
        if self.calm and kind not in LASTING:
            kind = Kind.GOOD
        seconds = 0.005 + 0.1 * self.random.random()
        match kind:
            case Kind.SLOW:
                seconds = 0.2 + (self.timeout - 0.3) * self.random.random()
            case Kind.FLAKY if chance < 0.6:
                return (Answered(500), seconds) if chance < 0.3 else (NoAnswer("connection_lost", "closed"), seconds)
            case Kind.BUSY if chance < 0.6:
                return Answered(429 if chance < 0.3 else 503, retry_after=float(int(3 * chance * 4))), seconds
            case Kind.DEAD:
                return NoAnswer("connection_failed", "refused"), seconds
            case Kind.GONE:
                return Answered(410), seconds
            case Kind.HANGING:
                return NoAnswer("timeout", "no answer"), self.timeout
            case Kind.FORGETFUL if chance < 0.5:
                return NoAnswer("connection_lost", "closed"), seconds
            case _:
                pass
        return Answered(200 if chance < 0.9 else 204), seconds


class SimulatedSender(Sender):
    """Checks the form of the target as the real sender does, and passes the POST to the receivers."""

    def __init__(self, receivers: Receivers, guard: Guard, **_: Any) -> None:
        self._receivers = receivers
        self._guard = guard

    async def send(self, target_url: str, headers: Mapping[str, str], body: bytes) -> SendResult:
        receivers = self._receivers
        self._guard.parse(target_url)
        post = receivers.ledger.posted(HOST.get(), target_url, headers, body)
        answer, seconds = await receivers.answer(target_url)
        # The answer comes from outside, as a receiver's does: it does not depend on what happens to the sender.
        arrived: asyncio.Future[None] = receivers.loop.create_future()
        receivers.loop.call_external(seconds, _arrive, arrived)
        await arrived
        receivers.ledger.answered(HOST.get(), post, answer)
        return SendResult(answer, seconds)

    async def close(self) -> None:
        return None


def _arrive(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
