"""The parts of the operating system that a bridge uses: clocks, random numbers and threads."""

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from bridge.aio.clocks import running_seconds
from bridge.aio.threads import Runner, Threads


@dataclass(frozen=True, slots=True)
class System:
    """All clocks, random numbers and threads of a bridge. Tests and the simulation replace them.

    `monotonic` and `running` count seconds; `running` also counts while the machine is suspended. `wall` is Unix
    seconds. `random` draws from [0, 1), `token_bytes` returns a given number of unpredictable bytes. `threads` makes
    a runner with a given number of threads.
    """

    monotonic: Callable[[], float] = time.monotonic
    running: Callable[[], float] = running_seconds
    wall: Callable[[], float] = time.time
    random: Callable[[], float] = random.random
    token_bytes: Callable[[int], bytes] = secrets.token_bytes
    threads: Callable[[int, str], Runner] = Threads

    def token_hex(self, count: int) -> str:
        """Returns `count` unpredictable bytes as hexadecimal text."""
        return self.token_bytes(count).hex()


SYSTEM = System()
