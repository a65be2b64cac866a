"""Registration: what it stores, which collaborators it calls, and that it finishes when its caller leaves."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bridge.callback.guard import Guard
from bridge.core.audit import Actor, Role
from bridge.core.errors import BridgeError, InvalidRequest, NotFound, StoreUnavailable, TargetRefused, WatchConflict
from bridge.core.model import TERMINAL_EVENTS, WatchState
from bridge.core.targets import TargetPolicy
from bridge.store import settlement
from bridge.store import store as store_module
from bridge.store.open import open_store
from bridge.store.records import RegisteredWatch
from bridge.store.store import Store
from bridge.telemetry import Metrics
from bridge.watches.change_notifier import ChangeNotifier
from bridge.watches.registration import (
    RegistrationService,
    TimeoutLimits,
    WatchRequest,
)
from tests.store.builders import settle
from tests.waiting import SAFETY_SECONDS

if TYPE_CHECKING:
    from bridge.store.records import TaskView

REQUEST = WatchRequest("shop", "task_1", "https://app.example/hook")

SHOP = Actor("shop", Role.APP)


class Notifier(ChangeNotifier):
    """Records which watches are announced."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.announced: list[str] = []

    def announce(self, watch_ids: Sequence[str]) -> None:
        self.announced.extend(watch_ids)


class Harness:
    """The service under test. The harness stands for the poller and the deliverer, and records their calls."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.polled: list[tuple[TaskView, str | None]] = []
        self.checked: list[str] = []
        self.dropped: list[str] = []
        self.notifier = Notifier(store)
        self.looked_up: list[str] = []
        self.service = self.make_service("sk-configured")

    def make_service(self, configured_key: str | None) -> RegistrationService:
        policy = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"),))
        return RegistrationService(
            self.store,
            Guard(policy, self.resolve),
            self,
            self,
            self.notifier,
            metrics=Metrics(),
            configured_key=configured_key,
            timeouts=TimeoutLimits(600.0, 3600.0),
        )

    def add(self, task: "TaskView", api_key: str | None = None) -> None:
        self.polled.append((task, api_key))

    def check_closed(self, task_row: str) -> None:
        self.checked.append(task_row)

    def drop_status_events(self, watch_ids: Iterable[str]) -> None:
        self.dropped.extend(watch_ids)

    async def resolve(self, host: str, _: int) -> list[str]:
        self.looked_up.append(host)
        return ["10.0.0.1"] if host == "bad.example" else ["93.184.216.34"]

    async def all_of(self, *requests: WatchRequest) -> Sequence[RegisteredWatch | BridgeError]:
        return await self.service.register_all(requests)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    store = await open_store(f"sqlite:///{tmp_path}/bridge.db", [], Metrics())
    made = Harness(store)
    yield made
    await made.service.finish()
    await store.close()


async def test_defaults_are_filled_in_and_the_collaborators_are_called(harness: Harness) -> None:
    result = await harness.service.register(REQUEST)
    watch = result.view.watch
    assert result.created
    assert (watch.app, watch.events, watch.context, watch.header_names) == ("shop", TERMINAL_EVENTS, b"null", ())
    assert watch.deadline_at == watch.created_at + 600
    assert harness.notifier.announced == [watch.id]
    [(task, key)] = harness.polled
    assert (task.row, key) == (result.view.task.row, None)
    assert (await harness.store.watch(watch.id, "shop")).watch == watch


async def test_a_repeated_registration_is_announced_once(harness: Harness) -> None:
    first = await harness.service.register(REQUEST)
    again = await harness.service.register(replace(REQUEST, events=TERMINAL_EVENTS))
    assert (again.created, again.view.watch) == (False, first.view.watch)
    assert len(harness.notifier.announced) == 1
    with pytest.raises(WatchConflict):
        await harness.service.register(replace(REQUEST, secret="whsec_other"))


async def test_one_look_up_serves_a_batch_and_each_entry_has_its_result(harness: Harness) -> None:
    results = await harness.all_of(
        REQUEST,
        replace(REQUEST, callback_url="https://bad.example/"),
        replace(REQUEST, task_id="task_2"),
        replace(REQUEST, timeout_seconds=3601.0),
        replace(REQUEST, callback_url="nonsense"),
        REQUEST,
    )
    kinds = [type(result) for result in results]
    assert kinds == [
        RegisteredWatch,
        TargetRefused,
        RegisteredWatch,
        InvalidRequest,
        InvalidRequest,
        RegisteredWatch,
    ]
    assert [result.created for result in results if isinstance(result, RegisteredWatch)].count(True) in {2, 3}
    assert len({result.view.watch.id for result in results if isinstance(result, RegisteredWatch)}) == 2
    await harness.all_of(*[replace(REQUEST, task_id=f"more_{number}") for number in range(50)])
    assert harness.looked_up.count("app.example") <= 3
    assert await harness.all_of(replace(REQUEST, callback_url="nonsense")) != []
    assert await harness.all_of() == []


async def test_secrets_are_encrypted_for_their_watch(harness: Harness) -> None:
    request = replace(REQUEST, headers={"X-Key": "hush"}, secret="whsec_s", api_key="sk-mine")
    result = await harness.service.register(request)
    assert result.view.watch.header_names == ("X-Key",)
    assert await harness.store.api_key_of(result.view.watch.id) == "sk-mine"
    [(task, key)] = harness.polled
    assert key == "sk-mine"
    assert await harness.store.keys_of([task.credential]) == {task.credential: "sk-mine"}


async def test_each_api_key_has_its_own_task(harness: Harness) -> None:
    for number, api_key in enumerate((None, "sk-a", "sk-a", "sk-b")):
        url = f"https://app.example/{number}"
        await harness.service.register(replace(REQUEST, api_key=api_key, callback_url=url))
    assert len({task.row for task, _ in harness.polled}) == 3


async def test_without_a_key_nothing_is_looked_up(harness: Harness) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await harness.make_service(None).register(REQUEST)
    assert refused.value.code == "no_api_key"
    assert harness.looked_up == []


async def test_a_stored_watch_is_polled_even_if_its_caller_has_left(harness: Harness) -> None:
    caller = asyncio.create_task(harness.service.register(REQUEST))
    async with asyncio.timeout(SAFETY_SECONDS):
        while not harness.service._operations.running:
            await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await harness.service.finish()
    assert len(harness.polled) == len(harness.notifier.announced) == 1


async def test_a_cancellation_calls_the_poller_the_deliverer_and_the_notifier(harness: Harness) -> None:
    result = await harness.service.register(REQUEST)
    watch_id = result.view.watch.id
    with pytest.raises(NotFound):
        await harness.service.cancel(watch_id, "lab", SHOP)
    view = await harness.service.cancel(watch_id, "shop", SHOP)
    assert view.watch.state is WatchState.CANCELLED
    assert harness.checked == [result.view.task.row]
    assert harness.dropped == [watch_id]
    assert harness.notifier.announced == [watch_id, watch_id]


@pytest.fixture
def silent_reads(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes every read hang, as on a connection that no longer answers. A request may take 0.3 s in all.

    A single call may take much longer, so only the limit of the request ends it in time.
    """
    released = threading.Event()
    monkeypatch.setattr(store_module, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(harness.store._limits, "seconds", SAFETY_SECONDS)
    monkeypatch.setattr(harness.store._database, "read", lambda *_: released.wait(SAFETY_SECONDS))
    yield
    released.set()


@pytest.mark.parametrize("way", ["one batch", "singles"])
async def test_existing_watches_are_read_in_the_transaction_that_finds_them(
    harness: Harness, way: str, request: pytest.FixtureRequest
) -> None:
    again = [replace(REQUEST, task_id=f"task_{number}") for number in range(12)]
    await harness.all_of(*again)
    request.getfixturevalue("silent_reads")
    if way == "one batch":
        results = await harness.all_of(*again)
    else:
        results = await asyncio.gather(*map(harness.service.register, again))
    found = [result for result in results if isinstance(result, RegisteredWatch)]
    assert [(one.view.watch.task_id, one.created) for one in found] == [(one.task_id, False) for one in again]


async def test_a_cancellation_that_cannot_be_read_stops_the_work_all_the_same(
    harness: Harness, request: pytest.FixtureRequest
) -> None:
    watch = (await harness.service.register(REQUEST)).view.watch
    request.getfixturevalue("silent_reads")
    async with asyncio.timeout(SAFETY_SECONDS / 2):
        with pytest.raises(StoreUnavailable):
            await harness.service.cancel(watch.id, "shop", SHOP)
    assert harness.checked == [harness.polled[0][0].row]
    assert harness.dropped == [watch.id]


async def test_a_retry_that_cannot_be_read_has_one_time_limit_for_all_its_calls(
    harness: Harness, request: pytest.FixtureRequest
) -> None:
    changed = await settle(harness.store, await harness.service.register(REQUEST))
    [delivery] = changed.claimed
    request.getfixturevalue("silent_reads")
    async with asyncio.timeout(SAFETY_SECONDS / 2):
        with pytest.raises(StoreUnavailable):
            await harness.store.retry(delivery.id, "shop", SHOP)


async def test_a_cancellation_that_is_written_after_its_caller_gave_up_stops_the_work(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = (await harness.service.register(REQUEST)).view.watch
    monkeypatch.setattr(store_module, "REQUEST_SECONDS", 0.1)
    real, released, written = settlement.cancel, threading.Event(), asyncio.Event()

    def slow_cancel(*arguments: Any) -> Any:
        released.wait(SAFETY_SECONDS)
        return real(*arguments)

    monkeypatch.setattr(settlement, "cancel", slow_cancel)
    monkeypatch.setattr(harness.notifier, "announce", lambda _: written.set())
    with pytest.raises(StoreUnavailable):
        await harness.service.cancel(watch.id, "shop", SHOP)
    assert harness.checked == []
    released.set()
    async with asyncio.timeout(SAFETY_SECONDS):
        await written.wait()
    assert harness.checked == [harness.polled[0][0].row]
