"""Signed callbacks, as they arrive at a receiver: with a body in the receiver's own form, or with a trace context."""

import logging

import pytest

from tests.e2e.bridges import APP, runtime
from tests.e2e.harness import Environment

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_callback_has_the_watchs_own_body_and_is_signed_like_any_other(sqlite_env: Environment) -> None:
    env, body = sqlite_env, {"msg_type": "text", "content": {"text": 'order "{{data.context.order}}": {{type}}'}}
    async with runtime(env.database_url, env.amux_url) as bridge:
        task, evil = env.running_task(), '"}\\ {{type}} \u2028\n'
        watch = await bridge.register(task, env.receiver.url, body=body, context={"order": evil})
        env.clock.now += 11
        await env.receiver.until(lambda: bool(env.receiver.calls))
        envelope = await bridge.ask("GET", f"/watch/{watch}/envelope")
    [call] = env.receiver.calls
    assert call.event == {"msg_type": "text", "content": {"text": f'order "{evil}": video.completed'}}
    assert env.receiver.unverified == []
    assert (envelope.json["id"], envelope.json["data"]["context"]) == (call.id, {"order": evil})


async def test_a_callback_continues_the_trace_of_the_registration(
    sqlite_env: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    env = sqlite_env
    caplog.set_level(logging.INFO)
    async with runtime(env.database_url, env.amux_url) as bridge:
        traced = {**APP, "traceparent": PARENT, "tracestate": "vendor=1"}
        answers = []
        for path, headers in (("/one", {}), ("/two", {"TraceParent": "of the watch"})):
            request = {"task_id": env.running_task(), "callback_url": env.receiver.url + path, "headers": headers}
            answers.append(await bridge.ask("POST", "/watch", json=request, headers=traced))
        env.clock.now += 11
        await env.receiver.wait_for_events([str(answer.json["id"]) for answer in answers])
        paths = [f"/deliveries/{call.id}" for call in env.receiver.calls]
        for path in paths:  # a retry that is requested before the first attempt is recorded changes the log lines
            await bridge.until("GET", path, lambda answer: answer.json["state"] == "delivered")
            assert (await bridge.ask("POST", f"{path}/retry")).status == 202
        for path in paths:
            await bridge.until("GET", path, lambda answer: answer.json["state"] == "delivered")
    one, two = sorted(env.receiver.calls[:2], key=lambda call: call.path)
    assert (one.headers["traceparent"], one.headers["tracestate"]) == (PARENT, "vendor=1")
    assert (two.headers["traceparent"], two.headers.get("tracestate")) == ("of the watch", None)
    events = {"registered": 2, "settled": 2, "delivered": 4, "retry_requested": 2}
    for event, count in events.items():
        lines = [vars(record) for record in caplog.records if record.msg == event]
        assert len(lines) == count, event
        assert all(PARENT in str(line) and "vendor=1" in str(line) for line in lines), event
