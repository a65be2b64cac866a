"""When a receiver is paused at one replica, no replica sends to it, also after that replica was killed."""

import pytest

from tests.e2e.bridges import OPERATOR, Answer, check_all_delivered, rows
from tests.e2e.harness import Environment
from tests.replicas.harness import Cluster
from tests.working_time import working_seconds

FOLLOW_SECONDS = 5.0


def shows_one_paused(metrics: Answer) -> bool:
    return b"\namux_bridge_paused_receivers 1.0\n" in metrics.body


@pytest.mark.long
async def test_every_replica_follows_a_pause_and_its_end(env: Environment, cluster: Cluster) -> None:
    one, two = await cluster.start(), await cluster.start()
    name = env.receiver.url.split("/")[2]
    answer = await one.bridge.ask("POST", f"/receivers/{name}/pause", headers=OPERATOR)
    assert (answer.status, answer.json["paused_by"] is None) == (200, False)
    started = working_seconds()
    await two.bridge.until("GET", "/metrics", shows_one_paused)
    assert working_seconds() - started < FOLLOW_SECONDS
    watches = await two.bridge.register_many([env.finished_task() for _ in range(20)], env.receiver.url)
    for watch in watches:
        await two.bridge.final(watch)
    await one.process.kill()
    assert len(rows(env.database_url, "SELECT id FROM outbox")) == 20
    assert env.receiver.arrived == []
    assert (await two.bridge.ask("POST", f"/receivers/{name}/resume", headers=OPERATOR)).status == 200
    await env.receiver.wait_for_events(watches)
    await two.stop()
    check_all_delivered(env.database_url, watches)
    assert {row.attempts for row in rows(env.database_url, "SELECT attempts FROM deliveries")} == {1}
