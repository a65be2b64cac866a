"""When to poll next and when to try again; now and randomness are passed in.

Every `jitter` is a number in [0, 1) of the caller's own drawing. Delays and times are seconds.
"""

from dataclasses import dataclass

JITTER_SHARE = 0.1  # each delay is stretched by up to a tenth, never shortened: spreads load and keeps promises
LONGEST_RETRY_AFTER = 86_400.0  # a receiver may ask for a day, not for ever
LONGEST_SLOWDOWN = 300.0  # amux may slow a credential for five minutes at a time
LONGEST_PAUSE = 60.0  # a refused key is asked about at least once a minute


@dataclass(frozen=True, slots=True)
class PollPolicy:
    """How often a task is asked about, in seconds."""

    first_delay: float = 5.0
    interval: float = 5.0
    max_interval: float = 15.0
    backoff: float = 1.2

    def delay_after(self, polls: int, jitter: float) -> float:
        """Until the next poll of a task that was polled `polls` times and is still running."""
        if polls == 0:
            return stretched(self.first_delay, jitter)
        # The exponent is capped: 1.2^200 is past any maximum, and a float overflows at 1.2^3,900.
        grown = self.interval * self.backoff ** min(polls - 1, 200)
        return stretched(min(grown, self.max_interval), jitter)

    def delay_after_trouble(self, troubles: int, jitter: float) -> float:
        """Until the next poll after the `troubles`-th transient failure in a row (1 is the first)."""
        return stretched(min(self.interval * 2.0 ** min(troubles - 1, 32), self.max_interval), jitter)

    def pause_after(self, refusals: int) -> float:
        """How long a credential rests after its `refusals`-th refusal in a row (1 is the first)."""
        doubled = self.max_interval * 2.0 ** min(refusals - 1, 32)
        return min(doubled, max(self.max_interval, LONGEST_PAUSE))

    def slowdown(self, retry_after: float | None, slowdowns: int) -> float:
        """How long a credential rests after a 429, the `slowdowns`-th in a row (1 is the first)."""
        if retry_after is not None:
            return min(max(retry_after, 0.0), LONGEST_SLOWDOWN)
        return min(self.interval * 2.0 ** min(slowdowns - 1, 32), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pauses between a delivery's attempts, in seconds; after the last one it is dead."""

    delays: tuple[float, ...] = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

    def delay_after(self, attempts: int) -> float | None:
        """The pause after the `attempts`-th attempt of a round (1 is the first), or None when all were used."""
        return self.delays[attempts - 1] if 0 < attempts <= len(self.delays) else None


def stretched(delay: float, jitter: float) -> float:
    """`delay` or up to a tenth longer: never earlier than promised."""
    return delay * (1 + JITTER_SHARE * jitter)
