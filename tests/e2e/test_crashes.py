"""Tests that nothing is lost: SIGKILL at a boundary between two steps, then a start on the same database.

After that, every watch has exactly one terminal event and at least one accepted delivery. All copies of an event have
the same id and bytes. No delivery is pending, and no task or watch is open (`check_all_delivered`).
"""

import random
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest

from bridge.sandbox import Behaviour, Fault, FaultKind, Outcome, Sandbox
from tests.e2e.bridges import (
    SHORT_LEASE,
    Bridge,
    Process,
    check_all_delivered,
    check_nothing_stuck,
    rows,
)
from tests.e2e.bridges import serving as serving_with_default_lease
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import Call, Receiver, accept, answer, hold

EVENTS = ["video.in_progress", "video.completed", "video.failed", "video.timed_out", "video.unavailable"]

# On PostgreSQL the second bridge takes the tasks over when the lease has expired, which adds seconds to each test.
TAKEOVER = (pytest.mark.long,)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=TAKEOVER)])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[Environment]:
    async with environment(database_url, clock=time.monotonic) as env:
        yield env


def serving(
    database_url: str, amux_url: str, hooks: Mapping[str, Any] | None = None, /, **settings: str
) -> AbstractAsyncContextManager[tuple[Process, Bridge]]:
    """Serves with a short lease. These tests do not depend on its length; tests/replicas measures the real times."""
    return serving_with_default_lease(database_url, amux_url, {**SHORT_LEASE, **(hooks or {})}, **settings)


def tasks_that_end(env: Environment) -> tuple[str, str]:
    """Creates a task that completes and one that fails."""
    soon = Behaviour(queue_seconds=0.1, run_seconds=0.6)
    return env.amux.create_task(replace(soon, form="ABCD")), env.amux.create_task(replace(soon, outcome=Outcome.FAILED))


async def register_all_kinds(bridge: Bridge, env: Environment, tasks: tuple[str, str] | None = None) -> list[str]:
    """Registers watches that complete, fail, share a task, have status events, and time out. Returns their ids."""
    shared, failing = tasks or tasks_that_end(env)
    url = env.receiver.url
    bodies: list[dict[str, Any]] = [
        {"task_id": shared, "callback_url": url + "/one", "events": EVENTS},
        {"task_id": shared, "callback_url": url + "/two"},
        {"task_id": failing, "callback_url": url},
        {"task_id": env.endless_task(), "callback_url": url, "timeout_seconds": 1},
    ]
    answer = await bridge.ask("POST", "/watch/batch", json={"watches": bodies})  # one commit writes all of them
    return [result["watch"]["id"] for result in answer.json["results"]]


def watch_ids(env: Environment) -> list[str]:
    return [row.id for row in rows(env.database_url, "SELECT id FROM watches")]


@dataclass
class ClockOfPolls:
    """amux's clock. It stays in the middle of the tasks until each was polled, so the first poll finds each running."""

    amux: Sandbox | None = None
    tasks: tuple[str, ...] = ()

    def __call__(self) -> float:
        if self.amux is None or not self.tasks:
            return 1000.0
        return 1060.0 if all(self.amux.polls[task] > 1 for task in self.tasks) else 1000.5


async def restart_and_check(env: Environment, watches: list[str], **settings: str) -> None:
    """Starts a bridge again, waits for the event of every watch, stops the bridge, and checks the database."""
    async with serving(env.database_url, env.amux_url, **settings) as (process, bridge):
        await env.receiver.wait_for_events(watches)
        # A delivery that a dead replica had claimed is due again when the claim expires. It may be sent a second time.
        await bridge.until("GET", "/watch?delivery_state=pending", lambda answer: answer.json["items"] == [])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()


# --- killed at a crash point --------------------------------------------------------------------------------------

CRASHES = [
    ("an end is written, not committed", 1),
    ("an end is committed", 1),
    ("an answer came back", 1),
    ("an attempt is written, not committed", 1),
    *(
        pytest.param(point, at, marks=pytest.mark.long)
        for point, at in (
            ("a status is observed", 1),
            ("a status is written, not committed", 1),
            ("a status is committed", 1),
            ("an end is observed", 1),
            ("an end is observed", 3),  # two watches are settled by then
            ("an end is committed", 3),
            ("a POST is about to leave", 1),
            ("a POST is about to leave", 3),
            ("an answer came back", 3),
            ("an attempt is about to be recorded", 2),
            ("an attempt is recorded", 1),
            ("an attempt is recorded", 3),
            ("an attempt is recorded", 4),
        )
    ),
]


@pytest.mark.parametrize(("point", "at"), CRASHES)
async def test_after_a_crash_every_watch_still_ends_once(database_url: str, point: str, at: int) -> None:
    clock = ClockOfPolls()
    async with environment(database_url, clock=clock) as env:
        tasks = tasks_that_end(env)
        clock.amux, clock.tasks = env.amux, tasks
        async with serving(env.database_url, env.amux_url, {"crash": point, "crash_at": at}) as (process, bridge):
            with suppress(aiohttp.ClientConnectionError):  # the crash may come before the answer
                await register_all_kinds(bridge, env, tasks)
            assert await process.wait_for_exit() == -signal.SIGKILL
        watches = watch_ids(env)
        assert len(watches) == 4
        await restart_and_check(env, watches)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("a registration is written, not committed", marks=pytest.mark.long),
        "a registration is committed, not answered",
    ],
)
async def test_after_a_crash_in_a_registration_a_repeated_request_has_one_watch(env: Environment, point: str) -> None:
    task = env.finished_task()
    body = {"task_id": task, "callback_url": env.receiver.url}
    async with serving(env.database_url, env.amux_url, {"crash": point}) as (process, bridge):
        with pytest.raises(aiohttp.ClientConnectionError):
            await bridge.ask("POST", "/watch", json=body, headers={"Idempotency-Key": "one"})
        assert await process.wait_for_exit() == -signal.SIGKILL
    late_polls = {"poll_first_delay_seconds": "1"}
    async with serving(env.database_url, env.amux_url, **late_polls) as (process, bridge):
        again = await bridge.ask("POST", "/watch", json=body, headers={"Idempotency-Key": "one"})
        assert again.status == 201, again  # the status of the first answer, even if it was never sent
        await env.receiver.wait_for_events([again.json["id"]])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    assert len(rows(env.database_url, "SELECT id FROM watches")) == 1
    check_all_delivered(env.database_url, [again.json["id"]])


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("a cancellation is written, not committed", marks=pytest.mark.long),
        "a cancellation is committed, not answered",
    ],
)
async def test_after_a_crash_in_a_cancellation_nothing_is_left_open(env: Environment, point: str) -> None:
    task = env.endless_task()
    async with serving(env.database_url, env.amux_url, {"crash": point}) as (process, bridge):
        watch = await bridge.register(task, env.receiver.url)
        with pytest.raises(aiohttp.ClientConnectionError):
            await bridge.ask("DELETE", f"/watch/{watch}")
        assert await process.wait_for_exit() == -signal.SIGKILL
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        again = await bridge.ask("DELETE", f"/watch/{watch}")
        assert (again.status, again.json["state"]) == (200, "cancelled")
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
    check_nothing_stuck(env.database_url)
    assert env.receiver.arrived == []


@pytest.mark.parametrize(
    "point", [pytest.param("a delivery is claimed, not committed", marks=pytest.mark.long), "a delivery is claimed"]
)
async def test_after_a_crash_in_a_claim_the_retry_is_still_sent(env: Environment, point: str) -> None:
    env.receiver.responder = answer(500)
    async with serving(env.database_url, env.amux_url, {"crash": point}) as (process, bridge):
        with suppress(aiohttp.ClientConnectionError):  # the crash may come before the answer
            await bridge.register(env.finished_task(), env.receiver.url)
        assert await process.wait_for_exit() == -signal.SIGKILL
    env.receiver.responder = accept
    [watch] = watch_ids(env)
    await restart_and_check(env, [watch])


@pytest.mark.long
async def test_a_crash_at_the_end_of_a_stop_loses_nothing(env: Environment) -> None:
    env.receiver.responder = answer(500)
    hooks = {"crash": "a stopping bridge has left"}
    async with serving(env.database_url, env.amux_url, hooks) as (process, bridge):
        watches = [await bridge.register(task, env.receiver.url) for task in (env.finished_task(), env.running_task(2))]
        await env.receiver.until(lambda: len(env.receiver.calls) >= 2)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == -signal.SIGKILL
    env.receiver.responder = accept
    await restart_and_check(env, watches)


# --- killed by the test -------------------------------------------------------------------------------------------


async def test_a_watch_survives_a_kill_after_its_201(env: Environment) -> None:
    late_polls = {"poll_first_delay_seconds": "600", "poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with serving(env.database_url, env.amux_url, **late_polls) as (process, bridge):
        watches = await register_all_kinds(bridge, env)
        await process.kill()
    assert env.amux.polls.total() == 0
    await restart_and_check(env, watches)


async def test_every_watch_ends_after_a_kill_during_its_poll(env: Environment) -> None:
    stalled = Fault(FaultKind.STALLED_BODY, seconds=600)
    tasks = [env.amux.create_task(Behaviour(0, 0, faults=(stalled,))) for _ in range(3)]
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.wait_for_polls(*tasks)
        await process.kill()
    await restart_and_check(env, watches)


async def test_a_post_after_a_kill_has_the_id_and_bytes_of_the_first_one(env: Environment) -> None:
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        await process.kill()
    env.receiver.responder = accept
    env.receiver.released.set()
    await restart_and_check(env, [watch])
    assert len(env.receiver.arrived) == 2


async def test_pending_retries_keep_their_schedule_after_a_kill(env: Environment) -> None:
    env.receiver.responder = answer(500)
    delays = {"delivery_retry_delays_seconds": "0.1,3,0.1,0.1"}
    async with serving(env.database_url, env.amux_url, **delays) as (process, bridge):
        watches = await bridge.register_many([env.finished_task() for _ in range(3)], env.receiver.url)
        await env.receiver.until(lambda: len(env.receiver.calls) == 6)
        for watch in watches:
            path = f"/watch/{watch}"
            await bridge.until("GET", path, lambda answer: answer.json["deliveries"][0]["attempts"] == 2)
        await process.kill()
    due = {row.id: row.due_at for row in rows(env.database_url, "SELECT id, due_at FROM outbox")}
    arrivals: dict[str, float] = {}

    async def record_arrival(_receiver: Receiver, call: Call) -> Any:
        arrivals[call.id] = time.time()
        return await accept(_receiver, call)

    env.receiver.responder = record_arrival
    await restart_and_check(env, watches, **delays)
    assert {id_: at >= due[id_] for id_, at in arrivals.items()} == dict.fromkeys(due, True)
    assert len(env.receiver.arrived) == 9
    attempts = rows(env.database_url, "SELECT attempts FROM deliveries")
    assert {row.attempts for row in attempts} == {3}


async def test_a_stopping_bridge_records_its_post_before_the_exit(env: Environment) -> None:
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        running = await bridge.register(env.endless_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        process.signal(signal.SIGTERM)
        await process.wait_for_log("draining")
        env.receiver.released.set()
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    [delivery] = rows(env.database_url, "SELECT state, watch_id FROM deliveries")
    assert (delivery.state, delivery.watch_id) == ("delivered", watch)
    [left] = rows(env.database_url, "SELECT id FROM watches WHERE state = 'active'")
    assert left.id == running
    check_nothing_stuck(env.database_url)


async def test_a_stop_with_a_hanging_receiver_takes_its_limit_and_the_event_is_sent_again(env: Environment) -> None:
    env.receiver.responder = hold
    limit = {"drain_timeout_seconds": "1", "delivery_timeout_seconds": "30"}
    async with serving(env.database_url, env.amux_url, **limit) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        process.signal(signal.SIGTERM)
        stopped = await process.wait_for_log("stopped")
        assert stopped["seconds"] < 15  # 1 s, plus the delays of a slow machine
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    env.receiver.responder = accept
    await restart_and_check(env, [watch])


@pytest.mark.long
async def test_kills_at_random_moments_lose_nothing(env: Environment) -> None:
    randomness = random.Random(7)
    watches: list[str] = []

    async def accept_most(_receiver: Receiver, call: Call) -> Any:
        return await (accept if randomness.random() < 0.7 else answer(503))(_receiver, call)

    env.receiver.responder = accept_most
    for _ in range(12):
        async with serving(env.database_url, env.amux_url) as (process, bridge):
            for _ in range(3):
                watches += await register_all_kinds(bridge, env)
            polls = env.amux.polls.total() + randomness.randrange(60)
            arrived = len(env.receiver.arrived) + randomness.randrange(12)
            bound = time.monotonic() + 3
            while env.amux.polls.total() < polls and len(env.receiver.arrived) < arrived:
                if time.monotonic() > bound:
                    break
                await bridge.get("/healthz")
            await process.kill()
    env.receiver.responder = accept
    await restart_and_check(env, watches)
