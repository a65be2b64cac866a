"""The README's ways to rotate a secret, walked step by step: no event is lost on any of them, and none is unsigned."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.sandbox import Behaviour
from tests.docs.harness import Newcomer, newcomer, text
from tests.e2e.receiver import Call, Receiver, receiving

pytestmark = pytest.mark.long
NEW_SECRET, SHOW, NEW_KEY, ROTATE = (
    "amux-bridge secret new",
    "amux-bridge secret show",
    "amux-bridge secret new --kind encryption-key",
    "amux-bridge secret rotate",
)


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Newcomer]:
    async with newcomer(tmp_path) as made:
        yield made


@asynccontextmanager
async def served(at: Newcomer, **environ: str) -> AsyncIterator[None]:
    opened = {"AMUX_API_KEY": "sk-one", "BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8", **environ}
    async with at.going("amux-bridge serve", '"listening"', **opened):
        yield


async def told(at: Newcomer, receiver: Receiver) -> Call:
    """What a receiver gets of one more task."""
    watch = await at.registered(receiver.url)
    await receiver.wait_for_events([watch])
    return receiver.calls[-1]


def verifies(call: Call, secret: str) -> bool:
    try:
        Webhook(secret).verify(call.body, call.headers)
    except WebhookVerificationError:
        return False
    return True


def test_the_ways_are_those_that_it_tells() -> None:
    table = text().partition("**Rotate secrets**")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (the .*?) \|", table, re.MULTILINE) == [
        "the signing secret",
        "the encryption key",
        "the amux key",
    ]
    assert set(re.findall(r"`(amux-bridge [^`]+)`", table)) == {NEW_SECRET, SHOW, NEW_KEY, ROTATE}


async def test_the_signing_secret(at: Newcomer) -> None:
    async with receiving() as receiver:
        async with served(at):
            before = await told(at, receiver)
        new, old = [text.strip() for text in (await at.run(NEW_SECRET), await at.run(SHOW))]
        async with served(at, BRIDGE_SIGNING_SECRETS=f"{new},{old}"):
            between = await told(at, receiver)
        async with served(at, BRIDGE_SIGNING_SECRETS=new):
            after = await told(at, receiver)
    by = [(verifies(call, old), verifies(call, new)) for call in (before, between, after)]
    assert by == [(True, False), (True, True), (False, True)]


async def test_the_encryption_key(at: Newcomer) -> None:
    own = (await at.run(NEW_SECRET)).strip()
    task = at.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving(secret=own) as receiver:
        async with served(at):
            watch = await at.registered(receiver.url, task_id=task, secret=own)
        new, old = (await at.run(NEW_KEY)).strip(), (at.folder / "bridge.key").read_text().strip()
        async with served(at, BRIDGE_ENCRYPTION_KEYS=f"{new},{old}"):
            assert "1 watch with" in await at.run(ROTATE, BRIDGE_ENCRYPTION_KEYS=f"{new},{old}")
        (at.folder / "bridge.key").unlink()
        async with served(at, BRIDGE_ENCRYPTION_KEYS=new):
            at.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
    receiver.check_copies()


async def test_the_amux_key(at: Newcomer) -> None:
    task = at.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with served(at):
            watch = await at.registered(receiver.url, task_id=task)
            await at.amux.polled(task)
        at.amux.keys = frozenset({"sk-two"})
        at.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
        async with served(at, AMUX_API_KEY="sk-two"):
            await receiver.wait_for_events([watch])
