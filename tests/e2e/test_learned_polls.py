"""A running bridge learns when to poll, and then sees the ends of tasks sooner. All times are a 25th of real ones."""

import time
from datetime import datetime
from math import exp
from pathlib import Path
from random import Random

import pytest

from bridge.sandbox import Behaviour
from tests.databases import empty_file
from tests.e2e.bridges import Bridge, runtime
from tests.e2e.harness import Environment, environment

SCALE = 0.04
MEDIAN = 90 * SCALE
SETTINGS = {
    "poll_first_delay_seconds": str(5 * SCALE),
    "poll_interval_seconds": str(5 * SCALE),
    "poll_max_interval_seconds": str(15 * SCALE),
}


async def run(bridge: Bridge, env: Environment, tasks: int, seed: int) -> tuple[float, float]:
    """Runs tasks of lognormal durations at once. Returns two means: seconds until an end is seen, and polls."""
    random, ends = Random(seed), {}
    for _ in range(tasks):
        seconds = MEDIAN * exp(random.gauss(0, 0.25))
        task_id = env.amux.create_task(Behaviour(queue_seconds=0, run_seconds=seconds, form="C"))
        end = time.time() + seconds
        ends[await bridge.register(task_id, env.receiver.url, model="m")] = end
    watches = [await bridge.final(watch_id) for watch_id in ends]
    waits = [
        datetime.fromisoformat(watch["timing"]["seen_at"]).timestamp() - end
        for watch, end in zip(watches, ends.values(), strict=True)
    ]
    return sum(waits) / tasks, sum(watch["polls"] for watch in watches) / tasks


async def compare(folder: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    """Returns what `run` returns, with the fixed schedule and with the learned one."""
    results = []
    for learn in ("false", "true"):
        database_url = f"sqlite:///{empty_file(folder / f'{learn}.db')}"
        async with (
            environment(database_url, clock=time.monotonic) as env,
            runtime(database_url, env.amux_url, poll_learn=learn, **SETTINGS) as bridge,
        ):
            await run(bridge, env, 40, seed=1)
            await run(bridge, env, 20, seed=2)  # meanwhile the bridge makes a schedule from the first ends
            results.append(await run(bridge, env, 80, seed=3))
    return results[0], results[1]


@pytest.mark.long
async def test_after_some_ends_a_bridge_sees_ends_sooner_with_no_more_polls(tmp_path: Path) -> None:
    """The bridges run one after the other. A busy machine may give one of them less time, so there are three tries."""
    tries = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        (fixed_wait, fixed_polls), (wait, polls) = results = await compare(folder)
        if wait < 0.85 * fixed_wait and polls <= fixed_polls * 1.02:
            return
        tries.append(results)
    pytest.fail(f"three times later, or with more polls: {tries}")
