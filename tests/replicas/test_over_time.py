"""Attacks "nothing is lost" over minutes: PostgreSQL and every replica restarted, kills and freezes at random."""

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
from tests.e2e.bridges import SHORT_LEASE, SHORT_LEASE_SECONDS, check_all_ended, rows
from tests.e2e.harness import World, world
from tests.e2e.receiver import Call, Receiver, accept, answer
from tests.replicas.harness import Member, crowded, until

pytestmark = pytest.mark.long

# Hardly, until just before the lease's end, and past it.
FROZEN_SECONDS = (0.3, SHORT_LEASE_SECONDS - 0.5, SHORT_LEASE_SECONDS + 1.5)

NEWER = '''"""A column that only a newer bridge knows."""

import sqlalchemy as sa
from alembic import op

revision = "0099"
down_revision = "{head}"


def upgrade() -> None:
    op.add_column("watches", sa.Column("only_newer", sa.Text(), nullable=True))
'''


@asynccontextmanager
async def load(around: World, members: list[Member], *lasting: float) -> AsyncIterator[list[str]]:
    """Registrations without a pause at whoever answers, each again until it is taken; the watches that were told.

    `lasting` are the seconds that tasks run, in turn; without them each is over at once.
    """
    lengths = cycle(lasting or [0.0])
    told: list[str] = []
    over = asyncio.Event()

    async def register(place: int) -> None:
        while not over.is_set():
            body: dict[str, Any] = {
                "task_id": around.amux.create_task(Behaviour(queue_seconds=0, run_seconds=next(lengths))),
                "callback_url": around.receiver.url,
            }
            taken = False
            while not taken and not (over.is_set() and not members):
                one = members[place % len(members)]
                place += 1
                with suppress(aiohttp.ClientError, TimeoutError):
                    timeout = aiohttp.ClientTimeout(total=6)
                    answered = await one.bridge.ask("POST", "/watch", json=body, timeout=timeout)
                    assert answered.status in {200, 201, 503}, answered
                    if taken := answered.status != 503:
                        told.append(answered.json["id"])
                await asyncio.sleep(0.1)  # a steady load, not all that the machine can do

    work = [asyncio.create_task(register(place)) for place in range(4)]
    try:
        yield told
    finally:
        over.set()
        await asyncio.gather(*work)


async def check(around: World, told: list[str], members: list[Member]) -> None:
    """Every watch that is stored ends once, whoever was told of it; then all stop in good order."""
    stored = [row.id for row in rows(around.database_url, "SELECT id FROM watches")]
    assert set(told) <= set(stored)
    await around.receiver.has(stored, 60)
    pending = "SELECT id FROM deliveries WHERE state = 'pending'"
    await until(lambda: not rows(around.database_url, pending), "what was sent to be recorded")
    await asyncio.gather(*(one.stop() for one in members))
    check_all_ended(around.database_url, stored)
    around.receiver.check_copies()


async def test_postgresql_restarted_under_load_loses_nothing() -> None:
    with running_server() as server:
        async with world(server.migrated()) as around, crowded(around) as crowd:
            members = [await crowd.join() for _ in range(2)]
            async with load(around, members) as told:
                for _ in range(2):
                    before = len(told)
                    await until(lambda before=before: len(told) >= before + 40, "a load")
                    await asyncio.to_thread(server.restart)
                before = len(told)
                await until(lambda: len(told) >= before + 40, "a load after the restart")
            await check(around, told, members)


def newer_migrations(folder: Path) -> Path:
    """A copy of the package's migrations with one revision more."""
    source = Path(bridge.store.migrations.__path__[0])
    package = folder / "newer" / "migrations"
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    package.with_name("__init__.py").touch()
    head = max(path.name[:4] for path in (package / "versions").glob("0*.py"))
    (package / "versions" / "0099_newer.py").write_text(NEWER.format(head=head))
    return folder


async def test_a_rolling_restart_across_a_migration_loses_nothing(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    newer = {"migrations": str(newer_migrations(tmp_path))}
    async with world(postgres_server.migrated()) as around, crowded(around) as crowd:
        members = [await crowd.join() for _ in range(2)]
        async with load(around, members) as told:
            await until(lambda: len(told) >= 30, "a load")
            for place, old in enumerate(list(members)):
                members[place] = await crowd.join(newer)
                await old.stop()
                before = len(told)
                await until(lambda before=before: len(told) >= before + 30, "a load")
        await check(around, told, members)
        assert rows(around.database_url, "SELECT version_num FROM alembic_version")[0].version_num == "0099"


@pytest.mark.parametrize("seed", [11, 12])
async def test_after_random_kills_and_freezes_every_watch_has_one_end(
    postgres_server: PostgresServer, seed: int
) -> None:
    chance, moods = random.Random(seed), random.Random(seed)  # the script's own does not depend on who calls when

    async def mostly(receiver: Receiver, call: Call) -> web.StreamResponse:
        return await (accept if moods.random() < 0.8 else answer(503))(receiver, call)

    url = postgres_server.migrated()
    async with world(url, mostly, clock=time.monotonic) as around, crowded(around) as crowd:
        members = [await crowd.join(SHORT_LEASE) for _ in range(3)]
        async with load(around, members, 0.0, 1.0, 5.0) as told:
            for _ in range(8):
                before = len(told)
                await until(lambda before=before: len(told) >= before + 15, "a load", 60)
                place = chance.randrange(len(members))
                if chance.random() < 0.5:
                    await members[place].process.kill()
                    members[place] = await crowd.join(SHORT_LEASE)
                else:
                    members[place].process.signal(signal.SIGSTOP)
                    await asyncio.sleep(chance.choice(FROZEN_SECONDS))  # that is the freeze
                    members[place].process.signal(signal.SIGCONT)
        around.receiver.answering = accept
        await check(around, told, members)
        assert any(one.told("tasks_adopted") for one in members)
