"""Tests that every replica answers correctly, and that one wins when several do the same or the opposite at once."""

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from bridge.sandbox import Behaviour
from tests.databases import PostgresServer
from tests.e2e.bridges import APP, check_all_delivered, check_nothing_stuck, rows
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import Call, Receiver, accept, answer
from tests.replicas.harness import Cluster, ReplicaProcess, owners, run_cluster, wait_until
from tests.waiting import SAFETY_SECONDS


async def test_a_watch_registered_at_four_replicas_at_once_is_one_watch(env: Environment, cluster: Cluster) -> None:
    replicas = [await cluster.start() for _ in range(4)]
    watches: list[str] = []
    for _ in range(5):
        body = {"task_id": env.running_task(), "callback_url": env.receiver.url}
        answers = await asyncio.gather(*(one.bridge.ask("POST", "/watch", json=body) for one in replicas))
        assert Counter(one.status for one in answers) == {201: 1, 200: 3}
        [watch] = {one.json["id"] for one in answers}
        watches.append(watch)
    assert len(rows(env.database_url, "SELECT id FROM watches")) == 5
    env.clock.now += 11
    await env.receiver.wait_for_events(watches)
    await asyncio.gather(*(one.stop() for one in replicas))
    check_all_delivered(env.database_url, watches)
    assert len(env.receiver.arrived) == 5


async def test_every_replica_answers_for_every_watch(env: Environment, cluster: Cluster) -> None:
    """`GET`, long polls and event streams work on every replica, not only on the owner of the task."""
    replicas = [await cluster.start() for _ in range(3)]
    watch = await replicas[0].bridge.register(env.running_task(), env.receiver.url)
    for one in replicas:
        assert (await one.bridge.watch(watch))["state"] == "active"

    started = asyncio.Barrier(4)

    async def streamed(one: ReplicaProcess) -> list[str]:
        lines: list[str] = []
        async with one.bridge.session.get(f"{one.bridge.url}/watch/{watch}/events", headers=APP) as stream:
            async for line in stream.content:
                if line.startswith(b"data:"):
                    lines.append(line.decode().removeprefix("data:"))
                if len(lines) == 1 and not line.strip():
                    await started.wait()
        return lines

    waiting = [asyncio.create_task(one.bridge.final(watch)) for one in replicas]
    streams = [asyncio.create_task(streamed(one)) for one in replicas]
    async with asyncio.timeout(SAFETY_SECONDS):
        await started.wait()  # each stream has sent the active watch, so the next changes happen while they wait
    env.clock.now += 11
    for final in await asyncio.gather(*waiting):
        assert (final["state"], final["outcome"]) == ("settled", "completed")
    for lines in await asyncio.gather(*streams):
        assert [json.loads(lines[place])["state"] for place in (0, -1)] == ["active", "settled"]
    cancelled = await replicas[0].bridge.register(env.endless_task(), env.receiver.url)
    waiting = [asyncio.create_task(one.bridge.final(cancelled)) for one in replicas]
    assert (await replicas[2].bridge.ask("DELETE", f"/watch/{cancelled}")).status == 200
    assert {final["state"] for final in await asyncio.gather(*waiting)} == {"cancelled"}
    await asyncio.gather(*(one.stop() for one in replicas))
    check_nothing_stuck(env.database_url)


async def accept_at_marker(receiver: Receiver, call: Call) -> web.StreamResponse:
    return await (accept if call.path == "/hook/marker" else answer(503))(receiver, call)


async def test_cancelling_at_a_replica_that_is_not_the_owner_stops_all_work(env: Environment, cluster: Cluster) -> None:
    """After the answer no attempt begins, and the owner stops its polls when it next looks for changes."""
    retries = {"delivery_retry_delays_seconds": ",".join(["0.1"] * 600)}
    one, two = await cluster.start(**retries), await cluster.start(**retries)
    env.receiver.responder = accept_at_marker
    tasks = [env.endless_task() for _ in range(20)]
    events = ["video.completed", "video.in_progress"]
    watches = await one.bridge.register_many(tasks, env.receiver.url, events=events)
    await env.wait_for_polls(*tasks)
    await env.receiver.until(lambda: bool(env.receiver.calls))
    answers = await asyncio.gather(*(two.bridge.ask("DELETE", f"/watch/{watch}") for watch in watches))
    assert {one.status for one in answers} == {200}
    sent = Counter(call.watch_id for call in env.receiver.arrived)
    await one.bridge.until("GET", "/metrics", lambda answer: b"owned_tasks 0.0" in answer.body)
    polls: list[int] = []
    for _ in range(2):  # after the first marker, polls and attempts that were under way have ended
        marker = await one.bridge.register(env.finished_task(), f"{env.receiver.url}/marker")
        await env.receiver.wait_for_events([marker])
        polls.append(sum(env.amux.polls[task] for task in tasks))
    assert polls[0] == polls[1]
    later = Counter(call.watch_id for call in env.receiver.arrived if call.path != "/hook/marker") - sent
    assert max(later.values(), default=0) <= 1, later  # one attempt of a watch may have been under way
    await asyncio.gather(one.stop(), two.stop())
    check_nothing_stuck(env.database_url)


@pytest.mark.long
async def test_of_cancellation_deadline_and_settlement_exactly_one_wins(postgres_server: PostgresServer) -> None:
    """All three happen within one second. The cancellation goes to another replica than the registration."""
    randomness = random.Random(5)
    async with (
        environment(postgres_server.migrated(), clock=time.monotonic) as env,
        run_cluster(env) as cluster,
    ):
        replicas = [await cluster.start() for _ in range(3)]

        async def race(place: int) -> tuple[str, int]:
            task = env.amux.create_task(Behaviour(queue_seconds=0, run_seconds=1 + randomness.random()))
            timeout, moment = 1 + randomness.random(), 1 + randomness.random()
            one, other = replicas[place % 3], replicas[(place + 1) % 3]
            watch = await one.bridge.register(task, env.receiver.url, timeout_seconds=timeout)
            await asyncio.sleep(moment)  # until the moment of the cancellation
            return watch, (await other.bridge.ask("DELETE", f"/watch/{watch}")).status

        answers = dict(await asyncio.gather(*map(race, range(120))))
        ends = {watch: await replicas[0].bridge.final(watch) for watch in answers}
        expected = {200: "cancelled", 409: "settled"}
        assert {watch: end["state"] for watch, end in ends.items()} == {
            watch: expected[status] for watch, status in answers.items()
        }
        assert {end["outcome"] for end in ends.values()} == {None, "completed", "timed_out"}
        settled = [watch for watch, end in ends.items() if end["state"] == "settled"]
        await env.receiver.wait_for_events(settled)
        await asyncio.gather(*(one.stop() for one in replicas))
        check_nothing_stuck(env.database_url)
        env.receiver.check_copies()
        assert env.receiver.ended_watches == set(settled)


@pytest.mark.long
async def test_a_watch_registered_while_its_task_settles_is_settled_too(env: Environment, cluster: Cluster) -> None:
    one, two = await cluster.start(), await cluster.start()

    async def register_twice(place: int) -> list[str]:
        task = env.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0))
        first = await one.bridge.register(task, env.receiver.url + "/one")
        await asyncio.sleep(place % 10 * 0.02)  # the task settles some 50-100 ms after it was registered
        return [first, await two.bridge.register(task, env.receiver.url + "/two")]

    watches: list[str] = []
    for first in range(0, 100, 20):
        for found in await asyncio.gather(*(register_twice(first + place) for place in range(20))):
            watches += found
    await env.receiver.wait_for_events(watches)
    await one.stop()
    await two.stop()
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()


@pytest.mark.long
async def test_a_new_replica_gets_its_share_of_new_tasks(env: Environment, cluster: Cluster) -> None:
    one = await cluster.start()
    await one.bridge.register_many([env.endless_task() for _ in range(60)], env.receiver.url)
    two = await cluster.start()
    loads = "SELECT owned_tasks FROM replicas WHERE id = :one"
    await wait_until(lambda: rows(env.database_url, loads, one=one.name)[0].owned_tasks == 60, "a heartbeat's load")
    new = [env.running_task() for _ in range(30)]
    watches = await one.bridge.register_many(new, env.receiver.url)
    found = owners(env)
    assert Counter(found[task] for task in new)[two.name] >= 20
    await env.wait_for_polls(*new)
    env.clock.now += 11
    await env.receiver.wait_for_events(watches)
    await one.stop()
    await two.stop()
    check_nothing_stuck(env.database_url)


@pytest.mark.long
async def test_a_burst_over_all_replicas_stays_spread(env: Environment, cluster: Cluster) -> None:
    """Replicas learn each other's load only every few seconds. Until then, not all tasks may go to one replica."""
    replicas = [await cluster.start() for _ in range(3)]
    for _ in range(10):
        tasks = [[env.endless_task() for _ in range(10)] for _ in replicas]
        await asyncio.gather(
            *(one.bridge.register_many(own, env.receiver.url) for one, own in zip(replicas, tasks, strict=True))
        )
    found = Counter(owners(env).values())
    assert min(found[one.name] for one in replicas) > 50, found
    await asyncio.gather(*(one.stop() for one in replicas))


@pytest.mark.long
async def test_clocks_two_minutes_apart_change_nothing(env: Environment, cluster: Cluster, tmp_path: Path) -> None:
    replicas = []
    for seconds in (-60, 60):
        clock = tmp_path / f"clock{seconds}"
        clock.write_text(f"{seconds:<24}")
        replicas.append(await cluster.start({"clock": str(clock)}))
    env.receiver.responder = answer(500)
    database_now = float(rows(env.database_url, "SELECT extract(epoch FROM clock_timestamp()) AS now")[0].now)
    ended, late = [], []
    for one in replicas:
        ended.append(await one.bridge.register(env.finished_task(), env.receiver.url))
        late.append(await one.bridge.register(env.endless_task(), env.receiver.url, timeout_seconds=4))
    await env.receiver.until(lambda: len({call.id for call in env.receiver.calls}) >= 4)
    env.receiver.responder = accept
    await env.receiver.wait_for_events([*ended, *late])
    for row in rows(env.database_url, "SELECT id, created_at, deadline_at, ended_at FROM watches"):
        assert database_now - 1 < row.created_at < database_now + 30
        assert row.id in ended or row.ended_at >= row.deadline_at
    for one in replicas:
        assert not [
            *one.log_lines("replica_rejoined"),
            *one.log_lines("lease_expired"),
            *one.log_lines("tasks_adopted"),
        ]
        await one.stop()
    check_all_delivered(env.database_url, [*ended, *late])
