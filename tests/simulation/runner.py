"""Runs seeds, and shrinks the plan of a seed that fails."""

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from tests.simulation.plan import Plan, make_plan
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a plan. `failure` is None if every invariant held."""

    plan: Plan
    failure: str | None
    trace: tuple[str, ...]


@lru_cache(maxsize=1)
def _root() -> Path:
    """Return a folder in memory, where there is one: no file of a simulation has to survive."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())  # noqa: S108


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder for the database of this process, and remove it at the end."""
    made = Path(tempfile.mkdtemp(prefix="bridge-simulation-", dir=_root()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run_plan(plan: Plan, place: Path) -> Outcome:
    """Run one plan, and return its result."""
    world = World(plan, place)
    try:
        world.run()
    except Exception as error:  # noqa: BLE001  any error fails the seed
        return Outcome(plan, f"{type(error).__name__}: {error}", tuple(world.trace))
    return Outcome(plan, None, tuple(world.trace))


def run_seed(seed: int, place: Path) -> Outcome:
    """Run the plan of a seed, and return its result."""
    outcome = run_plan(make_plan(seed), place)
    _freeze()
    return outcome


@lru_cache(maxsize=1)
def _freeze() -> None:
    """Freeze all present objects. From now on the collection at a seed's end scans only the objects of that seed."""
    gc.collect()
    gc.freeze()


def shrunk(plan: Plan, place: Path) -> Plan:
    """Return a plan with fewer actions and tasks that breaks an invariant of the same kind."""
    kind = _kind(run_plan(plan, place).failure)

    def fails(tried: Plan) -> bool:
        return _kind(run_plan(tried, place).failure) == kind

    size = max(1, len(plan.actions) // 2)
    while size:
        at = 0
        while at < len(plan.actions):
            tried = plan.without(set(range(at, at + size)))
            if fails(tried):
                plan = tried
            else:
                at += size
        size //= 2
    for one in plan.inherited:
        tried = replace(plan, inherited=tuple(other for other in plan.inherited if other is not one))
        if fails(tried):
            plan = tried
    for course in plan.courses:
        tried = replace(plan, courses=tuple(one for one in plan.courses if one is not course))
        if fails(tried):
            plan = tried
    return plan


def _kind(failure: str | None) -> str | None:
    """Return the text of a failure without its ids and its numbers."""
    return failure and re.sub(r"(evt|wat|rep)_\w+|task_\d+|[\d.]+", "", failure)
