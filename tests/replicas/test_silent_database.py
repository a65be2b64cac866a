"""Attacks "503 within 5 s": PostgreSQL falls silent after the commit, and what was stored has to be read again."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.store.store import Store
from tests.e2e.bridges import runtime
from tests.e2e.harness import Environment
from tests.replicas.harness import PostgresProxy, run_proxy

pytestmark = pytest.mark.long
LIMIT_SECONDS = 5.0


@pytest.fixture
def silence_after_registering(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[PostgresProxy]]:
    """Makes the proxy in the list silent when a registration is committed."""
    found: list[PostgresProxy] = []
    real = Store.register_all

    async def register_all(store: Store, *arguments: Any) -> Any:
        results = await real(store, *arguments)
        for proxy in found:
            proxy.silent = True
        return results

    monkeypatch.setattr(Store, "register_all", register_all)
    yield found
    found.clear()


@pytest.mark.parametrize("way", ["one batch", "singles"])
async def test_existing_watches_are_answered_within_five_seconds_all_together(
    env: Environment, silence_after_registering: list[PostgresProxy], way: str
) -> None:
    async with run_proxy(env.database_url) as proxy, runtime(proxy.url(env.database_url), env.amux_url) as bridge:
        tasks = [env.endless_task() for _ in range(12)]
        await bridge.register_many(tasks, env.receiver.url)
        bodies = [{"task_id": task, "callback_url": env.receiver.url} for task in tasks]
        silence_after_registering.append(proxy)
        if way == "one batch":
            answers = [await bridge.ask("POST", "/watch/batch", json={"watches": bodies})]
            statuses = {result["status"] for result in answers[0].json["results"]}
        else:
            answers = list(await asyncio.gather(*(bridge.ask("POST", "/watch", json=body) for body in bodies)))
            statuses = {answer.status for answer in answers}
        assert statuses == {503}
        assert max(answer.seconds for answer in answers) < LIMIT_SECONDS
        silence_after_registering.clear()
        proxy.resume()
