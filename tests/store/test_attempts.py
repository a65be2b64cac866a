"""Attempts: each is written with its result, under its claim; final deliveries can be retried."""

import asyncio

import pytest

from bridge.core.delivery import RetryAt, Verdict
from bridge.core.errors import LostClaim, NotFound
from bridge.core.model import DeliveryState
from bridge.store import outbox
from bridge.store.records import DeadFilter
from bridge.store.store import Store
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    DELIVERED,
    HOST,
    SERVER_ERROR,
    attempt_result,
    claimed_delivery,
    dead_delivery,
    due_delivery,
    execute,
    one_row,
    record_attempt,
    record_status,
    register_watch,
    retry_at,
    rows,
)

MINUTE = 60.0


async def test_success_ends_a_delivery(store: Store) -> None:
    one = await claimed_delivery(store)
    now = store.now()
    await record_attempt(store, attempt_result(store, one, DELIVERED, at=now))
    view, [attempt] = await store.delivery(one.id, "app")
    assert (view.state, view.attempts, view.delivered_at) == (DeliveryState.DELIVERED, 1, now)
    assert (view.next_attempt_at, view.last_error) == (None, None)
    assert (attempt.status_code, attempt.error, attempt.started_at) == (204, None, now - 0.25)
    assert rows(store, "SELECT id FROM outbox") == []


async def test_a_failed_delivery_is_due_again_at_the_verdicts_time(store: Store) -> None:
    one = await claimed_delivery(store)
    at = store.now() + MINUTE
    await record_attempt(store, attempt_result(store, one, retry_at(at)))
    view, [attempt] = await store.delivery(one.id, "app")
    assert (view.state, view.attempts, view.next_attempt_at) == (DeliveryState.PENDING, 1, at)
    assert view.last_error == SERVER_ERROR
    assert (attempt.status_code, attempt.error, attempt.body) == (500, SERVER_ERROR, "oops")
    assert one_row(store, "SELECT due_at, lease FROM outbox") == (at, None)


async def test_giving_up_keeps_the_delivery_and_its_error(store: Store) -> None:
    one = await claimed_delivery(store)
    now = store.now()
    await record_attempt(store, attempt_result(store, one, DEAD, at=now))
    view, _ = await store.delivery(one.id, "app")
    assert (view.state, view.dead_at, view.next_attempt_at) == (DeliveryState.DEAD, now, None)
    assert view.last_error == SERVER_ERROR
    assert rows(store, "SELECT id FROM outbox") == []


async def test_a_success_clears_the_error_before_it(store: Store) -> None:
    one = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, one, retry_at(store.now() - 1)))
    [again] = await store.claim({HOST: 1}, MINUTE)
    assert again.round_attempts == 1
    await record_attempt(store, attempt_result(store, again))
    view, attempts = await store.delivery(one.id, None)
    assert (view.attempts, view.last_error) == (2, None)
    assert [attempt.status_code for attempt in attempts] == [500, 204]


async def test_one_claim_is_good_for_one_attempt(store: Store) -> None:
    one = await claimed_delivery(store)
    results = await asyncio.gather(
        *(record_attempt(store, attempt_result(store, one, retry_at(store.now()))) for _ in range(3)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["LostClaim", "LostClaim", "RetryAt"]
    assert one_row(store, "SELECT count(*) FROM attempts") == 1


async def test_many_attempts_in_one_commit_each_have_their_own_verdict(store: Store) -> None:
    ones = [await claimed_delivery(store) for _ in range(6)]
    at = store.now() + MINUTE
    verdicts = [DELIVERED, retry_at(at), DEAD] * 2
    written = await asyncio.gather(
        *(
            record_attempt(store, attempt_result(store, one, verdict))
            for one, verdict in zip(ones, verdicts, strict=True)
        )
    )
    assert written == verdicts
    states = [(await store.delivery(one.id, None))[0].state for one in ones]
    assert states == ["delivered", "pending", "dead"] * 2
    assert {row.id for row in rows(store, "SELECT id FROM outbox")} == {ones[1].id, ones[4].id}


async def test_a_lost_claim_does_not_affect_the_others(store: Store) -> None:
    good, bad = await claimed_delivery(store), await claimed_delivery(store)
    execute(store, "UPDATE outbox SET lease = 'another' WHERE id = :id", id=bad.id)
    results = await asyncio.gather(
        record_attempt(store, attempt_result(store, bad)),
        record_attempt(store, attempt_result(store, good)),
        return_exceptions=True,
    )
    assert isinstance(results[0], LostClaim)
    assert results[1] == DELIVERED
    assert (await store.delivery(bad.id, None))[0].state is DeliveryState.PENDING


async def test_failing_hosts_are_stored_until_they_answer(store: Store) -> None:
    first, second = await claimed_delivery(store), await claimed_delivery(store, host="two.example:80")
    await record_attempt(store, attempt_result(store, first, retry_at(store.now()), host_failures=3))
    await record_attempt(store, attempt_result(store, second, retry_at(store.now())))  # it counts no host failures
    assert await store.host_failures() == {HOST: 3}
    [again] = await store.claim({HOST: 1}, MINUTE)
    await record_attempt(store, attempt_result(store, again, retry_at(store.now()), host_failures=4))
    assert await store.host_failures() == {HOST: 4}
    [again] = await store.claim({HOST: 1}, MINUTE)
    await record_attempt(store, attempt_result(store, again, host_failures=0))
    assert await store.host_failures() == {}


async def test_another_apps_delivery_is_not_found(store: Store) -> None:
    one = await claimed_delivery(store)
    for delivery_id, app in ((one.id, "other"), ("evt_none", None)):
        with pytest.raises(NotFound):
            await store.delivery(delivery_id, app)
        with pytest.raises(NotFound):
            await store.retry(delivery_id, app)


# --- retries on request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [DEAD, DELIVERED])
async def test_a_final_delivery_is_retried_with_the_same_id_and_a_new_schedule(store: Store, verdict: object) -> None:
    one = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, one, verdict))  # type: ignore[arg-type]
    view = await store.retry(one.id, "app")
    assert (view.id, view.state, view.attempts) == (one.id, DeliveryState.PENDING, 1)
    assert (view.dead_at, view.delivered_at) == (None, None)
    [again] = await store.claim({HOST: 1}, MINUTE)
    assert (again.id, again.payload, again.round_attempts) == (one.id, one.payload, 0)


async def test_a_retry_makes_a_postponed_delivery_due_now(store: Store) -> None:
    one = await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, one, retry_at(store.now() + MINUTE)))
    view = await store.retry(one.id, "app")
    assert view.next_attempt_at == pytest.approx(store.now(), abs=10)
    assert [again.id for again in await store.claim({HOST: 1}, MINUTE)] == [one.id]


@pytest.mark.parametrize("earlier_attempts", [0, 1])
@pytest.mark.parametrize("verdict", [DELIVERED, DEAD, retry_at(5e9)])
async def test_a_retry_requested_during_an_attempt_is_a_new_attempt_after_it(
    store: Store, verdict: Verdict, earlier_attempts: int
) -> None:
    """The answer does not matter: it may be a success, the last attempt, or one whose next attempt is hours away."""
    one = await claimed_delivery(store)
    for _ in range(earlier_attempts):
        await record_attempt(store, attempt_result(store, one, retry_at(store.now() - 1)))
        [one] = await store.claim({HOST: 1}, MINUTE)
    await store.retry(one.id, "app")
    assert await store.claim({HOST: 1}, MINUTE) == []  # no claim before the attempt has ended
    now = store.now()
    error = None if verdict == DELIVERED else SERVER_ERROR
    assert await record_attempt(store, attempt_result(store, one, verdict, at=now)) == RetryAt(now, error)
    view = (await store.delivery(one.id, None))[0]
    assert (view.state, view.last_error, view.next_attempt_at) == (DeliveryState.PENDING, error, now)
    [again] = await store.claim({HOST: 1}, MINUTE)
    assert (again.id, again.attempts, again.round_attempts) == (one.id, earlier_attempts + 1, 0)
    assert await record_attempt(store, attempt_result(store, again)) == DELIVERED  # the retry is made once


async def test_of_many_recorded_together_only_the_requested_retry_is_sent_again(store: Store) -> None:
    several = [await claimed_delivery(store) for _ in range(3)]
    await store.retry(several[1].id, None)
    verdicts = await store.record_attempts([attempt_result(store, one) for one in several])
    assert [isinstance(verdict, RetryAt) for verdict in verdicts] == [False, True, False]
    assert [one.id for one in await store.claim({HOST: 9}, MINUTE)] == [several[1].id]


async def test_a_retry_requested_during_a_claim_that_is_released_is_one_attempt(store: Store) -> None:
    one = await claimed_delivery(store)
    await store.retry(one.id, "app")
    await store.release([one])
    [again] = await store.claim({HOST: 1}, MINUTE)
    assert await record_attempt(store, attempt_result(store, again)) == DELIVERED


async def test_dead_deliveries_are_found_by_time_host_and_app(store: Store) -> None:
    now = store.now()
    await dead_delivery(store, at=now - 100)
    young = await dead_delivery(store, at=now - 10, host="two.example:8443")
    other = await dead_delivery(store, at=now - 50, app="other")
    longer = await dead_delivery(store, at=now - 5, host="two.example.org:443")
    found = {
        DeadFilter(): 4,
        DeadFilter(app="other"): 1,
        DeadFilter(since=now - 60): 3,
        DeadFilter(until=now - 60): 1,
        DeadFilter(since=now - 60, until=now - 20): 1,
        DeadFilter(host="two.example"): 1,
        DeadFilter(host="TWO.example"): 1,
        DeadFilter(host="two_example"): 0,
        DeadFilter(host="two.example", app="other"): 0,
    }
    assert {dead: await store.count_dead(dead) for dead in found} == found
    assert await store.retry_dead(DeadFilter(since=now - 60, until=now - 20)) == 1
    assert [again.id for again in await store.claim({HOST: 9, young.host: 9, longer.host: 9}, MINUTE)] == [other.id]


async def test_many_dead_deliveries_are_retried_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRIED_AT_ONCE", 2)
    for _ in range(5):
        await dead_delivery(store)
    assert await store.retry_dead(DeadFilter()) == 5
    assert await store.retry_dead(DeadFilter()) == 0
    assert await store.due_hosts() == {HOST: 5}


async def test_a_delivery_that_died_before_the_clock_was_set_back_is_retried(store: Store) -> None:
    await dead_delivery(store, at=store.now() + MINUTE)
    assert await store.count_dead(DeadFilter()) == 1
    assert await store.retry_dead(DeadFilter()) == 1


async def test_pending_and_delivered_deliveries_are_not_retried_with_the_dead_ones(store: Store) -> None:
    waiting, sent = await due_delivery(store), await claimed_delivery(store)
    await record_attempt(store, attempt_result(store, sent))
    assert await store.retry_dead(DeadFilter()) == 0
    assert (await store.delivery(waiting.id, None))[0].state is DeliveryState.PENDING


async def test_superseded_status_events_do_not_count_as_dead_deliveries(store: Store) -> None:
    """The watch has ended since then, so a late status event would be wrong."""
    registered = await register_watch(store, events=ALL_EVENTS)
    [status] = (await record_status(store, registered)).claimed
    await store.cancel(registered.watch.id, None)
    assert await store.count_dead(DeadFilter()) == 0
    assert await store.retry_dead(DeadFilter()) == 0
    assert (await store.counts()).dead_deliveries == 0
    assert (await store.delivery(status.id, None))[0].state is DeliveryState.DEAD
