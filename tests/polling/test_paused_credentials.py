"""A refused key, a 429 or a wrong base URL makes watches wait, and ends none of them."""

import logging

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.credential import CredentialState
from bridge.core.health import HealthCode
from bridge.core.model import Outcome, WatchState
from bridge.core.schedule import PollPolicy
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import CONFIGURED
from tests.polling.harness import AMUX_SECONDS, DONE, KEY, QUICK, RUNNING, Harness
from tests.polling.scripted_amux import live, nested, scripted_amux


def events_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "bridge.polling"]


async def test_a_refused_key_ends_no_watch_and_an_accepted_key_settles_all(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    harness.sandbox.keys = frozenset({"sk-another"})
    poller = harness.poller()
    watches = [await harness.register(harness.sandbox.create_task(DONE), poller) for _ in range(30)]
    await harness.until(lambda: harness.sandbox.polls.total() >= 4)
    [state] = poller.credentials()
    assert (state.name, state.state) == (CONFIGURED, CredentialState.PAUSED)
    assert harness.sandbox.polls.total() <= 24  # sixteen polls that were under way, then probes
    assert [word in poller.degraded()[0].message for word in ("AMUX_API_KEY", "refuses")] == [True, True]
    assert not any([await harness.outcome(watch) for watch in watches])
    harness.sandbox.keys = None
    await harness.until(lambda: poller.owned == 0)
    assert {await harness.outcome(watch) for watch in watches} == {Outcome.COMPLETED}
    assert poller.degraded() == []
    logged = events_of(caplog)
    assert (logged.count("credential_paused"), logged.count("credential_resumed")) == (1, 1)
    assert KEY not in caplog.text


async def test_a_watch_s_own_key_is_paused_without_the_configured_key(harness: Harness) -> None:
    harness.sandbox.keys = frozenset({KEY})
    poller = harness.poller()
    own = await harness.register(harness.sandbox.create_task(DONE), poller, api_key="sk-revoked")
    other = await harness.register(harness.sandbox.create_task(DONE), poller)
    await harness.until(lambda: len(harness.deliveries) == 1)
    await harness.sandbox.polled(own.watch.task_id, 2)
    assert await harness.outcome(other) is Outcome.COMPLETED
    assert (await harness.view(own)).watch.state is WatchState.ACTIVE
    assert [credential.state for credential in poller.credentials()] == [CredentialState.GOOD, CredentialState.PAUSED]
    assert poller.degraded() == []
    assert "sk-revoked" not in repr(poller.credentials())


async def test_watches_wait_for_a_start_with_a_key_when_there_is_none(harness: Harness) -> None:
    harness.key = None
    poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.02, max_interval=60))
    watch = await harness.register(harness.sandbox.create_task(DONE), poller)
    await harness.until(lambda: bool(poller.degraded()))
    assert harness.sandbox.polls.total() == 0
    await poller.drain(5)
    harness.key = KEY
    restarted = harness.poller()
    await restarted.load()
    await harness.until(lambda: restarted.owned == 0)
    assert await harness.outcome(watch) is Outcome.COMPLETED


async def test_after_a_429_all_tasks_wait_for_the_time_that_amux_asks_for(harness: Harness) -> None:
    poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.05, max_interval=0.1))
    throttled = harness.sandbox.create_task(
        Behaviour(
            queue_seconds=0,
            run_seconds=0,
            faults=(Fault(FaultKind.RATE_LIMITED, retry_after=1),),
        )
    )
    await harness.register(throttled, poller)
    await harness.sandbox.polled(throttled)
    await harness.until(lambda: poller.credentials()[0].state is CredentialState.THROTTLED)
    began = harness.store.now()
    others = [await harness.register(harness.sandbox.create_task(DONE), poller) for _ in range(10)]
    await harness.until(lambda: poller.owned == 0)
    assert harness.store.now() - began > 0.9
    assert {await harness.outcome(watch) for watch in others} == {Outcome.COMPLETED}
    assert sum(harness.sandbox.polls.values()) == 12


async def test_a_wrong_base_url_ends_no_watch_and_is_reported_while_it_lasts(harness: Harness) -> None:
    wrong = AmuxClient(f"{await _base(harness)}/wrong", user_agent="amux-bridge/test", timeout_seconds=AMUX_SECONDS)
    poller = harness.poller(client=wrong)
    watch = await harness.register(harness.sandbox.create_task(DONE), poller, age=3000)
    await harness.until(lambda: harness.sandbox.unknown_paths.total() >= 8)
    assert (await harness.view(watch)).watch.state is WatchState.ACTIVE
    assert "AMUX_BASE_URL" in poller.degraded()[0].message
    await poller.drain(5)
    await wrong.close()
    right = harness.poller()
    await right.load()
    await harness.until(lambda: right.owned == 0)
    assert right.degraded() == []


async def test_answers_that_come_from_amux_again_end_the_warning(harness: Harness) -> None:
    poller = harness.poller(QUICK)
    faults = (Fault(FaultKind.WRONG_BASE_404, times=3), Fault(FaultKind.SERVER_ERROR))
    task_id = harness.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=3600, faults=faults))
    await harness.register(task_id, poller)
    await harness.until(lambda: bool(poller.degraded()))
    await harness.until(lambda: not poller.degraded())
    assert harness.sandbox.polls[task_id] >= 5


async def _base(harness: Harness) -> str:
    return harness.client._base_url


async def test_failing_polls_are_made_less_and_less_often(harness: Harness) -> None:
    poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.01, max_interval=10))
    harness.sandbox.outage = Fault(FaultKind.BAD_GATEWAY_HTML, times=None)
    task_id = harness.sandbox.create_task(RUNNING)
    watch = await harness.register(task_id, poller)
    await harness.sandbox.polled(task_id, 6)
    await harness.until(lambda: (live := poller.live(watch.view.task.row)) is not None and live.polls >= 6)
    live = poller.live(watch.view.task.row)
    assert live is not None
    assert live.next_poll_at is not None
    assert live.next_poll_at - harness.store.now() > 0.15  # 10 ms, doubled five times
    assert live.last_error is not None
    assert live.last_error_at == pytest.approx(harness.store.now(), abs=2)


async def test_an_error_of_amuxs_gateway_pauses_the_key_and_ends_no_watch(harness: Harness) -> None:
    dead_channel = nested(400, "Invalid channel ID (request id: x)", "new_api_error")
    async with scripted_amux() as (amux, client):
        amux.scripts["task_1"] = [*[dead_channel] * 7, live("succeeded", url="https://v.example/a.mp4")]
        poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.01, max_interval=0.01), client=client)
        watch = await harness.register("task_1", poller)
        await harness.until(lambda: bool(poller.degraded()))
        assert "Invalid channel ID" in poller.degraded()[0].message
        await harness.until(lambda: poller.owned == 0)
        assert await harness.outcome(watch) is Outcome.COMPLETED
        assert poller.degraded() == []


async def test_nested_errors_of_another_type_still_end_a_watch(harness: Harness) -> None:
    async with scripted_amux() as (amux, client):
        amux.scripts["task_1"] = [nested(400, "Bad request", "invalid_request_error")]
        poller = harness.poller(client=client)
        watch = await harness.register("task_1", poller)
        await harness.until(lambda: poller.owned == 0)
        assert await harness.outcome(watch) is Outcome.UNAVAILABLE
        assert len(amux.polled_at["task_1"]) == 5


def routing_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [word for word in events_of(caplog) if word.startswith("misrout")]


async def test_a_few_misrouted_tasks_among_good_ones_are_logged_once_each_way(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    poller = harness.poller(QUICK)
    good = [harness.sandbox.create_task(RUNNING) for _ in range(20)]
    wrong = Behaviour(faults=(Fault(FaultKind.WRONG_BASE_404, times=None),))
    bad = [harness.sandbox.create_task(wrong) for _ in range(2)]
    watches = [await harness.register(task_id, poller) for task_id in (*good, *bad)]
    for task_id in (*bad, *good):
        await harness.sandbox.polled(task_id, 12)
    assert routing_lines(caplog) == ["misrouted"]
    assert "AMUX_BASE_URL" in poller.degraded()[0].message
    harness.sandbox.change(bad[0], RUNNING)
    poller.drop(watches[-1].view.task.row)  # a dropped task no longer counts as misrouted
    await harness.until(lambda: not poller.degraded())
    await harness.sandbox.polled(good[0], harness.sandbox.polls[good[0]] + 5)
    assert routing_lines(caplog) == ["misrouted", "misrouting_ended"]


async def test_answers_that_alternate_between_amux_and_a_proxy_are_logged_once_each_way(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with scripted_amux() as (amux, client):
        amux.scripts["task_1"] = [*[(404, {"detail": "Not Found"}), live("processing")] * 8, live("processing")]
        poller = harness.poller(QUICK, client=client)
        await harness.register("task_1", poller)
        await harness.until(lambda: len(amux.polled_at["task_1"]) >= 16)
        assert routing_lines(caplog) == ["misrouted"]
        await harness.until(lambda: not poller.degraded())
        assert routing_lines(caplog) == ["misrouted", "misrouting_ended"]


async def test_a_restart_into_429s_is_reported_while_it_lasts(harness: Harness) -> None:
    task_id = harness.sandbox.create_task(RUNNING)
    await harness.register(task_id)
    harness.sandbox.outage = Fault(FaultKind.RATE_LIMITED, times=None)
    poller = harness.poller(QUICK)
    await poller.load()
    await harness.until(lambda: bool(poller.degraded()))
    [reason] = poller.degraded()
    assert reason.code is HealthCode.KEY_THROTTLED
    assert all(part in reason.message for part in ("AMUX_API_KEY", "429", "Too many requests"))
    harness.sandbox.outage = None
    await harness.until(lambda: not poller.degraded())
    assert poller.credentials()[0].state is CredentialState.GOOD


async def test_429s_are_reported_only_when_there_are_several_in_a_row_once_amux_has_accepted_the_key(
    harness: Harness,
) -> None:
    rare = (429, {"error": {"message": "Too many requests", "type": "x"}})
    async with scripted_amux() as (amux, client):
        amux.scripts["task_1"] = [live("processing"), rare, live("processing"), *[rare] * 3]
        poller = harness.poller(PollPolicy(first_delay=0.01, interval=0.2, max_interval=0.2), client=client)
        await harness.register("task_1", poller)
        await harness.until(lambda: poller.credentials()[0].state is CredentialState.THROTTLED)
        assert poller.degraded() == []
        await harness.until(lambda: bool(poller.degraded()))
        assert len(amux.polled_at["task_1"]) >= 5
