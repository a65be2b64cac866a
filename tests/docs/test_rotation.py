"""With the steps of docs/operations.md that rotate a secret, no event is lost, and every event is signed."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.sandbox import Behaviour
from tests.docs.harness import DOCS, Workspace, section, table_rows
from tests.e2e.receiver import Call, Receiver, receiving

pytestmark = pytest.mark.long
NEW_SECRET, SHOW, NEW_KEY, ROTATE = (
    "amux-bridge secret new",
    "amux-bridge secret show",
    "amux-bridge secret new --kind encryption-key",
    "amux-bridge secret rotate",
)


@asynccontextmanager
async def serving(workspace: Workspace, **environ: str) -> AsyncIterator[None]:
    opened = {"AMUX_API_KEY": "sk-one", "BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8", **environ}
    async with workspace.running("amux-bridge serve", '"listening"', **opened):
        yield


async def next_call(workspace: Workspace, receiver: Receiver) -> Call:
    """Registers a watch on one more task, and returns its callback."""
    watch = await workspace.register(receiver.url)
    await receiver.wait_for_events([watch])
    return receiver.calls[-1]


def verifies(call: Call, secret: str) -> bool:
    try:
        Webhook(secret).verify(call.body, call.headers)
    except WebhookVerificationError:
        return False
    return True


def test_the_page_has_the_steps_that_are_tested_here() -> None:
    rows = table_rows(section(DOCS / "operations.md", "## Rotate"))
    assert [what for what, _ in rows] == [
        "the signing secret",
        "the encryption key",
        "the amux key",
        "a token of an app",
    ]
    table = " ".join(how for _, how in rows)
    assert set(re.findall(r"`(amux-bridge [^`]+)`", table)) == {NEW_SECRET, SHOW, NEW_KEY, ROTATE}


async def test_a_rotation_of_the_signing_secret_signs_with_both_secrets_in_between(workspace: Workspace) -> None:
    async with receiving() as receiver:
        async with serving(workspace):
            before = await next_call(workspace, receiver)
        new, old = [text.strip() for text in (await workspace.run(NEW_SECRET), await workspace.run(SHOW))]
        async with serving(workspace, BRIDGE_SIGNING_SECRETS=f"{new},{old}"):
            between = await next_call(workspace, receiver)
        async with serving(workspace, BRIDGE_SIGNING_SECRETS=new):
            after = await next_call(workspace, receiver)
    by = [(verifies(call, old), verifies(call, new)) for call in (before, between, after)]
    assert by == [(True, False), (True, True), (False, True)]


async def test_a_rotation_of_the_encryption_key_keeps_the_secrets_of_watches(workspace: Workspace) -> None:
    own = (await workspace.run(NEW_SECRET)).strip()
    task = workspace.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving(secret=own) as receiver:
        async with serving(workspace):
            watch = await workspace.register(receiver.url, task_id=task, secret=own)
        new, old = (await workspace.run(NEW_KEY)).strip(), (workspace.folder / "bridge.key").read_text().strip()
        async with serving(workspace, BRIDGE_ENCRYPTION_KEYS=f"{new},{old}"):
            assert "the values of 1 watch and" in await workspace.run(ROTATE, BRIDGE_ENCRYPTION_KEYS=f"{new},{old}")
        (workspace.folder / "bridge.key").unlink()
        async with serving(workspace, BRIDGE_ENCRYPTION_KEYS=new):
            workspace.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
            await receiver.wait_for_events([watch])
    receiver.check_copies()


async def test_a_task_continues_under_a_new_amux_key(workspace: Workspace) -> None:
    task = workspace.amux.create_task(Behaviour(queue_seconds=0, run_seconds=3600))
    async with receiving() as receiver:
        async with serving(workspace):
            watch = await workspace.register(receiver.url, task_id=task)
            await workspace.amux.polled(task)
        workspace.amux.keys = frozenset({"sk-two"})
        workspace.amux.change(task, Behaviour(queue_seconds=0, run_seconds=0))
        async with serving(workspace, AMUX_API_KEY="sk-two"):
            await receiver.wait_for_events([watch])


async def test_an_app_may_use_both_tokens_while_its_token_is_rotated(workspace: Workspace) -> None:
    async with receiving() as receiver:
        async with serving(workspace, BRIDGE_TOKENS="shop:old"):
            first = await workspace.register(receiver.url, "old")
        async with serving(workspace, BRIDGE_TOKENS="shop:old,shop:new"):
            for token in ("old", "new"):
                assert (await workspace.request("GET", f"/watch/{first}", token))["app"] == "shop"
        async with serving(workspace, BRIDGE_TOKENS="shop:new"):
            second = await workspace.register(receiver.url, "new")
            await receiver.wait_for_events([first, second])
