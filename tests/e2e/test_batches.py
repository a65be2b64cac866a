"""Batches take at most an eighth of the requests for recorded tasks, and a bridge sees their ends no later."""

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from bridge.sandbox import Behaviour, Outcome, Platform
from tests.databases import empty_file
from tests.e2e.bridges import runtime
from tests.e2e.harness import environment

# All times are a tenth of the defaults.
SETTINGS = {
    "poll_first_delay_seconds": "0.5",
    "poll_interval_seconds": "0.5",
    "poll_max_interval_seconds": "1.5",
    "amux_batch_interval_seconds": "0.2",
    "poll_learn": "false",
}
TASKS = 60
RUNNING = Behaviour(queue_seconds=0, outcome=Outcome.NEVER, platform=Platform.KLING)
ENDED = replace(RUNNING, run_seconds=0, outcome=Outcome.COMPLETED)


@pytest.mark.long
async def test_recorded_tasks_take_eight_times_fewer_requests_and_are_seen_no_later(tmp_path: Path) -> None:
    requests, waits = {}, {}
    for lane in ("off", "auto"):
        database_url = f"sqlite:///{empty_file(tmp_path / f'{lane}.db')}"
        async with (
            environment(database_url, clock=time.monotonic, sweep_seconds=0.05) as env,
            runtime(database_url, env.amux_url, amux_batch=lane, **SETTINGS) as bridge,
        ):
            began = time.monotonic()
            tasks = [env.amux.create_task(RUNNING) for _ in range(TASKS)]
            watches = [await bridge.register(task_id, env.receiver.url) for task_id in tasks]
            if lane == "off":
                await env.wait_for_polls(*tasks, more=6)
            else:
                for task_id in tasks:
                    await env.amux.batches.read.reached(task_id, 25)
            for task_id in tasks:
                env.amux.change(task_id, ENDED)
            ended_at = time.time()
            found = [await bridge.final(watch_id) for watch_id in watches]
            sent = env.amux.polls.total() + env.amux.batches.requests
            requests[lane] = sent / (time.monotonic() - began)
            seen = [datetime.fromisoformat(watch["timing"]["seen_at"]).timestamp() - ended_at for watch in found]
            waits[lane] = sum(seen) / TASKS
            assert (env.amux.batches.requests > 0) is (lane == "auto")
    assert requests["auto"] <= requests["off"] / 8, requests
    assert waits["auto"] <= waits["off"] + 0.1, waits
