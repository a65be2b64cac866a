"""Under load and during outages: the concurrency, the rate, and a store that is not available."""

import asyncio
import logging
import math
import time
from typing import Any

import pytest
from sqlalchemy import event

from bridge.amux.client import AmuxClient
from bridge.core.model import TERMINAL_EVENTS, EventType, Outcome, TaskStatus
from bridge.core.schedule import PollPolicy
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.sandbox import Outcome as End
from bridge.store.records import Changed
from tests.polling.harness import AMUX_SECONDS, DONE, QUICK, RUNNING, Harness
from tests.waiting import SAFETY_SECONDS


async def test_there_are_never_more_polls_at_a_time_than_the_concurrency(harness: Harness) -> None:
    server = CountingServer()
    client = await server.start()
    poller = harness.poller(PollPolicy(first_delay=0, interval=0.01, max_interval=0.01), concurrency=5, client=client)
    for number in range(40):
        await harness.register(f"task_{number}", poller)
    await harness.until(lambda: server.answered >= 200)
    assert server.most == 5
    await poller.drain(5)
    await client.close()
    await server.stop()


async def test_the_server_sees_no_more_polls_a_second_than_the_rate(harness: Harness) -> None:
    server = CountingServer()
    client, began = await server.start(), time.monotonic()
    poller = harness.poller(PollPolicy(first_delay=0, interval=0.01, max_interval=0.01), rate=40, client=client)
    for number in range(40):
        await harness.register(f"task_{number}", poller)
    await harness.until(lambda: server.answered >= 85)
    # The count begins at the start: on a busy machine polls arrive late, and so some arrive closer together.
    assert all(number <= 40 * math.ceil(at - began) for number, at in enumerate(server.times, 1))
    await poller.drain(5)
    await client.close()
    await server.stop()


async def test_no_settlement_is_lost_while_the_store_is_unavailable_and_the_first_status_counts(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = harness.poller()
    tasks = [harness.sandbox.create_task(RUNNING) for _ in range(20)]
    watches = [await harness.register(task_id, poller) for task_id in tasks]
    await asyncio.gather(*(harness.sandbox.polled(task_id, 2) for task_id in tasks))
    repair = harness.break_store()
    for task_id in tasks:
        harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: "store_unavailable" in caplog.text)
    await poller.check_deadlines()  # this fails as well, but an outage is logged only once
    await harness.until(
        lambda: all((live := poller.live(w.view.task.row)) and _ended(live.snapshot.status) for w in watches)
    )
    polls = harness.sandbox.polls.total()
    for task_id in tasks:  # amux rewrites its record
        harness.sandbox.change(task_id, Behaviour(queue_seconds=0, run_seconds=0, outcome=End.FAILED))
    repair()
    await harness.until(lambda: poller.owned == 0)
    await poller.check_deadlines()
    assert harness.sandbox.polls.total() == polls
    assert {await harness.outcome(watch) for watch in watches} == {Outcome.COMPLETED}
    assert sorted(delivery.watch_id for delivery in harness.deliveries) == sorted(watch.watch.id for watch in watches)
    logged = [record.getMessage() for record in caplog.records]
    assert logged.count("store_unavailable") == 1
    assert logged.count("store_available") == 1


def _ended(status: TaskStatus) -> bool:
    return status is TaskStatus.COMPLETED


async def test_one_probe_at_a_time_asks_whether_the_store_answers_again(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """An earlier version began as many workers as the pool has: 256 writes at each retry. The simulation found it."""
    probes: list[str] = []

    @event.listens_for(harness.store._database._writing, "before_cursor_execute")
    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "probed" in statement:
            probes.append(statement)

    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 2)  # now the first status is written, so only the end can be refused
    repair = harness.break_store()
    harness.sandbox.change(task_id, DONE)
    await harness.until(lambda: (live := poller.live(watch.view.task.row)) is not None and _ended(live.snapshot.status))
    await harness.until(lambda: "store_unavailable" in caplog.text)
    repair()
    await harness.until(lambda: poller.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED
    assert 1 <= len(probes) <= 5


async def test_a_status_that_could_not_be_written_is_written_after_the_next_poll(harness: Harness) -> None:
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id, events=TERMINAL_EVENTS | {EventType.IN_PROGRESS})
    assert watch.task is not None
    repair = harness.break_store()
    poller.add(watch.task)
    await harness.sandbox.polled(task_id, 3)
    await poller.check_deadlines()  # the failure is logged, and nothing else happens
    repair()
    await harness.until(lambda: bool(harness.deliveries))
    assert harness.event_types(watch) == ["video.in_progress"]
    await harness.sandbox.polled(task_id, harness.sandbox.polls[task_id] + 3)
    assert harness.event_types(watch) == ["video.in_progress"]


async def test_a_status_that_the_store_refuses_is_written_at_most_once_for_each_poll(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_status, writes = harness.store.record_status, 0

    async def count(*arguments: Any, **options: Any) -> Changed:
        nonlocal writes
        writes += 1
        return await record_status(*arguments, **options)

    monkeypatch.setattr(harness.store, "record_status", count)
    poller = harness.poller()
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id)
    assert watch.task is not None
    repair = harness.break_store()
    poller.add(watch.task)
    await harness.sandbox.polled(task_id, 8)
    assert writes <= harness.sandbox.polls[task_id]
    repair()


async def test_a_drain_without_a_store_ends_in_time_and_logs_what_is_unwritten(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    poller = harness.poller()
    watch = await harness.register(harness.sandbox.create_task(RUNNING), poller)
    await harness.sandbox.polled(watch.watch.task_id, 2)
    repair = harness.break_store()
    harness.sandbox.change(watch.watch.task_id, DONE)
    await harness.until(lambda: "store_unavailable" in caplog.text)
    async with asyncio.timeout(SAFETY_SECONDS):
        await poller.drain(1)
    assert "settlements_unwritten" in caplog.text
    repair()
    successor = harness.poller(QUICK)
    await successor.load()
    await harness.until(lambda: successor.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED


async def test_a_drain_cancels_polls_that_do_not_end_in_time(harness: Harness) -> None:
    poller = harness.poller()
    stalled = Behaviour(faults=(Fault(FaultKind.SLOW, seconds=30, times=None),))
    watch = await harness.register(harness.sandbox.create_task(stalled), poller)
    await harness.sandbox.polled(watch.watch.task_id)
    began = time.monotonic()
    await poller.drain(0.1)
    assert time.monotonic() - began < AMUX_SECONDS / 2


class CountingServer:
    """A server that answers "in_progress" after 5 ms. It counts its requests, and the most that are open at a time."""

    def __init__(self) -> None:
        self.open_requests = self.most = self.answered = 0
        self.times: list[float] = []
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> AmuxClient:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return AmuxClient(f"http://127.0.0.1:{port}", user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.times.append(time.monotonic())
                self.open_requests += 1
                self.most = max(self.most, self.open_requests)
                await asyncio.sleep(0.005)
                self.open_requests -= 1
                self.answered += 1
                body = b'{"task_id":"t","status":"in_progress"}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
