"""Tests that nothing is lost when a replica is killed, frozen, stopped, or cut off from PostgreSQL."""

import signal
from typing import Any

import pytest
from aiohttp import web

from tests.e2e.bridges import SHORT_LEASE, check_all_delivered, rows
from tests.e2e.harness import Environment
from tests.e2e.receiver import Call, Receiver, accept, answer, hold
from tests.replicas.harness import (
    TAKEOVER_SECONDS,
    Cluster,
    PostgresProxy,
    owners,
    run_proxy,
    wait_for_owner,
    wait_until,
)
from tests.working_time import working_seconds

BEFORE_EXPIRY_SECONDS = 8.5  # the lease lasts 9 s
FAST_POLLS: dict[str, str] = {}
DEFAULT_POLLS = {"poll_interval_seconds": "5", "poll_max_interval_seconds": "15"}


@pytest.mark.parametrize(
    ("lease", "polls", "within"),
    [(SHORT_LEASE, FAST_POLLS, 7.0), pytest.param(None, DEFAULT_POLLS, TAKEOVER_SECONDS, marks=pytest.mark.long)],
    ids=["a short lease", "the default times"],
)
async def test_the_tasks_of_a_killed_replica_are_polled_by_others_in_time(
    env: Environment, cluster: Cluster, lease: Any, polls: dict[str, str], within: float
) -> None:
    """The limit is 15 s with the default lease of 9 s (long run only), and 7 s with a lease of 3 s."""
    one, two = await cluster.start(lease, **polls), await cluster.start(lease, **polls)
    env.receiver.responder = answer(500)
    tasks = [env.running_task() for _ in range(5)]
    watches = await one.bridge.register_many(tasks, env.receiver.url)
    watches.append(await one.bridge.register(env.finished_task(), env.receiver.url))
    await env.wait_for_polls(*tasks)
    await env.receiver.until(lambda: bool(env.receiver.calls))
    await one.process.kill()
    killed = working_seconds()
    env.receiver.responder = accept
    await env.wait_for_polls(*tasks)
    assert working_seconds() - killed < within
    assert set(owners(env).values()) == {two.name}
    env.clock.now += 11
    await env.receiver.wait_for_events(watches)
    await two.stop()
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()


async def test_a_stopping_replica_hands_its_tasks_over_at_once(env: Environment, cluster: Cluster) -> None:
    """The replica hands over while a receiver still holds its POST, and it gets no new tasks."""
    one, two = await cluster.start(), await cluster.start()
    env.receiver.responder = hold
    running = [env.running_task() for _ in range(5)]
    held_watch = await one.bridge.register(env.finished_task(), env.receiver.url)
    watches = await one.bridge.register_many(running, env.receiver.url)
    await env.receiver.until(lambda: bool(env.receiver.arrived))
    await env.wait_for_polls(*running)
    one.process.signal(signal.SIGTERM)
    await wait_for_owner(env, running, two.name, BEFORE_EXPIRY_SECONDS)
    assert one.process.code is None
    new = env.running_task()
    watches.append(await two.bridge.register(new, env.receiver.url))
    assert owners(env)[new] == two.name
    await env.wait_for_polls(*running, more=2)
    env.receiver.responder = accept
    env.receiver.released.set()
    assert await one.process.wait_for_exit() == 0
    one.process.check_no_exceptions()
    env.clock.now += 11
    await env.receiver.wait_for_events([held_watch, *watches])
    await two.stop()
    check_all_delivered(env.database_url, [held_watch, *watches])
    assert len(env.receiver.arrived) == 7


def attempt_bodies(env: Environment, watch: str) -> list[str | None]:
    """Returns the recorded body of the answer for each attempt of a watch."""
    query = "SELECT attempts.body FROM attempts JOIN deliveries ON deliveries.id = delivery_id WHERE watch_id = :one"
    return [row.body for row in rows(env.database_url, query, one=watch)]


@pytest.mark.long
async def test_a_replica_frozen_past_its_lease_writes_nothing_and_rejoins(env: Environment, cluster: Cluster) -> None:
    arrived: list[str] = []
    responders = [answer(500)]

    async def hold_the_first(receiver: Receiver, call: Call) -> web.StreamResponse:
        arrived.append(call.id)
        return await (hold if len(arrived) == 1 else responders[-1])(receiver, call)

    env.receiver.responder = hold_the_first
    one, two = await cluster.start(SHORT_LEASE), await cluster.start(SHORT_LEASE)
    posted = await one.bridge.register(env.finished_task(), env.receiver.url)
    await env.receiver.until(lambda: bool(env.receiver.arrived))
    task = env.running_task()
    running = await one.bridge.register(task, env.receiver.url)
    await env.wait_for_polls(task)
    one.process.signal(signal.SIGSTOP)
    await wait_for_owner(env, [task], two.name, TAKEOVER_SECONDS)
    env.clock.now += 11
    await wait_until(lambda: bool(attempt_bodies(env, posted)), "an attempt of the replica that took over")
    one.process.signal(signal.SIGCONT)
    env.receiver.released.set()
    await one.process.wait_for_log("replica_rejoined")
    await one.process.wait_for_log("lease_renewed")
    responders.append(accept)
    await env.receiver.wait_for_events([posted, running])
    new = await one.bridge.register(env.finished_task(), env.receiver.url)
    await env.receiver.wait_for_events([new])
    await one.stop()
    await two.stop()
    # The answer to the frozen replica's POST is not recorded: the other replica had claimed the delivery by then.
    assert set(attempt_bodies(env, posted)) == {None, "ok"}
    check_all_delivered(env.database_url, [posted, running, new])
    env.receiver.check_copies()


async def cut_off(proxy: PostgresProxy) -> None:
    await proxy.cut()


async def silence(proxy: PostgresProxy) -> None:
    proxy.silent = True


@pytest.mark.long
@pytest.mark.parametrize("cutting", [cut_off, silence])
async def test_a_replica_cut_off_from_postgresql_stops_in_time_and_rejoins(
    env: Environment, cluster: Cluster, cutting: Any
) -> None:
    async with run_proxy(env.database_url) as proxy:
        one, two = await cluster.start({**SHORT_LEASE, "store_limits": 1}, proxy), await cluster.start(SHORT_LEASE)
        task = env.running_task()
        watch = await one.bridge.register(task, env.receiver.url)
        await env.wait_for_polls(task)
        await cutting(proxy)
        body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
        refused = await one.bridge.ask("POST", "/watch", json=body)
        assert (refused.status, refused.seconds < 5) == (503, True), refused
        lease_lost = await one.process.wait_for_log("lease_expired")
        takeover = await two.process.wait_for_log("tasks_adopted")
        assert lease_lost["at"] < takeover["at"]  # it stopped its polls before the other replica took them over
        await wait_for_owner(env, [task], two.name, TAKEOVER_SECONDS)
        await one.bridge.until("GET", "/metrics", lambda answer: b"owned_tasks 0.0" in answer.body)
        if proxy.silent:
            proxy.resume()
        else:
            await proxy.open()
        await one.process.wait_for_log("replica_rejoined")
        await one.bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
        new = await one.bridge.register(env.finished_task(), env.receiver.url)
        env.clock.now += 11
        await env.receiver.wait_for_events([watch, new])
        await one.stop()
        await two.stop()
    check_all_delivered(env.database_url, [watch, new])
    env.receiver.check_copies()
