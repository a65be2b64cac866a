"""Following a watch by server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.core.delivery import Delivered
from bridge.core.model import Attempt, PendingDelivery, TaskSnapshot, TaskStatus
from bridge.store.records import AttemptResult
from bridge.web.context import StreamTimes
from tests.web.harness import APP, OPERATOR, OTHER, RUNNING, Bridge, give_up, live_task, running_bridge

QUICK = StreamTimes(check_seconds=0.01)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(tmp_path, times=QUICK) as running:
        yield running


@dataclass
class Told:
    """One event."""

    name: str
    id: str
    data: Any


@dataclass
class Reader:
    """A stream, read event by event."""

    response: aiohttp.ClientResponse
    comments: int = 0

    async def next(self) -> Told:
        """The next event; raises StopAsyncIteration at the stream's end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(20):
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    if "event" in fields:
                        return Told(fields["event"], fields["id"], json.loads(fields["data"]))
                elif line.startswith(":"):
                    self.comments += 1
                else:
                    name, _, value = line.rstrip("\n").partition(": ")
                    fields[name] = value
        raise StopAsyncIteration

    async def rest(self) -> list[Told]:
        """All that is still to come."""
        found = []
        try:
            while True:
                found.append(await self.next())
        except StopAsyncIteration:
            return found


@asynccontextmanager
async def following(bridge: Bridge, watch_id: str, **headers: str) -> AsyncIterator[Reader]:
    url = f"http://127.0.0.1:{bridge.port}/watch/{watch_id}/events"
    async with bridge.session.get(url, headers={**APP, **headers}) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield Reader(response)


async def deliver(bridge: Bridge, owed: PendingDelivery) -> None:
    now = bridge.store.now()
    await bridge.store.record_attempts(
        [AttemptResult(owed.id, owed.lease, Attempt(now, 0.1, 200, None, "ok"), Delivered(), owed.host, now)]
    )
    bridge.context.change_notifier.announce([owed.watch_id])


async def test_a_whole_life_is_told(bridge: Bridge) -> None:
    watch = await bridge.watch()
    row = bridge.poller.added[0][0].id
    async with following(bridge, watch["id"]) as reader:
        first = await reader.next()
        assert (first.name, first.data) == ("snapshot", watch)
        bridge.poller.tasks[row] = live_task(RUNNING)
        task = await reader.next()
        assert (task.name, task.data["task"]["progress"], task.data["polls"]) == ("task", 40, 7)
        bridge.poller.tasks[row] = live_task(TaskSnapshot(TaskStatus.IN_PROGRESS, 60), 8)
        assert (await reader.next()).data["task"]["progress"] == 60

        [owed] = (await bridge.settle(watch["id"])).owed
        bridge.context.change_notifier.announce([watch["id"]])
        task, settled = await reader.next(), await reader.next()
        assert (task.name, task.data["task"]["status"], task.data["next_poll_at"]) == ("task", "completed", None)
        assert (settled.name, settled.data["outcome"]) == ("snapshot", "completed")
        assert settled.data["deliveries"][0]["state"] == "pending"

        await deliver(bridge, owed)
        attempt, last = await reader.rest()
        assert (attempt.name, attempt.data["number"], attempt.data["status_code"]) == ("attempt", 1, 200)
        assert attempt.data["delivery"]["id"] == owed.id
        assert (last.name, last.data) == ("snapshot", (await bridge.get(f"/watch/{watch['id']}")).json)
        assert last.data["deliveries"] == [attempt.data["delivery"]]
    ids = [int(told.id.split("-")[0]) for told in (first, task, settled, attempt, last)]
    assert ids == sorted(set(ids))


async def test_a_watch_that_is_over_is_one_snapshot(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.dead(watch["id"])
    async with following(bridge, watch["id"]) as reader:
        [only] = await reader.rest()
    assert (only.name, only.data) == ("snapshot", (await bridge.get(f"/watch/{watch['id']}")).json)


async def test_a_cancelled_watch_ends_its_stream(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
        await bridge.ask("DELETE", f"/watch/{watch['id']}")
        last = (await reader.rest())[-1]
    assert (last.name, last.data["state"]) == ("snapshot", "cancelled")


async def test_who_comes_back_is_told_the_attempts_that_were_missed(bridge: Bridge) -> None:
    watch = await bridge.watch()
    [owed] = (await bridge.settle(watch["id"])).owed
    async with following(bridge, watch["id"]) as reader:
        first = await reader.next()
    await give_up(bridge.store, owed, bridge.store.now())
    async with following(bridge, watch["id"], **{"Last-Event-ID": first.id}) as reader:
        snapshot, attempt, last = await reader.rest()
    assert [snapshot.name, attempt.name, last.name] == ["snapshot", "attempt", "snapshot"]
    assert attempt.data["error"]["code"] == "gone"
    assert int(snapshot.id.split("-")[0]) > int(first.id.split("-")[0])
    over = await bridge.get(f"/watch/{watch['id']}/events", headers={"Last-Event-ID": last.id})
    assert (over.status, over.body) == (204, b"")


async def test_a_strange_last_event_id_is_none(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.dead(watch["id"])
    for strange in ("", "7", "é", "9" * 500, "1-999999", "1-1.1.1.1", "-1", "1-"):
        async with following(bridge, watch["id"], **{"Last-Event-ID": strange}) as reader:
            assert (await reader.rest())[0].name == "snapshot"


async def test_a_delivery_that_is_sent_again_is_a_snapshot(bridge: Bridge) -> None:
    watch = await bridge.watch()
    other = await bridge.watch(callback_url="https://app.example/other")
    await bridge.settle(watch["id"])
    delivery_id = (await bridge.get(f"/watch/{other['id']}")).json["deliveries"][0]["id"]
    async with following(bridge, other["id"]) as reader:
        assert (await reader.next()).data["deliveries"][0]["state"] == "pending"
        before = await reader_state(bridge, delivery_id)
        assert (await bridge.ask("POST", f"/deliveries/{delivery_id}/retry")).status == 202
        told = await reader.next()
        assert told.name == "snapshot"
        assert told.data["deliveries"][0]["next_attempt_at"] != before["next_attempt_at"]


async def reader_state(bridge: Bridge, delivery_id: str) -> Any:
    return (await bridge.get(f"/deliveries/{delivery_id}")).json


async def test_silence_is_broken_by_comments(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, times=StreamTimes(check_seconds=0.005, heartbeat_seconds=0.02)) as bridge:
        watch = await bridge.watch()
        async with following(bridge, watch["id"]) as reader:
            await reader.next()
            async with asyncio.timeout(20):
                assert (await reader.response.content.readline()).startswith(b":")


async def test_a_stream_ends_by_its_time(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, times=StreamTimes(check_seconds=0.01, longest_seconds=0.1)) as bridge:
        watch = await bridge.watch()
        async with following(bridge, watch["id"]) as reader:
            assert [told.name for told in await reader.rest()] == ["snapshot"]


async def test_a_stop_ends_every_stream(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
        bridge.context.change_notifier.end()
        assert await reader.rest() == []
    assert bridge.context.change_notifier._listeners == {}


async def test_a_reader_that_leaves_is_forgotten(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
    async with asyncio.timeout(20):
        while bridge.context.change_notifier._listeners:
            await asyncio.sleep(0)


async def test_who_may_follow(bridge: Bridge) -> None:
    watch = await bridge.watch()
    path = f"/watch/{watch['id']}/events"
    (await bridge.get(path, headers=OTHER)).problem(404, "not_found")
    (await bridge.get(path, headers={"Authorization": "Bearer no"})).problem(401, "unauthorized")
    (await bridge.get("/watch/wat_x/events")).problem(404, "not_found")
    assert (await bridge.get(f"{path}?a=b")).fields() == {"a"}
    head = await bridge.ask("HEAD", path, headers=OPERATOR)
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "text/event-stream", b"")
