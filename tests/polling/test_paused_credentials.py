"""A key that amux refuses, a 429, a wrong base URL: watches wait, and none ends by it."""

import logging

import pytest

from bridge.amux.client import AmuxClient
from bridge.core.model import Outcome, WatchState
from bridge.core.schedule import PollPolicy
from bridge.polling.state import CredentialState
from bridge.sandbox import Behaviour, Fault, FaultKind
from bridge.store.records import CONFIGURED
from tests.polling.harness import (
    DONE,
    KEY,
    QUICK,
    RUNNING,
    Rig,
    rig_fixture,  # noqa: F401  a fixture
)


def events_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "bridge.polling"]


async def test_a_refused_key_ends_no_watch_and_a_good_one_settles_all(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rig.sandbox.keys = frozenset({"sk-another"})
    poller = rig.poller()
    watches = [await rig.register(rig.sandbox.create_task(DONE), poller) for _ in range(30)]
    await rig.until(lambda: rig.sandbox.polls.total() >= 4)
    [state] = poller.credentials()
    assert (state.name, state.state) == (CONFIGURED, CredentialState.PAUSED)
    assert rig.sandbox.polls.total() <= 24  # sixteen that were under way, then probes
    assert [word in poller.degraded()[0].message for word in ("AMUX_API_KEY", "refuses")] == [True, True]
    assert not any([await rig.outcome(watch) for watch in watches])
    rig.sandbox.keys = None
    await rig.until(lambda: poller.owned == 0)
    assert {await rig.outcome(watch) for watch in watches} == {Outcome.COMPLETED}
    assert poller.degraded() == []
    told = events_of(caplog)
    assert (told.count("credential_paused"), told.count("credential_resumed")) == (1, 1)
    assert KEY not in caplog.text


async def test_a_key_of_a_watch_s_own_rests_alone(rig: Rig) -> None:
    rig.sandbox.keys = frozenset({KEY})
    poller = rig.poller()
    own = await rig.register(rig.sandbox.create_task(DONE), poller, api_key="sk-revoked")
    other = await rig.register(rig.sandbox.create_task(DONE), poller)
    await rig.until(lambda: len(rig.owed) == 1)
    await rig.sandbox.polled(own.watch.task_id, 2)
    assert await rig.outcome(other) is Outcome.COMPLETED
    assert (await rig.view(own)).watch.state is WatchState.ACTIVE
    assert [each.state for each in poller.credentials()] == [CredentialState.GOOD, CredentialState.PAUSED]
    assert poller.degraded() == []
    assert "sk-revoked" not in repr(poller.credentials())


async def test_without_a_key_watches_wait_for_one(rig: Rig) -> None:
    rig.key = None
    poller = rig.poller(PollPolicy(first_delay=0.01, interval=0.02, max_interval=60))
    watch = await rig.register(rig.sandbox.create_task(DONE), poller)
    await rig.until(lambda: bool(poller.degraded()))
    assert rig.sandbox.polls.total() == 0
    rig.key = KEY  # and not after a pause of 60 s
    await rig.until(lambda: poller.owned == 0)
    assert await rig.outcome(watch) is Outcome.COMPLETED


async def test_a_429_has_all_rest_for_as_long_as_it_says(rig: Rig) -> None:
    poller = rig.poller(PollPolicy(first_delay=0.01, interval=0.05, max_interval=0.1))
    slowed = rig.sandbox.create_task(
        Behaviour(
            queue_seconds=0,
            run_seconds=0,
            faults=(Fault(FaultKind.RATE_LIMITED, retry_after=1),),
        )
    )
    await rig.register(slowed, poller)
    await rig.sandbox.polled(slowed)
    await rig.until(lambda: poller.credentials()[0].state is CredentialState.SLOWED)
    began = rig.store.now()
    others = [await rig.register(rig.sandbox.create_task(DONE), poller) for _ in range(10)]
    await rig.until(lambda: poller.owned == 0)
    assert rig.store.now() - began > 0.9
    assert {await rig.outcome(watch) for watch in others} == {Outcome.COMPLETED}
    assert sum(rig.sandbox.polls.values()) == 12


async def test_a_wrong_base_url_ends_no_watch_and_is_told_while_it_lasts(rig: Rig) -> None:
    wrong = AmuxClient(f"{await _base(rig)}/wrong", user_agent="amux-bridge/test", timeout_seconds=5)
    poller = rig.poller(client=wrong)
    watch = await rig.register(rig.sandbox.create_task(DONE), poller, age=3000)
    await rig.until(lambda: rig.sandbox.strays.total() >= 8)
    assert (await rig.view(watch)).watch.state is WatchState.ACTIVE
    assert "AMUX_BASE_URL" in poller.degraded()[0].message
    await poller.drain(5)
    await wrong.close()
    right = rig.poller()
    await right.start()
    await rig.until(lambda: right.owned == 0)
    assert right.degraded() == []


async def test_answers_that_are_amux_s_again_end_the_warning(rig: Rig) -> None:
    poller = rig.poller(QUICK)
    faults = (Fault(FaultKind.WRONG_BASE_404, times=3), Fault(FaultKind.SERVER_ERROR))
    task_id = rig.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=3600, faults=faults))
    await rig.register(task_id, poller)
    await rig.until(lambda: bool(poller.degraded()))
    await rig.until(lambda: not poller.degraded())
    assert rig.sandbox.polls[task_id] >= 5


async def _base(rig: Rig) -> str:
    return rig.client._base_url


async def test_polls_that_fail_are_backed_off(rig: Rig) -> None:
    poller = rig.poller(PollPolicy(first_delay=0.01, interval=0.01, max_interval=10))
    rig.sandbox.outage = Fault(FaultKind.BAD_GATEWAY_HTML, times=None)
    task_id = rig.sandbox.create_task(RUNNING)
    watch = await rig.register(task_id, poller)
    await rig.sandbox.polled(task_id, 6)
    await rig.until(lambda: (live := poller.live(watch.task_row)) is not None and live.polls >= 6)
    live = poller.live(watch.task_row)
    assert live is not None
    assert live.next_poll_at is not None
    assert live.next_poll_at - rig.store.now() > 0.15  # 10 ms, doubled five times
    assert live.last_error is not None
    assert live.last_error_at == pytest.approx(rig.store.now(), abs=2)
