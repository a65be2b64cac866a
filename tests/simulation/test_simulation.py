"""The simulation itself: no seed fails, a seed gives the same trace in every process, and planted bugs are found."""

import hashlib
import os
import subprocess
import sys

import pytest

from tests.simulation.mutations import MUTATIONS
from tests.simulation.planting import ROOT, Mutation
from tests.simulation.runner import folder, run_seed

pytestmark = pytest.mark.usefixtures("real_store_limits")

SHORT = range(30)
LONG = range(30, 1_030)
COMPARED = (3, 4, 9)  # two replicas, with crashes and freezes
SAFETY_SECONDS = 3_000.0

PRINT_TRACES = f"""
import hashlib
from tests.simulation.runner import folder, run_seed
with folder() as place:
    for seed in {COMPARED}:
        print(hashlib.sha256("\\n".join(run_seed(seed, place).trace).encode()).hexdigest())
"""


def test_every_invariant_holds_for_the_first_seeds() -> None:
    with folder() as place:
        failures = {seed: failure for seed in SHORT if (failure := run_seed(seed, place).failure) is not None}
    assert failures == {}


def test_a_seed_gives_the_same_trace_again_and_in_another_process() -> None:
    with folder() as place:
        own = [_digest(run_seed(seed, place).trace) for seed in COMPARED]
        again = [_digest(run_seed(seed, place).trace) for seed in COMPARED]
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    other = subprocess.run(
        [sys.executable, "-c", PRINT_TRACES], env=environment, cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert own == again == other.stdout.split()


@pytest.mark.long
def test_every_invariant_holds_for_a_thousand_seeds() -> None:
    ended = _simulation("--seeds", f"{LONG.start}:{LONG.stop}", "--jobs", str(os.cpu_count() or 1))
    assert ended.returncode == 0, ended.stdout[-20_000:]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_planted_bug_is_a_change_of_the_present_source(mutation: Mutation) -> None:
    assert [one.path.read_text().count(one.old) for one in mutation.changes] == [1] * len(mutation.changes)


@pytest.mark.long
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_planted_bug_is_found_within_its_number_of_seeds(mutation: Mutation) -> None:
    ended = _simulation("--seeds", f"0:{mutation.seeds}", "--plant", mutation.name, "--no-shrinking")
    assert ended.returncode == 1, ended.stdout[-2_000:] + ended.stderr[-2_000:]
    assert "Violation" in ended.stdout


def _simulation(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=SAFETY_SECONDS,
    )


def _digest(trace: tuple[str, ...]) -> str:
    return hashlib.sha256("\n".join(trace).encode()).hexdigest()
