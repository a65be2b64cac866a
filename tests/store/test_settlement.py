"""Settling: one terminal event for each watch, written with its state and its delivery in one transaction."""

import asyncio

import orjson
import pytest
from sqlalchemy.exc import IntegrityError

from bridge.core.errors import LostClaim, NotFound, WatchActive
from bridge.core.ids import event_id
from bridge.core.model import DeliveryState, EventType, Outcome, TaskStatus, Watch, WatchState
from bridge.core.watch import Ending
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DONE,
    completed,
    execute,
    failed,
    one_row,
    register_watch,
    rows,
    settle,
    settlement,
    timed_out,
    unavailable,
)


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (completed, Outcome.COMPLETED),
        (failed, Outcome.FAILED),
        (timed_out, Outcome.TIMED_OUT),
        (unavailable, Outcome.UNAVAILABLE),
    ],
)
async def test_each_ending_is_stored_as_it_was_decided(store: Store, ending: object, outcome: Outcome) -> None:
    registered = await register_watch(store)
    changed = await settle(store, registered, ending)  # type: ignore[arg-type]
    view = await store.watch(registered.watch.id, "app")
    assert changed.settled == (view.watch,)
    assert changed.updated == ()
    assert (view.watch.state, view.watch.outcome) == (WatchState.SETTLED, outcome)
    [delivery] = view.deliveries
    assert (delivery.state, delivery.type, delivery.attempts) == (DeliveryState.PENDING, f"video.{outcome}", 0)
    assert delivery.id == event_id(view.watch.id, EventType(f"video.{outcome}"))
    payload = orjson.loads((await store.terminal_event(view.watch.id, "app")).payload)
    assert (payload["type"], payload["data"]["context"]) == (f"video.{outcome}", {"order": 7})


async def test_new_deliveries_are_returned_claimed_and_complete(store: Store) -> None:
    registered = await register_watch(store, headers={"X-Token": "t"}, secret="whsec_own")
    changed = await settle(store, registered)
    [claimed] = changed.claimed
    assert (claimed.app, claimed.type, claimed.host) == ("app", "video.completed", "app.example:443")
    assert claimed.callback_url == registered.watch.callback_url
    assert (claimed.headers, claimed.secret, claimed.round_attempts) == ({"X-Token": "t"}, "whsec_own", 0)
    assert claimed.payload == (await store.terminal_event(claimed.watch_id, "app")).payload
    assert await store.due_hosts() == {}
    lease, holder = one_row(store, "SELECT lease, holder FROM outbox")
    assert (lease, holder) == (claimed.lease, store.replica.id)


async def test_every_watch_on_a_task_ends_with_it(store: Store) -> None:
    first = await register_watch(store, task_id="shared")
    await register_watch(store, task_id="shared", app="other")
    changed = await settle(store, first)
    assert changed.task_closed
    assert len(changed.settled) == len(changed.claimed) == 2
    assert await store.own_tasks() == []


async def test_a_closed_task_has_its_last_status_and_no_next_poll(store: Store) -> None:
    registered = await register_watch(store)
    await settle(store, registered, timed_out, snapshot=DONE)
    task = (await store.watch(registered.watch.id, None)).task
    assert task.closed
    assert task.snapshot == DONE
    assert (task.polls, task.next_poll_at) == (1, None)


async def test_a_watch_that_does_not_end_keeps_its_task_open(store: Store) -> None:
    old = await register_watch(store, task_id="shared")
    young = await register_watch(store, task_id="shared", app="other")

    def only_the_old(watch: Watch) -> Ending | None:
        return timed_out(watch) if watch.id == old.watch.id else None

    changed = await settle(store, old, only_the_old)
    assert [watch.id for watch in changed.settled] == [old.watch.id]
    assert not changed.task_closed
    view = await store.watch(young.watch.id, None)
    assert (view.watch.state, view.task.closed) == (WatchState.ACTIVE, False)
    assert view.task.next_poll_at is not None


async def test_settling_again_changes_nothing(store: Store) -> None:
    registered = await register_watch(store)
    await settle(store, registered)
    before = await store.watch(registered.watch.id, None)
    with pytest.raises(LostClaim):
        await settle(store, registered, failed)
    assert await store.watch(registered.watch.id, None) == before


async def test_two_settlements_of_one_task_at_once_end_it_once(store: Store) -> None:
    registered = await register_watch(store)
    await asyncio.gather(settle(store, registered), settle(store, registered, failed), return_exceptions=True)
    assert one_row(store, "SELECT count(*) FROM events") == 1
    assert one_row(store, "SELECT count(*) FROM outbox") == 1


async def test_the_database_itself_refuses_a_second_terminal_event(store: Store) -> None:
    registered = await register_watch(store)
    await settle(store, registered)
    with pytest.raises(IntegrityError):
        execute(
            store,
            "INSERT INTO events (watch_id, type, terminal, created_at, payload) VALUES (:id, 'x', :yes, 1, :payload)",
            id=registered.watch.id,
            yes=True,
            payload=b"{}",
        )


async def test_an_event_that_is_not_to_be_sent_can_be_pulled(store: Store) -> None:
    registered = await register_watch(store, events=frozenset({EventType.FAILED}))
    changed = await settle(store, registered)
    assert changed.claimed == ()
    assert (await store.watch(registered.watch.id, None)).deliveries == ()
    assert b"video.completed" in (await store.terminal_event(registered.watch.id, None)).payload
    assert rows(store, "SELECT * FROM outbox") == []


async def test_the_event_comes_with_the_watchs_own_secret(store: Store) -> None:
    registered = await register_watch(store, secret="whsec_own")
    await settle(store, registered)
    event = await store.terminal_event(registered.watch.id, "app")
    assert event.secret == "whsec_own"
    assert event.event_id == event_id(registered.watch.id, EventType.COMPLETED)
    assert "whsec_own" not in repr(event)


async def test_an_active_watch_has_no_event_and_another_apps_is_not_found(store: Store) -> None:
    registered = await register_watch(store)
    with pytest.raises(WatchActive):
        await store.terminal_event(registered.watch.id, "app")
    with pytest.raises(NotFound):
        await store.terminal_event(registered.watch.id, "other")
    with pytest.raises(NotFound):
        await store.terminal_event("wat_none", None)


async def test_a_replica_that_lost_its_claim_settles_nothing(store: Store) -> None:
    registered = await register_watch(store, events=ALL_EVENTS)
    execute(store, "UPDATE replicas SET epoch = epoch + 1")
    with pytest.raises(LostClaim):
        await settle(store, registered)
    view = await store.watch(registered.watch.id, None)
    assert (view.watch.state, view.task.snapshot.status) == (WatchState.ACTIVE, TaskStatus.UNKNOWN)


async def test_another_replicas_task_is_not_settled(store: Store) -> None:
    registered = await register_watch(store)
    execute(store, "UPDATE tasks SET owner = 'another'")
    with pytest.raises(LostClaim):
        await settle(store, registered)


async def test_each_caller_gets_its_own_lost_claim(store: Store) -> None:
    """The traceback of one exception that is raised again and again would grow and never be freed."""
    registered = await register_watch(store)
    await settle(store, registered)
    results = await asyncio.gather(*(settle(store, registered) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(one, LostClaim) for one in results)
    assert len({id(one) for one in results}) == 5


async def test_many_tasks_settle_in_one_commit_each_with_its_own_result(store: Store) -> None:
    registered = await asyncio.gather(*(register_watch(store) for _ in range(20)))
    gone = registered[7]
    await store.cancel(gone.watch.id, None)
    results = await asyncio.gather(*(settle(store, one) for one in registered), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["Changed"] * 7 + ["LostClaim"] + ["Changed"] * 12
    assert len(rows(store, "SELECT id FROM outbox")) == 19


async def test_an_event_that_cannot_be_built_does_not_affect_the_others(store: Store) -> None:
    bad, good = await register_watch(store), await register_watch(store)

    def breaks(_watch: Watch) -> Ending | None:
        raise ZeroDivisionError

    results = await asyncio.gather(
        store.settle(settlement(store, bad.view.task.row, breaks)), settle(store, good), return_exceptions=True
    )
    assert isinstance(results[0], Exception)
    assert (await store.watch(bad.watch.id, None)).watch.state is WatchState.ACTIVE
    assert (await store.watch(good.watch.id, None)).watch.state is WatchState.SETTLED


async def test_a_watch_settles_although_its_secret_does_not_decrypt(store: Store) -> None:
    """The secret's bytes may be damaged. The watch still ends, and its delivery waits unclaimed."""
    bad = await register_watch(store, task_id="shared", secret="whsec_own")
    good = await register_watch(store, task_id="shared", app="other")
    execute(store, "UPDATE watches SET secret = :noise WHERE id = :id", noise=b"noise", id=bad.watch.id)
    changed = await settle(store, good)
    assert len(changed.settled) == 2
    assert [claimed.watch_id for claimed in changed.claimed] == [good.watch.id]
    assert one_row(store, "SELECT count(*) FROM outbox WHERE lease IS NULL") == 1
