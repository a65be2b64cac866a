"""The batch lane with several replicas: each reads its own tasks in full batches, also after a replica was killed."""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest

from bridge.sandbox import Behaviour, Outcome, Platform
from bridge.sandbox.batch import BatchCall
from tests.databases import PostgresServer
from tests.e2e.bridges import SHORT_LEASE, check_all_delivered
from tests.e2e.harness import Environment, environment
from tests.replicas.harness import Cluster, ReplicaProcess, owners, run_cluster, wait_until

pytestmark = pytest.mark.long

REPLICAS, TASKS, SIZE, INTERVAL = 3, 3_000, 100, 2.0
SETTINGS = {
    "amux_batch_size": str(SIZE),
    "amux_batch_interval_seconds": str(INTERVAL),
    "poll_first_delay_seconds": "0.5",
    "poll_interval_seconds": "5",
    "poll_max_interval_seconds": "15",
}
RUNNING = Behaviour(queue_seconds=0, outcome=Outcome.NEVER, platform=Platform.KLING)
ENDED = Behaviour(queue_seconds=0, run_seconds=0, platform=Platform.KLING)
SECONDS = 120.0  # normally some seconds; 3,000 tasks take longer on a slow machine


class Replicas:
    """Replicas that have different keys, so that amux's stand-in knows which replica asked."""

    def __init__(self, env: Environment, cluster: Cluster) -> None:
        self.env, self.cluster = env, cluster
        self.by_key: dict[str, ReplicaProcess] = {}

    async def start(self) -> ReplicaProcess:
        key = f"sk-replica-{len(self.by_key)}-0123456789"
        found = self.by_key[key] = await self.cluster.start(SHORT_LEASE, amux_api_key=key, **SETTINGS)
        return found

    @property
    def running(self) -> list[ReplicaProcess]:
        return [one for one in self.by_key.values() if one.process.code is None]

    async def wait_for_batches(self, tasks: Sequence[str], more: int = 2) -> None:
        """Waits until each task was read in `more` further batches."""
        read = self.env.amux.batches.read
        before = {task: read[task] for task in tasks}
        await wait_until(lambda: all(read[task] >= before[task] + more for task in tasks), "batches", SECONDS)

    async def check_steady(self, tasks: Sequence[str]) -> None:
        """Checks that only its owner reads each task, in full batches, and no more often than promised."""
        await self.wait_for_batches(tasks)  # batches that began before this call have ended
        calls = self.env.amux.batches.calls
        calls.clear()
        began, polls = time.monotonic(), self.env.amux.polls.total()
        await self.wait_for_batches(tasks)
        seconds, found = time.monotonic() - began, list(calls)
        assert self.env.amux.polls.total() == polls
        owned = owners(self.env)
        load = Counter(owned[task] for task in tasks)
        assert load.keys() == {one.name for one in self.running}
        for key, own in _by_key(found).items():
            name = self.by_key[key].name
            read = {task for call in own for task in call.ids}
            assert {owned[task] for task in read} == {name}
            assert len(read) == load[name]
            assert {len(call.ids) for call in own} == {SIZE}
            most = seconds / (INTERVAL * SIZE / load[name])  # one read of each task in an interval
            assert len(own) <= 1.1 * most + 2, (len(own), most)


def _by_key(calls: Sequence[BatchCall]) -> dict[str, list[BatchCall]]:
    found: dict[str, list[BatchCall]] = defaultdict(list)
    for call in calls:
        found[call.key].append(call)
    return found


async def test_each_replica_reads_its_own_tasks_in_full_batches_also_after_one_was_killed(
    postgres_server: PostgresServer,
) -> None:
    async with (
        environment(postgres_server.migrated(), clock=time.monotonic, sweep_seconds=2.0) as env,
        run_cluster(env) as cluster,
    ):
        replicas = Replicas(env, cluster)
        started = [await replicas.start() for _ in range(REPLICAS)]
        tasks = [env.amux.create_task(RUNNING) for _ in range(TASKS)]
        watches: list[str] = []
        for place, one in enumerate(started):
            watches += await one.bridge.register_many(tasks[place::REPLICAS], env.receiver.url)
        await replicas.check_steady(tasks)

        first, during, after = (tasks[place::3] for place in range(3))
        _end(env, first)
        await env.receiver.until(lambda: len(env.receiver.ended_watches) >= len(first), SECONDS)
        await started[0].process.kill()
        _end(env, during)
        await env.receiver.until(lambda: len(env.receiver.ended_watches) >= len(first) + len(during), SECONDS)
        await replicas.start()
        await replicas.wait_for_batches(after)
        for one in replicas.running:
            new = [env.amux.create_task(RUNNING) for _ in range(300)]
            watches += await one.bridge.register_many(new, env.receiver.url)
        await replicas.check_steady(list(owners(env)))
        _end(env, list(owners(env)))
        await env.receiver.wait_for_events(watches, SECONDS)
        for one in replicas.running:
            await one.stop()
        check_all_delivered(env.database_url, watches)
        env.receiver.check_copies()
        assert len(env.receiver.ended_watches) == len(watches)


def _end(env: Environment, tasks: Sequence[str]) -> None:
    for task in tasks:
        env.amux.change(task, ENDED)
