"""`GET /watch/{id}/events`: a watch as server-sent events."""

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
from tests.waiting import SAFETY_SECONDS
from tests.web.harness import APP, OPERATOR, OTHER, RUNNING, Bridge, give_up, live_task, running_bridge

QUICK_CHECKS = StreamTimes(check_seconds=0.01)


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[Bridge]:
    """A bridge whose event streams check the poller every 10 ms."""
    async with running_bridge(tmp_path, times=QUICK_CHECKS) as running:
        yield running


@dataclass
class StreamEvent:
    """One server-sent event."""

    name: str
    id: str
    data: Any


@dataclass
class Reader:
    """Reads a stream, event by event."""

    response: aiohttp.ClientResponse

    async def next(self) -> StreamEvent:
        """Returns the next event. Raises StopAsyncIteration at the stream's end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(SAFETY_SECONDS):
            while line := (await self.response.content.readline()).decode():
                if line == "\n":
                    if "event" in fields:
                        return StreamEvent(fields["event"], fields["id"], json.loads(fields["data"]))
                elif not line.startswith(":"):
                    name, _, value = line.rstrip("\n").partition(": ")
                    fields[name] = value
        raise StopAsyncIteration

    async def remaining(self) -> list[StreamEvent]:
        """Returns all events to the stream's end."""
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


async def deliver(bridge: Bridge, pending: PendingDelivery) -> None:
    now = bridge.store.now()
    await bridge.store.record_attempts(
        [AttemptResult(pending.id, pending.lease, Attempt(now, 0.1, 200, None, "ok"), Delivered(), pending.host, now)]
    )
    bridge.context.change_notifier.announce([pending.watch_id])


async def test_the_stream_shows_a_watch_from_registration_to_delivery(bridge: Bridge) -> None:
    watch = await bridge.watch()
    row = bridge.poller.added[0][0].row
    async with following(bridge, watch["id"]) as reader:
        first = await reader.next()
        assert (first.name, first.data) == ("snapshot", watch)
        bridge.poller.tasks[row] = live_task(RUNNING)
        task = await reader.next()
        assert (task.name, task.data["task"]["progress"], task.data["polls"]) == ("task", 40, 7)
        bridge.poller.tasks[row] = live_task(TaskSnapshot(TaskStatus.IN_PROGRESS, 60), 8)
        assert (await reader.next()).data["task"]["progress"] == 60

        [pending] = (await bridge.settle(watch["id"])).claimed
        bridge.context.change_notifier.announce([watch["id"]])
        task, settled = await reader.next(), await reader.next()
        assert (task.name, task.data["task"]["status"], task.data["next_poll_at"]) == ("task", "completed", None)
        assert (settled.name, settled.data["outcome"]) == ("snapshot", "completed")
        assert settled.data["deliveries"][0]["state"] == "pending"

        await deliver(bridge, pending)
        attempt, last = await reader.remaining()
        assert (attempt.name, attempt.data["number"], attempt.data["status_code"]) == ("attempt", 1, 200)
        assert attempt.data["delivery"]["id"] == pending.id
        assert (last.name, last.data) == ("snapshot", (await bridge.get(f"/watch/{watch['id']}")).json)
        assert last.data["deliveries"] == [attempt.data["delivery"]]
    ids = [int(event.id.split("-")[0]) for event in (first, task, settled, attempt, last)]
    assert ids == sorted(set(ids))


async def test_a_watch_that_is_over_gets_one_snapshot(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.dead(watch["id"])
    async with following(bridge, watch["id"]) as reader:
        [only] = await reader.remaining()
    assert (only.name, only.data) == ("snapshot", (await bridge.get(f"/watch/{watch['id']}")).json)


async def test_cancelling_a_watch_ends_its_stream(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
        await bridge.ask("DELETE", f"/watch/{watch['id']}")
        last = (await reader.remaining())[-1]
    assert (last.name, last.data["state"]) == ("snapshot", "cancelled")


async def test_a_client_that_reconnects_gets_the_attempts_that_it_missed(bridge: Bridge) -> None:
    watch = await bridge.watch()
    [pending] = (await bridge.settle(watch["id"])).claimed
    async with following(bridge, watch["id"]) as reader:
        first = await reader.next()
    await give_up(bridge.store, pending, bridge.store.now())
    async with following(bridge, watch["id"], **{"Last-Event-ID": first.id}) as reader:
        snapshot, attempt, last = await reader.remaining()
    assert [snapshot.name, attempt.name, last.name] == ["snapshot", "attempt", "snapshot"]
    assert attempt.data["error"]["code"] == "gone"
    assert int(snapshot.id.split("-")[0]) > int(first.id.split("-")[0])
    over = await bridge.get(f"/watch/{watch['id']}/events", headers={"Last-Event-ID": last.id})
    assert (over.status, over.body) == (204, b"")


async def test_an_invalid_last_event_id_is_ignored(bridge: Bridge) -> None:
    watch = await bridge.watch()
    await bridge.dead(watch["id"])
    for invalid in ("", "7", "é", "9" * 500, "1-999999", "1-1.1.1.1", "-1", "1-"):
        async with following(bridge, watch["id"], **{"Last-Event-ID": invalid}) as reader:
            assert (await reader.remaining())[0].name == "snapshot"


async def test_a_retry_of_a_delivery_sends_a_snapshot(bridge: Bridge) -> None:
    watch = await bridge.watch()
    other = await bridge.watch(callback_url="https://app.example/other")
    await bridge.settle(watch["id"])
    delivery_id = (await bridge.get(f"/watch/{other['id']}")).json["deliveries"][0]["id"]
    async with following(bridge, other["id"]) as reader:
        assert (await reader.next()).data["deliveries"][0]["state"] == "pending"
        before = await read_delivery(bridge, delivery_id)
        assert (await bridge.ask("POST", f"/deliveries/{delivery_id}/retry")).status == 202
        event = await reader.next()
        assert event.name == "snapshot"
        assert event.data["deliveries"][0]["next_attempt_at"] != before["next_attempt_at"]


async def read_delivery(bridge: Bridge, delivery_id: str) -> Any:
    return (await bridge.get(f"/deliveries/{delivery_id}")).json


async def test_a_silent_stream_gets_heartbeats(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, times=StreamTimes(check_seconds=0.005, heartbeat_seconds=0.02)) as bridge:
        watch = await bridge.watch()
        async with following(bridge, watch["id"]) as reader:
            await reader.next()
            async with asyncio.timeout(SAFETY_SECONDS):
                assert (await reader.response.content.readline()).startswith(b":")


async def test_a_stream_ends_after_its_longest_time(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, times=StreamTimes(check_seconds=0.01, longest_seconds=0.1)) as bridge:
        watch = await bridge.watch()
        async with following(bridge, watch["id"]) as reader:
            assert [event.name for event in await reader.remaining()] == ["snapshot"]


async def test_a_stop_of_the_bridge_ends_every_stream(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
        bridge.context.change_notifier.end()
        assert await reader.remaining() == []
    assert bridge.context.change_notifier._listeners == {}


async def test_a_client_that_disconnects_is_removed(bridge: Bridge) -> None:
    watch = await bridge.watch()
    async with following(bridge, watch["id"]) as reader:
        await reader.next()
    async with asyncio.timeout(SAFETY_SECONDS):
        while bridge.context.change_notifier._listeners:
            await asyncio.sleep(0)


async def test_only_the_watch_s_app_and_operators_can_follow_it(bridge: Bridge) -> None:
    watch = await bridge.watch()
    path = f"/watch/{watch['id']}/events"
    (await bridge.get(path, headers=OTHER)).problem(404, "not_found")
    (await bridge.get(path, headers={"Authorization": "Bearer no"})).problem(401, "unauthorized")
    (await bridge.get("/watch/wat_x/events")).problem(404, "not_found")
    assert (await bridge.get(f"{path}?a=b")).fields() == {"a"}
    head = await bridge.ask("HEAD", path, headers=OPERATOR)
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "text/event-stream", b"")
