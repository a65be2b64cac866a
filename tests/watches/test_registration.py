"""Intake: what it stores, whom it tells, and that it goes on when its caller leaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.callback.guard import Guard
from bridge.core.errors import BridgeError, InvalidRequest, NotFound, TargetRefused, WatchConflict
from bridge.core.model import TERMINAL_EVENTS, WatchState
from bridge.core.targets import TargetPolicy
from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.watches.registration import (
    RegistrationResult,
    RegistrationService,
    TimeoutLimits,
    WatchIds,
    WatchRequest,
    watch_id_text,
)

if TYPE_CHECKING:
    from bridge.store.records import TaskRow

WANTED = WatchRequest("task_1", "https://app.example/hook")


class Rooms:
    """Intake and what it tells the rooms around it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.key: str | None = "sk-configured"
        self.polled: list[tuple[TaskRow, str | None]] = []
        self.looked_again: list[str] = []
        self.announced: list[str] = []
        self.asked: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        policy = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"),))
        self.registration = RegistrationService(
            store,
            Guard(policy, self.resolve),
            poll=lambda task, key: self.polled.append((task, key)),
            look_again=self.looked_again.append,
            stop_sending=lambda _: None,
            announce=self.announced.extend,
            metrics=Metrics(),
            configured_key=lambda: self.key,
            timeouts=TimeoutLimits(600.0, 3600.0),
        )

    async def resolve(self, host: str, _: int) -> list[str]:
        self.asked.append(host)
        await self.go_on.wait()
        return ["10.0.0.1"] if host == "bad.example" else ["93.184.216.34"]

    async def all_of(self, *wanted: WatchRequest) -> Sequence[RegistrationResult | BridgeError]:
        return await self.registration.register_all(wanted, "shop")


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    store = await open_store(f"sqlite:///{tmp_path}/bridge.db", [], Metrics())
    made = Rooms(store)
    yield made
    await made.registration.finish()
    await store.close()


async def test_defaults_are_filled_and_the_rooms_are_told(rooms: Rooms) -> None:
    taken = await rooms.registration.register(WANTED, "shop")
    watch = taken.view.watch
    assert taken.created
    assert (watch.app, watch.events, watch.context, watch.header_names) == ("shop", TERMINAL_EVENTS, b"null", ())
    assert watch.deadline_at == watch.created_at + 600
    assert rooms.announced == [watch.id]
    [(task, key)] = rooms.polled
    assert (task.id, key) == (taken.view.task.row, None)
    assert (await rooms.store.watch(watch.id, "shop")).watch == watch


async def test_the_same_again_is_announced_and_counted_once(rooms: Rooms) -> None:
    first = await rooms.registration.register(WANTED, "shop")
    again = await rooms.registration.register(replace(WANTED, events=TERMINAL_EVENTS), "shop")
    assert (again.created, again.view.watch) == (False, first.view.watch)
    assert len(rooms.announced) == 1
    with pytest.raises(WatchConflict):
        await rooms.registration.register(replace(WANTED, secret="whsec_other"), "shop")


async def test_one_look_up_serves_a_batch_and_each_entry_has_its_result(rooms: Rooms) -> None:
    results = await rooms.all_of(
        WANTED,
        replace(WANTED, callback_url="https://bad.example/"),
        replace(WANTED, task_id="task_2"),
        replace(WANTED, timeout_seconds=3601.0),
        replace(WANTED, callback_url="nonsense"),
        WANTED,
    )
    kinds = [type(result) for result in results]
    assert kinds == [
        RegistrationResult,
        TargetRefused,
        RegistrationResult,
        InvalidRequest,
        InvalidRequest,
        RegistrationResult,
    ]
    assert [result.created for result in results if isinstance(result, RegistrationResult)].count(True) in {2, 3}
    assert len({result.view.watch.id for result in results if isinstance(result, RegistrationResult)}) == 2
    await rooms.all_of(*[replace(WANTED, task_id=f"more_{number}") for number in range(50)])
    assert rooms.asked.count("app.example") <= 3
    assert await rooms.all_of(replace(WANTED, callback_url="nonsense")) != []
    assert await rooms.all_of() == []


async def test_secrets_are_sealed_for_their_watch(rooms: Rooms) -> None:
    wanted = replace(WANTED, headers={"X-Key": "hush"}, secret="whsec_s", api_key="sk-mine")
    taken = await rooms.registration.register(wanted, "shop")
    assert taken.view.watch.header_names == ("X-Key",)
    assert await rooms.store.api_key_of(taken.view.watch.id) == "sk-mine"
    [(task, key)] = rooms.polled
    assert key == "sk-mine"
    assert await rooms.store.keys_of([task.credential]) == {task.credential: "sk-mine"}


async def test_own_keys_are_tasks_of_their_own(rooms: Rooms) -> None:
    for number, api_key in enumerate((None, "sk-a", "sk-a", "sk-b")):
        url = f"https://app.example/{number}"
        await rooms.registration.register(replace(WANTED, api_key=api_key, callback_url=url), "shop")
    assert len({task.id for task, _ in rooms.polled}) == 3


async def test_without_a_key_nothing_is_looked_up(rooms: Rooms) -> None:
    rooms.key = None
    with pytest.raises(InvalidRequest) as refused:
        await rooms.registration.register(WANTED, "shop")
    assert refused.value.code == "no_api_key"
    assert rooms.asked == []
    rooms.key = "sk-new"  # looked up anew at each registration
    assert (await rooms.registration.register(WANTED, "shop")).created


async def test_a_watch_that_is_stored_is_polled_even_if_its_caller_has_left(rooms: Rooms) -> None:
    caller = asyncio.create_task(rooms.registration.register(WANTED, "shop"))
    async with asyncio.timeout(10):
        while not rooms.registration._operations.running:
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await rooms.registration.finish()
    assert len(rooms.polled) == len(rooms.announced) == 1


async def test_cancelling_tells_the_poller_and_who_waits(rooms: Rooms) -> None:
    taken = await rooms.registration.register(WANTED, "shop")
    watch_id = taken.view.watch.id
    with pytest.raises(NotFound):
        await rooms.registration.cancel(watch_id, "lab")
    view = await rooms.registration.cancel(watch_id, "shop")
    assert view.watch.state is WatchState.CANCELLED
    assert rooms.looked_again == [taken.view.task.row]
    assert rooms.announced == [watch_id, watch_id]


# --- ids ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**128 - 1), min_size=2, max_size=9))
def test_ids_sort_as_their_numbers(values: list[int]) -> None:
    texts = [watch_id_text(value) for value in sorted(values)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {26}
    assert len(set(texts)) == len(set(values))


def test_ids_go_up_within_a_millisecond_and_when_the_clock_is_set_back() -> None:
    ids = WatchIds()
    now = time.time()
    made = [ids.next(moment) for moment in (now, now, now, now - 600, now - 600, now + 0.002, now + 600)]
    assert made == sorted(made)
    assert len(set(made)) == 7
    assert WatchIds().next(now) < WatchIds().next(now + 0.001)
