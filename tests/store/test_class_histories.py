"""The histories of classes in the store: added up over replicas, limited in number, deleted after a month."""

from dataclasses import replace

import pytest

from bridge.core.model import TaskFacts
from bridge.core.schedule import PollPolicy
from bridge.core.task_class import FORGET_SECONDS, MAX_CLASSES, OTHER, TaskEnd
from bridge.store.class_histories import add_ends
from bridge.store.open import open_store
from bridge.store.records import StatusChange
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.store.builders import execute, new_watch, polled_task, register, register_watch, settlement

POLICY = PollPolicy()


def end(name: str = "amux 54 seedance", until: float = 90.0, polls: int | None = 8) -> TaskEnd:
    return TaskEnd(name, until - 5.0, until, polls)


async def test_ends_are_added_to_those_in_the_store(store: Store) -> None:
    assert await store.class_histories() == {}
    first = await store.add_task_ends([end(), end(until=100.0)], POLICY)
    second = await store.add_task_ends([end(), end("app veo")], POLICY)
    stored = await store.class_histories()
    assert first is not None
    assert second is not None
    assert first["amux 54 seedance"].history.ends == 2
    assert {name: one.history.ends for name, one in stored.items()} == {"amux 54 seedance": 3, "app veo": 1}
    for name, one in stored.items():
        assert one.history.weights == pytest.approx(second[name].history.weights, abs=0.001)
        assert one.history.polls == pytest.approx(second[name].history.polls)
        assert one.last_end_at == pytest.approx(store.now(), abs=60)


async def test_two_replicas_see_each_others_ends(database_url: str, encryption_key: str) -> None:
    if database_url.startswith("sqlite"):
        pytest.skip("an SQLite file has one process")
    stores = [await open_store(database_url, [encryption_key], Metrics()) for _ in range(2)]
    for store in stores:
        while await store.add_task_ends([end(), end()], POLICY) is None:
            continue
    assert [(await store.class_histories())[end().name].history.ends for store in stores] == [4, 4]
    for store in stores:
        await store.close()


async def test_a_class_without_an_end_for_a_month_is_forgotten(store: Store) -> None:
    await store.add_task_ends([end("old")], POLICY)
    later = store.now() + FORGET_SECONDS + 60
    await store._writer.run(add_ends, [end("new")], POLICY, later)
    assert (await store.class_histories()).keys() == {"new"}


async def test_the_store_holds_no_more_classes_than_allowed(store: Store) -> None:
    await store.add_task_ends([end(f"class {number}") for number in range(MAX_CLASSES + 50)], POLICY)
    stored = await store.class_histories()
    assert len(stored) == MAX_CLASSES
    assert stored[OTHER].history.ends == 51


async def test_a_row_that_cannot_be_read_is_left_out_and_replaced(store: Store) -> None:
    await store.add_task_ends([end("a"), end("b")], POLICY)
    execute(store, "UPDATE class_histories SET weights = '[1, 2]' WHERE name = 'a'")
    assert (await store.class_histories()).keys() == {"b"}
    added = await store.add_task_ends([end("a")], POLICY)
    assert added is not None
    assert added["a"].history.ends == 1


async def test_a_tasks_facts_are_written_shown_and_loaded(store: Store) -> None:
    registered = await register_watch(store)
    facts = TaskFacts("seedance", 1_000.5, 1_090.0, 1_092.0, "amux 54 seedance")
    task = polled_task(store, registered.view.task.row)._replace(facts=facts)
    await store.record_status(StatusChange(task, store.now()))
    [loaded] = await store.own_tasks()
    assert (loaded.facts, loaded.opened_at) == (facts, registered.watch.created_at)
    assert (await store.watch(registered.watch.id, None)).task.facts == facts
    await store.settle(settlement(store, registered.view.task.row))
    assert await store.own_tasks() == []


async def test_the_model_of_an_app_is_kept_with_its_watch_and_names_the_class_of_its_task(store: Store) -> None:
    new = new_watch(store)
    registered = await register(store, replace(new, watch=replace(new.watch, model="可灵 v2")))
    assert registered.task is not None
    assert registered.task.facts.task_class == "app 可灵 v2"
    [loaded] = await store.own_tasks()
    assert loaded.facts == registered.task.facts
    assert (await store.watch(registered.watch.id, None)).watch.model == "可灵 v2"
    other = await register(store, new_watch(store, task_id=registered.watch.task_id, app="other"))
    assert (await store.watch(other.watch.id, None)).watch.model is None
