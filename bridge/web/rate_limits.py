"""Rate limits kept in memory, for one process: pings of a caller, and wrong tokens at the dashboard's sign-in."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge.aio.minute_window import MinuteWindow
from bridge.core.errors import BridgeError
from bridge.web.errors import TooManyPings

PINGS_A_MINUTE = 30
FAILURES_A_MINUTE = 10  # from one address
FAILURES_IN_ALL = 100  # a minute, from all addresses together: using many addresses does not avoid the limit
ADDRESSES_KEPT = 1_000


class TooManySignIns(BridgeError):
    """Too many wrong tokens came within a minute. `retry_after_seconds` is the time until the next try is allowed."""

    code = "too_many_sign_ins"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"Too many wrong tokens. Try again in {max(1, round(retry_after_seconds))} seconds.")
        self.retry_after_seconds = retry_after_seconds


class PingLimits:
    """Allows each caller one ping at a time and 30 a minute.

    `clock` is monotonic, in seconds. There are only as many callers as tokens, so no entry is ever removed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, MinuteWindow] = {}
        self._in_progress: set[str] = set()

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        """Counts a ping of a caller; the ping is the `with` block. Raises TooManyPings at a limit."""
        now = self._clock()
        window = self._windows.setdefault(caller, MinuteWindow(PINGS_A_MINUTE))
        if caller in self._in_progress:
            raise TooManyPings("a ping is in progress; only one at a time is allowed", 1.0)
        if (seconds := window.seconds_until_free(now)) > 0:
            raise TooManyPings(f"{PINGS_A_MINUTE} pings were sent within a minute, which is the limit", seconds)
        window.add(now)
        self._in_progress.add(caller)
        try:
            yield
        finally:
            self._in_progress.discard(caller)


class SignInLimits:
    """Counts wrong tokens by address. With the limits, a program that guesses tokens uses little CPU and few log lines.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_address: OrderedDict[str, MinuteWindow] = OrderedDict()
        self._all = MinuteWindow(FAILURES_IN_ALL)

    def check(self, address: str) -> None:
        """Raises TooManySignIns if another wrong token from this address, or from any address, exceeds a limit."""
        now = self._clock()
        for window in (self._by_address.get(address), self._all):
            if window is not None and (seconds := window.seconds_until_free(now)) > 0:
                raise TooManySignIns(seconds)

    def failed(self, address: str) -> None:
        """Counts a wrong token from an address."""
        now = self._clock()
        self._all.add(now)
        self._by_address.setdefault(address, MinuteWindow(FAILURES_A_MINUTE)).add(now)
        self._by_address.move_to_end(address)
        while len(self._by_address) > ADDRESSES_KEPT:
            self._by_address.popitem(last=False)
