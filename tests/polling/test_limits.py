"""What holds under load and trouble: concurrency, the rate, and a store that is away."""

import asyncio
import logging
import time

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, TaskStatus
from bridge.core.schedule import PollPolicy
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.sandbox import Outcome as End
from tests.polling.harness import (
    DONE,
    QUICK,
    RUNNING,
    Rig,
    rig_fixture,  # noqa: F401  a fixture
)


async def test_never_more_polls_at_a_time_than_the_concurrency(rig: Rig) -> None:
    server = Counting()
    rig_client = await server.start()
    poller = rig.poller(PollPolicy(first_delay=0, interval=0.01, max_interval=0.01), concurrency=5, client=rig_client)
    for number in range(40):
        await rig.register(f"task_{number}", poller)
    await rig.until(lambda: server.answered >= 200)
    assert server.most == 5
    await poller.drain(5)
    await rig_client.close()
    await server.stop()


async def test_the_rate_holds_at_the_server(rig: Rig) -> None:
    server = Counting()
    client = await server.start()
    poller = rig.poller(PollPolicy(first_delay=0, interval=0.01, max_interval=0.01), rate=40, client=client)
    for number in range(40):
        await rig.register(f"task_{number}", poller)
    await rig.until(lambda: server.answered >= 85)
    times = server.times
    assert max(sum(1 for later in times if start <= later < start + 1) for start in times) <= 40
    await poller.drain(5)
    await client.close()
    await server.stop()


async def test_a_store_that_is_away_loses_no_end_and_the_first_status_wins(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = rig.poller()
    tasks = [rig.sandbox.create_task(RUNNING) for _ in range(20)]
    watches = [await rig.register(task_id, poller) for task_id in tasks]
    await asyncio.gather(*(rig.sandbox.polled(task_id, 2) for task_id in tasks))
    mend = rig.break_store()
    for task_id in tasks:
        rig.sandbox.change(task_id, DONE)
    await rig.until(lambda: "store_unavailable" in caplog.text)
    await rig.until(lambda: all((live := poller.live(w.task_row)) and _ended(live.snapshot.status) for w in watches))
    polls = rig.sandbox.polls.total()
    for task_id in tasks:  # amux rewrites its record
        rig.sandbox.change(task_id, Behaviour(queue_seconds=0, run_seconds=0, outcome=End.FAILED))
    mend()
    await rig.until(lambda: poller.owned == 0)
    assert rig.sandbox.polls.total() == polls
    assert {await rig.outcome(watch) for watch in watches} == {Outcome.COMPLETED}
    assert sorted(one.watch_id for one in rig.owed) == sorted(watch.watch.id for watch in watches)
    told = [record.getMessage() for record in caplog.records]
    assert told.count("store_unavailable") == 1
    assert told.count("store_available") == 1


def _ended(status: TaskStatus) -> bool:
    return status is TaskStatus.COMPLETED


async def test_a_status_that_could_not_be_written_is_written_at_the_next_sight(rig: Rig) -> None:
    poller = rig.poller()
    task_id = rig.sandbox.create_task(RUNNING)
    mend = None
    watch = await rig.register(task_id, events=TERMINAL_EVENTS | {EventType.IN_PROGRESS})
    assert watch.task is not None
    mend = rig.break_store()
    poller.add(watch.task)
    await rig.sandbox.polled(task_id, 3)
    await poller.check_deadlines()  # told, and no more
    mend()
    await rig.until(lambda: bool(rig.owed))
    assert rig.types(watch) == ["video.in_progress"]
    await rig.sandbox.polled(task_id, rig.sandbox.polls[task_id] + 3)
    assert rig.types(watch) == ["video.in_progress"]


async def test_a_drain_with_the_store_away_ends_in_time_and_says_what_is_left(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    poller = rig.poller()
    watch = await rig.register(rig.sandbox.create_task(RUNNING), poller)
    await rig.sandbox.polled(watch.watch.task_id, 2)
    mend = rig.break_store()
    rig.sandbox.change(watch.watch.task_id, DONE)
    await rig.until(lambda: "store_unavailable" in caplog.text)
    async with asyncio.timeout(3):
        await poller.drain(1)
    assert "endings_unwritten" in caplog.text
    mend()
    successor = rig.poller(QUICK)
    await successor.start()
    await rig.until(lambda: successor.owned == 0)
    assert await rig.outcome(watch) is Outcome.COMPLETED


async def test_a_drain_cancels_what_does_not_end_in_time(rig: Rig) -> None:
    poller = rig.poller()
    stalled = Behaviour(faults=(Fault(FaultKind.SLOW, seconds=30, times=None),))
    watch = await rig.register(rig.sandbox.create_task(stalled), poller)
    await rig.sandbox.polled(watch.watch.task_id)
    began = time.monotonic()
    await poller.drain(0.1)
    assert time.monotonic() - began < 2


class Counting:
    """A server that says "running" a little later, and counts how many ask at a time."""

    def __init__(self) -> None:
        self.now = self.most = self.answered = 0
        self.times: list[float] = []
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> AmuxClient:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return AmuxClient(f"http://127.0.0.1:{port}", user_agent="amux-bridge/test", timeout_seconds=5)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.times.append(time.monotonic())
                self.now += 1
                self.most = max(self.most, self.now)
                await asyncio.sleep(0.005)
                self.now -= 1
                self.answered += 1
                body = b'{"task_id":"t","status":"in_progress"}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
