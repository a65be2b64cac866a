"""What every benchmark is given: a folder, how large to be, and where to say what goes on."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from tests.bench.processes import Child, Spent
from tests.bench.seeding import Seeds
from tests.bench.subject import POLLS_NOTHING, Bridge

Choice = TypeVar("Choice")


class Size(IntEnum):
    """TINY sees that it works; SMALL is quick; FULL has the numbers of the promise."""

    TINY = 0
    SMALL = 1
    FULL = 2


@dataclass
class Stage:
    """One run of the bench. `profiles` is a folder for cProfile's figures of the bridges, or None."""

    folder: Path
    size: Size
    say: Callable[[str], None]
    profiles: Path | None = None
    seeds: Seeds = field(init=False)

    def __post_init__(self) -> None:
        self.seeds = Seeds(self.folder)

    def pick(self, tiny: Choice, small: Choice, full: Choice) -> Choice:
        """What belongs to the size."""
        return (tiny, small, full)[self.size]

    def profile(self, name: str) -> dict[str, str]:
        """The hook that has a bridge profiled, if it shall be."""
        return {} if self.profiles is None else {"profile": str(self.profiles / f"{name}.prof")}

    @cached_property
    def idle(self) -> float:
        """CPU seconds a second of a bridge with nothing to do: its ticks.

        Where others share the core, work takes longer and ticks go on: costs are told without them, and they by
        themselves. A core of its own makes no difference: there they are less than a hundredth.
        """
        with Bridge(self.folder, self.seeds.file(active=["task_1"]), POLLS_NOTHING) as bridge:
            time.sleep(self.pick(0.2, 1.0, 5.0))
            meter = bridge.meter()
            time.sleep(self.pick(1.0, 5.0, 20.0))
            return meter.read().share

    def helper(self, bench: str, child: Child, spent: Spent) -> None:
        """Say what a helper took of its core: one that is busy all the time would be what is measured."""
        self.say(f"{bench}: {child.name} took {spent.share:.0%} of a core")


def until(wanted: Callable[[], bool], seconds: float, what: str) -> None:
    """Look ten times a second until it is so. RuntimeError when it does not become so."""
    end = time.monotonic() + seconds
    while not wanted():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
