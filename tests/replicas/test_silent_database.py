"""Tests that repeated registrations are answered within 5 s when PostgreSQL stops answering.

The answers are 503 if it stops before the commit, and 200 if it stops after the commit.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.store.store import Store
from tests.e2e.bridges import runtime
from tests.e2e.harness import Environment
from tests.replicas.harness import PostgresProxy, run_proxy

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("real_store_limits")]
LIMIT_SECONDS = 5.0
WATCHES = 12


@pytest.fixture(params=["before the commit", "after the commit"])
def silence(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[list[PostgresProxy], int]]:
    """Makes the proxies in the list silent before or after a registration's commit. The number is the app's status.

    A registration reads an existing watch in its own transaction, so it needs no database after the commit.
    """
    found: list[PostgresProxy] = []
    real, is_before = Store.register_all, request.param == "before the commit"
    committed, all_committed = 0, asyncio.Event()

    def fall_silent() -> None:
        for proxy in found:
            proxy.silent = True

    async def register_all(store: Store, items: Any) -> Any:
        nonlocal committed
        if is_before:
            fall_silent()
        results = await real(store, items)
        if found:  # wait for all commits; their number depends on the machine
            committed += len(items)
            if committed == WATCHES:
                all_committed.set()
            await all_committed.wait()
        fall_silent()
        return results

    monkeypatch.setattr(Store, "register_all", register_all)
    yield found, 503 if is_before else 200
    found.clear()


@pytest.mark.parametrize("way", ["one batch", "singles"])
async def test_existing_watches_are_answered_within_five_seconds_all_together(
    env: Environment, silence: tuple[list[PostgresProxy], int], way: str
) -> None:
    silent, status = silence
    async with run_proxy(env.database_url) as proxy, runtime(proxy.url(env.database_url), env.amux_url) as bridge:
        tasks = [env.endless_task() for _ in range(WATCHES)]
        await bridge.register_many(tasks, env.receiver.url)
        bodies = [{"task_id": task, "callback_url": env.receiver.url} for task in tasks]
        silent.append(proxy)
        if way == "one batch":
            answers = [await bridge.ask("POST", "/watch/batch", json={"watches": bodies})]
            # If the store did not take the batch at all, the answer has one status for all watches.
            statuses = {result["status"] for result in answers[0].json.get("results", [answers[0].json])}
        else:
            answers = list(await asyncio.gather(*(bridge.ask("POST", "/watch", json=body) for body in bodies)))
            statuses = {answer.status for answer in answers}
        assert statuses == {status}
        assert max(answer.seconds for answer in answers) < LIMIT_SECONDS
        silent.clear()
        proxy.resume()
