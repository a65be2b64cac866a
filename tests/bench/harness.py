"""What every benchmark gets: a folder, the size of the run, and a function that logs its progress."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tests.bench.bridge_process import POLLS_NOTHING, Bridge
from tests.bench.processes import Child, Usage
from tests.bench.seeding import Seeds

Choice = TypeVar("Choice")


class Size(IntEnum):
    """TINY checks that a benchmark works, SMALL is quick, FULL has the sizes for which the docs promise figures."""

    TINY = 0
    SMALL = 1
    FULL = 2


@dataclass
class Bench:
    """One run of the benchmarks.

    `profiles` is a folder for the bridges' profiles by cProfile, `pictures` a folder for pictures and their tables.
    Each may be None. `rates` replaces the rates of `day`.
    """

    folder: Path
    size: Size
    log: Callable[[str], None]
    profiles: Path | None = None
    pictures: Path | None = None
    rates: tuple[int, ...] = ()
    seeds: Seeds = field(init=False)

    def __post_init__(self) -> None:
        self.seeds = Seeds(self.folder)

    def pick(self, tiny: Choice, small: Choice, full: Choice) -> Choice:
        """Returns the value for the size of this run."""
        return (tiny, small, full)[self.size]

    def profile(self, name: str) -> dict[str, str]:
        """Returns the hook that profiles a bridge, or none if there is no folder for profiles."""
        return {} if self.profiles is None else {"profile": str(self.profiles / f"{name}.prof")}

    @cached_property
    def idle(self) -> float:
        """CPU seconds a second of an idle bridge, which only runs its ticks.

        If other programs use the core, the same work takes longer, and more ticks run meanwhile. Therefore costs are
        reported without the ticks. On a core without other programs the ticks are less than a hundredth.
        """
        with Bridge(self.folder, self.seeds.file(active=["task_1"]), POLLS_NOTHING) as bridge:
            time.sleep(self.pick(0.2, 1.0, 5.0))
            meter = bridge.meter()
            time.sleep(self.pick(1.0, 5.0, 20.0))
            return meter.read().share

    def helper(self, name: str, child: Child, usage: Usage) -> None:
        """Logs the share of its core that a helper used: a helper that is always busy would limit the result."""
        self.log(f"{name}: {child.name} took {usage.share:.0%} of a core")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Checks the condition ten times a second. Raises RuntimeError if it is not true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
