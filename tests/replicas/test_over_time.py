"""Tests over minutes that nothing is lost: restarts of PostgreSQL and of every replica, random kills and freezes."""

import asyncio
import random
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

import bridge.store.migrations
from bridge.sandbox import Behaviour
from tests.databases import PostgresServer, running_server
from tests.e2e.bridges import SHORT_LEASE, SHORT_LEASE_SECONDS, check_all_delivered, rows
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import Call, Receiver, accept, answer
from tests.replicas.harness import ReplicaProcess, run_cluster, wait_until

pytestmark = pytest.mark.long

# A short freeze, one that ends just before the lease expires, and one that ends after it.
FROZEN_SECONDS = (0.3, SHORT_LEASE_SECONDS - 0.5, SHORT_LEASE_SECONDS + 1.5)

NEWER = '''"""A column that only a newer bridge has."""

import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("watches", sa.Column("only_newer", sa.Text(), nullable=True))
'''


@asynccontextmanager
async def load(env: Environment, replicas: list[ReplicaProcess], *run_seconds: float) -> AsyncIterator[list[str]]:
    """Registers watches continuously. Tries each at one replica after another until one accepts it. Yields their ids.

    The tasks run for the seconds in `run_seconds`, in turn. Without them, each task ends at once.
    """
    durations = cycle(run_seconds or [0.0])
    accepted: list[str] = []
    stopped = asyncio.Event()

    async def register(place: int) -> None:
        while not stopped.is_set():
            body: dict[str, Any] = {
                "task_id": env.amux.create_task(Behaviour(queue_seconds=0, run_seconds=next(durations))),
                "callback_url": env.receiver.url,
            }
            was_accepted = False
            while not was_accepted and not (stopped.is_set() and not replicas):
                one = replicas[place % len(replicas)]
                place += 1
                with suppress(aiohttp.ClientError, TimeoutError):
                    timeout = aiohttp.ClientTimeout(total=6)
                    answer = await one.bridge.ask("POST", "/watch", json=body, timeout=timeout)
                    assert answer.status in {200, 201, 503}, answer
                    if was_accepted := answer.status != 503:
                        accepted.append(answer.json["id"])
                await asyncio.sleep(0.1)  # a steady load, not the most that the machine can do

    work = [asyncio.create_task(register(place)) for place in range(4)]
    try:
        yield accepted
    finally:
        stopped.set()
        await asyncio.gather(*work)


async def check(env: Environment, accepted: list[str], replicas: list[ReplicaProcess]) -> None:
    """Checks that every stored watch ends once, also if its registration got no answer. Then stops all replicas."""
    stored = [row.id for row in rows(env.database_url, "SELECT id FROM watches")]
    assert set(accepted) <= set(stored)
    await env.receiver.wait_for_events(stored)
    pending = "SELECT id FROM deliveries WHERE state = 'pending'"
    await wait_until(lambda: not rows(env.database_url, pending), "every delivery to be recorded")
    await asyncio.gather(*(one.stop() for one in replicas))
    check_all_delivered(env.database_url, stored)
    env.receiver.check_copies()


async def test_postgresql_restarted_under_load_loses_nothing() -> None:
    with running_server() as server:
        async with environment(server.migrated()) as env, run_cluster(env) as cluster:
            replicas = [await cluster.start() for _ in range(2)]
            async with load(env, replicas) as accepted:
                for _ in range(2):
                    before = len(accepted)
                    await wait_until(lambda before=before: len(accepted) >= before + 40, "a load")
                    await asyncio.to_thread(server.restart)
                before = len(accepted)
                await wait_until(lambda: len(accepted) >= before + 40, "a load after the restart")
            await check(env, accepted, replicas)


def newer_migrations(folder: Path) -> Path:
    """Copies the package's migrations and adds one revision. Returns the folder for the hook `migrations`."""
    source = Path(bridge.store.migrations.__path__[0])
    package = folder / "newer" / "migrations"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    package.with_name("__init__.py").touch()
    head = max(path.name[:4] for path in (package / "versions").glob("0*.py"))
    (package / "versions" / "0099_newer.py").write_text(NEWER.format(head=head))
    return folder


async def test_a_rolling_restart_with_a_migration_loses_nothing(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    newer = {"migrations": str(newer_migrations(tmp_path))}
    async with environment(postgres_server.migrated()) as env, run_cluster(env) as cluster:
        replicas = [await cluster.start() for _ in range(2)]
        async with load(env, replicas) as accepted:
            await wait_until(lambda: len(accepted) >= 30, "a load")
            for place, old in enumerate(list(replicas)):
                replicas[place] = await cluster.start(newer)
                await old.stop()
                before = len(accepted)
                await wait_until(lambda before=before: len(accepted) >= before + 30, "a load")
        await check(env, accepted, replicas)
        assert rows(env.database_url, "SELECT version_num FROM alembic_version")[0].version_num == "0099"


@pytest.mark.parametrize("seed", [11, 12])
async def test_after_random_kills_and_freezes_every_watch_has_one_end(
    postgres_server: PostgresServer, seed: int
) -> None:
    # There are two generators, so that the kills and freezes do not depend on when callbacks arrive.
    actions, answers = random.Random(seed), random.Random(seed)

    async def mostly(receiver: Receiver, call: Call) -> web.StreamResponse:
        return await (accept if answers.random() < 0.8 else answer(503))(receiver, call)

    url = postgres_server.migrated()
    async with environment(url, mostly, clock=time.monotonic) as env, run_cluster(env) as cluster:
        replicas = [await cluster.start(SHORT_LEASE) for _ in range(3)]
        async with load(env, replicas, 0.0, 1.0, 5.0) as accepted:
            for _ in range(8):
                before = len(accepted)
                await wait_until(lambda before=before: len(accepted) >= before + 15, "a load")
                place = actions.randrange(len(replicas))
                if actions.random() < 0.5:
                    await replicas[place].process.kill()
                    replicas[place] = await cluster.start(SHORT_LEASE)
                else:
                    replicas[place].process.signal(signal.SIGSTOP)
                    await asyncio.sleep(actions.choice(FROZEN_SECONDS))  # the duration of the freeze
                    replicas[place].process.signal(signal.SIGCONT)
        env.receiver.responder = accept
        await check(env, accepted, replicas)
        assert any(one.log_lines("tasks_adopted") for one in replicas)
