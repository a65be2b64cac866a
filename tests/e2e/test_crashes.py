"""Attacks "nothing is lost": SIGKILL at every boundary between two things, and a start on the same database.

Afterwards every watch has exactly one terminal event, at least one accepted delivery, the same id and bytes on every
copy, and nothing is pending, stranded or open (`check_all_delivered`).
"""

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.sandbox import Behaviour, Fault, FaultKind, Outcome
from tests.databases import PostgresServer
from tests.e2e.bridges import (
    SHORT_LEASE,
    Bridge,
    Process,
    check_all_delivered,
    check_nothing_stuck,
    connect_to,
    process,
    rows,
)
from tests.e2e.bridges import serving as serving_for_long
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import Call, Receiver, accept, answer, hold

EVENTS = ["video.in_progress", "video.completed", "video.failed", "video.timed_out", "video.unavailable"]

# A dead replica's tasks are taken over when its lease has ended: seconds for each of these.
TAKEN_OVER = (pytest.mark.long,)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=TAKEN_OVER)])
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
    """With a short lease: what is lost does not depend on its length, and the times are kept in tests/replicas."""
    return serving_for_long(database_url, amux_url, {**SHORT_LEASE, **(hooks or {})}, **settings)


async def register_all_kinds(bridge: Bridge, env: Environment) -> list[str]:
    """Watches that complete, fail, share a task, ask for status events and time out; their ids."""
    soon = Behaviour(queue_seconds=0.1, run_seconds=0.3)
    shared = env.amux.create_task(replace(soon, form="ABCD"))
    failing = env.amux.create_task(replace(soon, outcome=Outcome.FAILED))
    url = env.receiver.url
    return [
        await bridge.register(shared, url + "/one", events=EVENTS),
        await bridge.register(shared, url + "/two"),
        await bridge.register(failing, url),
        await bridge.register(env.endless_task(), url, timeout_seconds=1),
    ]


async def restart_and_check(env: Environment, watches: list[str], **settings: str) -> None:
    """Start anew, see every watch to its end, stop in good order, and look at what is in the database."""
    async with serving(env.database_url, env.amux_url, **settings) as (process, bridge):
        await env.receiver.wait_for_events(watches)
        # What a dead replica had claimed is due again when its lease has ended: sent twice, and then recorded.
        await bridge.until("GET", "/watch?delivery_state=pending", lambda answer: answer.json["items"] == [])
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()


# --- killed from within -------------------------------------------------------------------------------------------

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
            ("an end is observed", 3),  # two watches have ended before
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
async def test_killed_on_the_way_every_watch_still_ends_once(env: Environment, point: str, at: int) -> None:
    hooks = {"crash": point, "crash_at": at}
    # Slow first polls: everything is registered before the point is reached.
    settings = {"poll_first_delay_seconds": "0.3"}
    async with serving(env.database_url, env.amux_url, hooks, **settings) as (process, bridge):
        watches = await register_all_kinds(bridge, env)
        assert await process.wait_for_exit() == -signal.SIGKILL
    await restart_and_check(env, watches)


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("a registration is written, not committed", marks=pytest.mark.long),
        "a registration is committed, not answered",
    ],
)
async def test_killed_while_registering_the_app_asks_again_and_has_one_watch(env: Environment, point: str) -> None:
    task = env.finished_task()
    body = {"task_id": task, "callback_url": env.receiver.url}
    async with serving(env.database_url, env.amux_url, {"crash": point}) as (process, bridge):
        with pytest.raises(aiohttp.ClientConnectionError):
            await bridge.ask("POST", "/watch", json=body, headers={"Idempotency-Key": "one"})
        assert await process.wait_for_exit() == -signal.SIGKILL
    slow = {"poll_first_delay_seconds": "1"}
    async with serving(env.database_url, env.amux_url, **slow) as (process, bridge):
        again = await bridge.ask("POST", "/watch", json=body, headers={"Idempotency-Key": "one"})
        assert again.status == 201, again  # the first answer's status, whichever start gave it
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
async def test_killed_while_cancelling_nothing_is_left_open(env: Environment, point: str) -> None:
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
async def test_killed_while_claiming_a_retry_it_is_sent_all_the_same(env: Environment, point: str) -> None:
    env.receiver.responder = answer(500)
    async with serving(env.database_url, env.amux_url, {"crash": point}) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        assert await process.wait_for_exit() == -signal.SIGKILL
    env.receiver.responder = accept
    await restart_and_check(env, [watch])


@pytest.mark.long
async def test_killed_at_the_very_end_of_a_stop_nothing_is_lost(env: Environment) -> None:
    env.receiver.responder = answer(500)
    hooks = {"crash": "a stopping bridge has left"}
    async with serving(env.database_url, env.amux_url, hooks) as (process, bridge):
        watches = [await bridge.register(task, env.receiver.url) for task in (env.finished_task(), env.running_task(2))]
        await env.receiver.until(lambda: len(env.receiver.calls) >= 2)
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == -signal.SIGKILL
    env.receiver.responder = accept
    await restart_and_check(env, watches)


# --- killed from outside ------------------------------------------------------------------------------------------


async def test_killed_after_the_201_the_watch_is_there(env: Environment) -> None:
    slow = {"poll_first_delay_seconds": "600", "poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with serving(env.database_url, env.amux_url, **slow) as (process, bridge):
        watches = await register_all_kinds(bridge, env)
        await process.kill()
    assert env.amux.polls.total() == 0
    await restart_and_check(env, watches)


async def test_killed_during_a_poll_every_watch_still_ends(env: Environment) -> None:
    stalled = Fault(FaultKind.STALLED_BODY, seconds=600)
    tasks = [env.amux.create_task(Behaviour(0, 0, faults=(stalled,))) for _ in range(3)]
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.wait_for_polls(*tasks)
        await process.kill()
    await restart_and_check(env, watches)


async def test_killed_while_the_receiver_holds_the_post_a_second_one_has_its_id_and_bytes(env: Environment) -> None:
    env.receiver.responder = hold
    async with serving(env.database_url, env.amux_url) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        await process.kill()
    env.receiver.responder = accept
    env.receiver.released.set()
    await restart_and_check(env, [watch])
    assert len(env.receiver.arrived) == 2


async def test_killed_with_retries_pending_they_go_on_on_their_schedule(env: Environment) -> None:
    env.receiver.responder = answer(500)
    delays = {"delivery_retry_delays_seconds": "0.1,3,0.1,0.1"}
    async with serving(env.database_url, env.amux_url, **delays) as (process, bridge):
        watches = await bridge.register_many([env.finished_task() for _ in range(3)], env.receiver.url)
        await env.receiver.until(lambda: len(env.receiver.calls) == 6)
        for watch in watches:
            path = f"/watch/{watch}"
            await bridge.until("GET", path, lambda told: told.json["deliveries"][0]["attempts"] == 2)
        await process.kill()
    due = {row.id: row.due_at for row in rows(env.database_url, "SELECT id, due_at FROM outbox")}
    arrivals: dict[str, float] = {}

    async def accepting(_receiver: Receiver, call: Call) -> Any:
        arrivals[call.id] = time.time()
        return await accept(_receiver, call)

    env.receiver.responder = accepting
    await restart_and_check(env, watches, **delays)
    assert {id_: at >= due[id_] for id_, at in arrivals.items()} == dict.fromkeys(due, True)
    assert len(env.receiver.arrived) == 9
    attempts = rows(env.database_url, "SELECT attempts FROM deliveries")
    assert {row.attempts for row in attempts} == {3}


async def test_terminated_with_a_post_under_way_it_is_recorded_before_the_exit(env: Environment) -> None:
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


async def test_terminated_while_a_receiver_hangs_it_ends_within_its_limit_and_sends_again(env: Environment) -> None:
    env.receiver.responder = hold
    limit = {"drain_timeout_seconds": "1", "delivery_timeout_seconds": "30"}
    async with serving(env.database_url, env.amux_url, **limit) as (process, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        process.signal(signal.SIGTERM)
        stopped = await process.wait_for_log("stopped")
        assert stopped["seconds"] < 4  # 1 s, and what a slow machine adds
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    env.receiver.responder = accept
    await restart_and_check(env, [watch])


@pytest.mark.long
async def test_killed_again_and_again_at_any_moment_nothing_is_lost(env: Environment) -> None:
    chance = random.Random(7)
    watches: list[str] = []

    async def sometimes(_receiver: Receiver, call: Call) -> Any:
        return await (accept if chance.random() < 0.7 else answer(503))(_receiver, call)

    env.receiver.responder = sometimes
    for _ in range(12):
        async with serving(env.database_url, env.amux_url) as (process, bridge):
            for _ in range(3):
                watches += await register_all_kinds(bridge, env)
            polls = env.amux.polls.total() + chance.randrange(60)
            arrived = len(env.receiver.arrived) + chance.randrange(12)
            bound = time.monotonic() + 3
            while env.amux.polls.total() < polls and len(env.receiver.arrived) < arrived:
                if time.monotonic() > bound:
                    break
                await bridge.get("/healthz")
            await process.kill()
    env.receiver.responder = accept
    await restart_and_check(env, watches)


# --- the first start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [
        "the key file is empty",
        "the schema is half made",
        pytest.param("the schema is made, not committed", marks=pytest.mark.long),
        pytest.param("the schema is committed", marks=pytest.mark.long),
        pytest.param("the database is open", marks=pytest.mark.long),
    ],
)
async def test_killed_during_the_first_start_the_second_one_serves(tmp_path: Path, point: str) -> None:
    database_url = f"sqlite:///{tmp_path}/new.db"
    async with environment(database_url, clock=time.monotonic) as env:
        own = {"encryption_keys": "", "signing_secrets": ""}
        async with process(database_url, env.amux_url, {"crash": point}, **own) as started:
            assert await started.wait_for_exit() == -signal.SIGKILL
        async with process(database_url, env.amux_url, **own) as started:
            listening = await started.wait_for_log("listening")
            async with connect_to(listening["url"]) as bridge:
                watch = await bridge.register(env.finished_task(), env.receiver.url)
                await env.receiver.wait_for_events([watch])
            started.signal(signal.SIGTERM)
            assert await started.wait_for_exit() == 0
        check_all_delivered(database_url, [watch])
        with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.long
@pytest.mark.parametrize(
    "point",
    ["the schema is half made", "the schema is made, not committed", "the schema is committed", "the database is open"],
)
async def test_killed_during_the_first_start_on_postgresql_the_second_one_serves(
    postgres_server: PostgresServer, point: str
) -> None:
    async with environment(postgres_server.empty(), clock=time.monotonic) as env:
        async with process(env.database_url, env.amux_url, {"crash": point}) as started:
            assert await started.wait_for_exit() == -signal.SIGKILL
        async with serving(env.database_url, env.amux_url) as (started, bridge):
            watch = await bridge.register(env.finished_task(), env.receiver.url)
            await env.receiver.wait_for_events([watch])
            started.signal(signal.SIGTERM)
            assert await started.wait_for_exit() == 0
        check_all_delivered(env.database_url, [watch])
        env.receiver.check_copies()


async def test_four_starts_at_once_on_one_file_leave_one_that_serves(tmp_path: Path) -> None:
    database_url = f"sqlite:///{tmp_path}/new.db"

    async def start() -> str:
        async with process(database_url, "http://127.0.0.1:9") as started:
            told = asyncio.ensure_future(started.wait_for_log("listening"))
            refused = asyncio.ensure_future(started.wait_for_log("refused"))
            done, waiting = await asyncio.wait({told, refused}, return_when=asyncio.FIRST_COMPLETED)
            for one in waiting:
                one.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            line = done.pop().result()
            if line["event"] == "refused":
                return str(line["reason"])
            serving_one.set()
            await others_done.wait()
            return "serving"

    serving_one, others_done = asyncio.Event(), asyncio.Event()
    starts = [asyncio.create_task(start()) for _ in range(4)]
    await asyncio.wait_for(serving_one.wait(), 40)
    pending = set(starts)
    while len(pending) > 1:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED, timeout=40)
    others_done.set()
    told = sorted(await asyncio.gather(*starts))
    assert told.count("serving") == 1
    assert all("another bridge serves from" in reason for reason in told if reason != "serving"), told
