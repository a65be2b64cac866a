"""Attacks "any replica answers right, and one wins" with several that do the same, or the opposite, at once."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.sandbox import Behaviour
from tests.databases import PostgresServer
from tests.e2e.bridges import APP, check_all_ended, check_nothing_stuck, rows
from tests.e2e.harness import World, world
from tests.e2e.receiver import SAFETY_SECONDS, accept, answer
from tests.replicas.harness import Crowd, Member, crowded, owners, until


@pytest.fixture
async def around(postgres_server: PostgresServer) -> AsyncIterator[World]:
    async with world(postgres_server.migrated()) as made:
        yield made


@pytest.fixture
async def crowd(around: World) -> AsyncIterator[Crowd]:
    async with crowded(around) as made:
        yield made


async def test_the_same_watch_registered_at_four_at_once_is_one(around: World, crowd: Crowd) -> None:
    members = [await crowd.join() for _ in range(4)]
    watches: list[str] = []
    for _ in range(5):
        body = {"task_id": around.running(), "callback_url": around.receiver.url}
        told = await asyncio.gather(*(one.bridge.ask("POST", "/watch", json=body) for one in members))
        assert Counter(one.status for one in told) == {201: 1, 200: 3}
        [watch] = {one.json["id"] for one in told}
        watches.append(watch)
    assert len(rows(around.database_url, "SELECT id FROM watches")) == 5
    around.stages.now += 11
    await around.receiver.has(watches)
    await asyncio.gather(*(one.stop() for one in members))
    check_all_ended(around.database_url, watches)
    assert len(around.receiver.arrived) == 5


async def test_every_replica_answers_for_every_watch(around: World, crowd: Crowd) -> None:
    """`GET`, long polls and event streams, whoever polls the task."""
    members = [await crowd.join() for _ in range(3)]
    watch = await members[0].bridge.register(around.running(), around.receiver.url)
    for one in members:
        assert (await one.bridge.watch(watch))["state"] == "active"

    begun = asyncio.Barrier(4)

    async def streamed(one: Member) -> list[str]:
        lines: list[str] = []
        async with one.bridge.session.get(f"{one.bridge.url}/watch/{watch}/events", headers=APP) as stream:
            async for line in stream.content:
                if line.startswith(b"data:"):
                    lines.append(line.decode().removeprefix("data:"))
                if len(lines) == 1 and not line.strip():
                    await begun.wait()
        return lines

    waiting = [asyncio.create_task(one.bridge.final(watch)) for one in members]
    streams = [asyncio.create_task(streamed(one)) for one in members]
    async with asyncio.timeout(SAFETY_SECONDS):
        await begun.wait()  # each has told of the active watch: what comes now comes while they wait
    around.stages.now += 11
    for told in await asyncio.gather(*waiting):
        assert (told["state"], told["outcome"]) == ("settled", "completed")
    for lines in await asyncio.gather(*streams):
        assert [json.loads(lines[place])["state"] for place in (0, -1)] == ["active", "settled"]
    cancelled = await members[0].bridge.register(around.never(), around.receiver.url)
    waiting = [asyncio.create_task(one.bridge.final(cancelled)) for one in members]
    assert (await members[2].bridge.ask("DELETE", f"/watch/{cancelled}")).status == 200
    assert {told["state"] for told in await asyncio.gather(*waiting)} == {"cancelled"}
    await asyncio.gather(*(one.stop() for one in members))
    check_nothing_stuck(around.database_url)


@pytest.mark.long
async def test_cancel_deadline_and_settlement_race_and_one_wins(postgres_server: PostgresServer) -> None:
    """All three within the same second, asked of another replica than the one that polls."""
    chance = random.Random(5)
    async with (
        world(postgres_server.migrated(), clock=time.monotonic) as around,
        crowded(around) as crowd,
    ):
        members = [await crowd.join() for _ in range(3)]

        async def race(place: int) -> tuple[str, int]:
            task = around.amux.create_task(Behaviour(queue_seconds=0, run_seconds=1 + chance.random()))
            timeout, moment = 1 + chance.random(), 1 + chance.random()
            one, other = members[place % 3], members[(place + 1) % 3]
            watch = await one.bridge.register(task, around.receiver.url, timeout_seconds=timeout)
            await asyncio.sleep(moment)  # until the cancellation's own moment
            return watch, (await other.bridge.ask("DELETE", f"/watch/{watch}")).status

        answers = dict(await asyncio.gather(*map(race, range(120))))
        ends = {watch: await members[0].bridge.final(watch) for watch in answers}
        wanted = {200: "cancelled", 409: "settled"}
        assert {watch: end["state"] for watch, end in ends.items()} == {
            watch: wanted[status] for watch, status in answers.items()
        }
        assert {end["outcome"] for end in ends.values()} == {None, "completed", "timed_out"}
        settled = [watch for watch, end in ends.items() if end["state"] == "settled"]
        await around.receiver.has(settled)
        await asyncio.gather(*(one.stop() for one in members))
        check_nothing_stuck(around.database_url)
        around.receiver.check_copies()
        assert around.receiver.ended_watches == set(settled)


@pytest.mark.long
async def test_a_watch_registered_while_another_settles_its_task_is_not_stranded(around: World, crowd: Crowd) -> None:
    one, two = await crowd.join(), await crowd.join()

    async def both(place: int) -> list[str]:
        task = around.amux.create_task(Behaviour(queue_seconds=0, run_seconds=0))
        first = await one.bridge.register(task, around.receiver.url + "/one")
        await asyncio.sleep(place % 10 * 0.02)  # the task settles some 50-100 ms after it was registered
        return [first, await two.bridge.register(task, around.receiver.url + "/two")]

    watches: list[str] = []
    for first in range(0, 100, 20):
        for found in await asyncio.gather(*(both(first + place) for place in range(20))):
            watches += found
    await around.receiver.has(watches)
    await one.stop()
    await two.stop()
    check_all_ended(around.database_url, watches)
    around.receiver.check_copies()


@pytest.mark.long
async def test_one_that_joins_takes_a_share_of_new_tasks(around: World, crowd: Crowd) -> None:
    one = await crowd.join()
    await one.bridge.register_many([around.never() for _ in range(60)], around.receiver.url)
    two = await crowd.join()
    loads = "SELECT owned_tasks FROM replicas WHERE id = :one"
    await until(lambda: rows(around.database_url, loads, one=one.name)[0].owned_tasks == 60, "a heartbeat's load")
    new = [around.running() for _ in range(30)]
    watches = await one.bridge.register_many(new, around.receiver.url)
    found = owners(around)
    assert Counter(found[task] for task in new)[two.name] >= 20
    await around.polled(*new)
    around.stages.now += 11
    await around.receiver.has(watches)
    await one.stop()
    await two.stop()
    check_nothing_stuck(around.database_url)


@pytest.mark.long
async def test_a_burst_through_all_of_them_stays_where_it_came(around: World, crowd: Crowd) -> None:
    """What the others have is told every few seconds: acting on it in between would send all to one."""
    members = [await crowd.join() for _ in range(3)]
    for _ in range(10):
        tasks = [[around.never() for _ in range(10)] for _ in members]
        await asyncio.gather(
            *(one.bridge.register_many(own, around.receiver.url) for one, own in zip(members, tasks, strict=True))
        )
    found = Counter(owners(around).values())
    assert min(found[one.name] for one in members) > 50, found
    await asyncio.gather(*(one.stop() for one in members))


@pytest.mark.long
async def test_clocks_that_are_two_minutes_apart_change_nothing(around: World, crowd: Crowd, tmp_path: Path) -> None:
    members = []
    for seconds in (-60, 60):
        clock = tmp_path / f"clock{seconds}"
        clock.write_text(f"{seconds:<24}")
        members.append(await crowd.join({"clock": str(clock)}))
    around.receiver.answering = answer(500)
    true = float(rows(around.database_url, "SELECT extract(epoch FROM clock_timestamp()) AS now")[0].now)
    ended, late = [], []
    for one in members:
        ended.append(await one.bridge.register(around.done(), around.receiver.url))
        late.append(await one.bridge.register(around.never(), around.receiver.url, timeout_seconds=4))
    await around.receiver.until(lambda: len({call.id for call in around.receiver.calls}) >= 4)
    around.receiver.answering = accept
    await around.receiver.has([*ended, *late])
    for row in rows(around.database_url, "SELECT id, created_at, deadline_at, ended_at FROM watches"):
        assert true - 1 < row.created_at < true + 30
        assert row.id in ended or row.ended_at >= row.deadline_at
    for one in members:
        assert not [*one.told("rejoined"), *one.told("lease_expired"), *one.told("tasks_adopted")]
        await one.stop()
    check_all_ended(around.database_url, [*ended, *late])
