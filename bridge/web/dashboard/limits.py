"""How often a sign-in may fail: guessing is slow, and who mistypes is not shut out for long."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from bridge.core.errors import BridgeError

FAILURES_A_MINUTE = 10  # from one address
FAILURES_IN_ALL = 100  # a minute, from everywhere: many addresses are no way around
ADDRESSES_KEPT = 1_000
_MINUTE = 60.0


class TooManySignIns(BridgeError):
    """Too many wrong tokens lately; `retry_after_seconds` is until the next may be tried."""

    code = "too_many_sign_ins"

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"Too many wrong tokens. Try again in {max(1, round(retry_after_seconds))} seconds.")
        self.retry_after_seconds = retry_after_seconds


class SignInLimits:
    """Counts wrong tokens by address, in this process. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=FAILURES_IN_ALL)

    def check(self, address: str) -> None:
        """Before a token is looked at. Raises TooManySignIns."""
        now = self._clock()
        for failures, most in ((self._failures.get(address), FAILURES_A_MINUTE), (self._all, FAILURES_IN_ALL)):
            if failures is not None and len(failures) >= most and now - failures[-most] < _MINUTE:
                raise TooManySignIns(failures[-most] + _MINUTE - now)

    def failed(self, address: str) -> None:
        """A wrong token came from this address."""
        now = self._clock()
        self._all.append(now)
        self._failures.setdefault(address, deque(maxlen=FAILURES_A_MINUTE)).append(now)
        self._failures.move_to_end(address)
        while len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)
