"""A retry that is requested during a successful attempt is made after that attempt."""

from tests.e2e.bridges import runtime
from tests.e2e.harness import environment
from tests.e2e.receiver import hold


async def test_a_retry_that_is_requested_during_a_successful_attempt_is_made(sqlite_url: str) -> None:
    async with (
        environment(sqlite_url, hold) as env,
        runtime(sqlite_url, env.amux_url) as bridge,
    ):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        await env.receiver.until(lambda: bool(env.receiver.arrived))
        [delivery] = (await bridge.final(watch))["deliveries"]
        assert (await bridge.ask("POST", f"/deliveries/{delivery['id']}/retry")).status == 202
        env.receiver.released.set()
        await env.receiver.until(lambda: len(env.receiver.calls) == 2)
        path = f"/deliveries/{delivery['id']}"
        answer = await bridge.until("GET", path, lambda found: found.json["state"] == "delivered")
        assert answer.json["attempts"] == 2
        assert {call.id for call in env.receiver.arrived} == {delivery["id"]}
