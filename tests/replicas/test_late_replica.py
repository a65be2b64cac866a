"""Tests that a replica sends nothing under a claim that it has lost. The test freezes it while it holds claims.

The other replica takes the claims over and delivers everything. Then the frozen replica continues. It has deliveries
in its memory, or it gets a late answer of the database with new claims. Only an attempt that was under way at the
freeze may arrive twice.
"""

import signal
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.e2e.bridges import check_all_delivered, rows
from tests.e2e.harness import Environment
from tests.e2e.receiver import Call, Receiver, accept
from tests.replicas.harness import Cluster, PostgresProxy, ReplicaProcess, run_proxy, wait_until

pytestmark = pytest.mark.long
ONE_AT_A_TIME = {"delivery_concurrency_per_host": "1", "delivery_concurrency": "1"}
WATCHES = 40
SENT_BEFORE = 5


def settled(env: Environment) -> int:
    return int(rows(env.database_url, "SELECT count(*) AS n FROM watches WHERE state = 'settled'")[0].n)


def pending(env: Environment) -> int:
    return int(rows(env.database_url, "SELECT count(*) AS n FROM outbox")[0].n)


async def frozen_while_it_sends(
    env: Environment, one: ReplicaProcess, _proxy: PostgresProxy
) -> tuple[list[str], set[str]]:
    """Freezes the replica while one attempt is under way and others wait in its memory.

    Returns the watches and the ids of the deliveries that were under way.
    """
    held: list[str] = []

    async def hold_the_last(receiver: Receiver, call: Call) -> web.StreamResponse:
        if len(receiver.arrived) > SENT_BEFORE:
            held.append(call.id)
            await receiver.released.wait()
        return await accept(receiver, call)

    env.receiver.responder = hold_the_last
    watches = await one.bridge.register_many([env.finished_task() for _ in range(WATCHES)], env.receiver.url)
    await env.receiver.until(lambda: bool(held))
    await wait_until(lambda: settled(env) == WATCHES, "the end of all watches")
    await wait_until(lambda: pending(env) == WATCHES - SENT_BEFORE, "the records of what was sent before")
    one.process.signal(signal.SIGSTOP)
    env.receiver.responder = accept
    env.receiver.released.set()
    return watches, set(held)


async def frozen_before_an_answer_of_the_database(
    env: Environment, one: ReplicaProcess, proxy: PostgresProxy
) -> tuple[list[str], set[str]]:
    """Freezes the replica after the commit of settlements, before it gets the answer. A settlement claims its delivery.

    Returns the watches and no delivery, because no attempt was under way.
    """
    tasks = [env.running_task() for _ in range(WATCHES)]
    watches = await one.bridge.register_many(tasks, env.receiver.url)
    await env.wait_for_polls(*tasks)
    proxy.hold_answers()
    env.clock.now += 11
    await wait_until(lambda: settled(env) > 0, "the end of a watch")
    one.process.signal(signal.SIGSTOP)
    return watches, set()


@pytest.mark.parametrize("freeze", [frozen_while_it_sends, frozen_before_an_answer_of_the_database])
async def test_a_frozen_replica_sends_nothing_that_another_one_has_delivered_meanwhile(
    env: Environment,
    cluster: Cluster,
    freeze: Callable[[Environment, ReplicaProcess, PostgresProxy], Awaitable[tuple[list[str], set[str]]]],
) -> None:
    async with run_proxy(env.database_url) as proxy:
        # The lease has the default length. A short lease could expire before the freeze on a slow machine.
        one, two = await cluster.start(None, proxy, **ONE_AT_A_TIME), await cluster.start(**ONE_AT_A_TIME)
        watches, under_way = await freeze(env, one, proxy)
        await env.receiver.wait_for_events(watches)
        await wait_until(lambda: not pending(env), "the records of all attempts")
        proxy.release_answers()
        one.process.signal(signal.SIGCONT)
        await one.process.wait_for_log("replica_rejoined")
        # A delivery that the replica wrongly sends leaves before this new one, because it sends one at a time.
        last = await one.bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.wait_for_events([last])
        await one.stop()
        await two.stop()
    check_all_delivered(env.database_url, [*watches, last])
    env.receiver.check_copies()
    sent = Counter(call.id for call in env.receiver.arrived)
    assert {key for key, times in sent.items() if times > 1} <= under_way
    assert max(sent.values()) <= 2
