"""A bridge sends the bodies for chat bots and low-code tools to local servers, which check them like the real ones."""

import json
from collections import defaultdict
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp.test_utils import TestServer

from bridge.core.body_template import compile_body, fill_body
from bridge.core.event import cut, terminal_event
from bridge.core.model import TERMINAL_EVENTS, Outcome, Problem, TaskSnapshot, TaskStatus, Watch
from bridge.core.watch import Ending
from bridge.sandbox import Behaviour
from bridge.sandbox import Outcome as SandboxOutcome
from tests.examples.chat_servers import CHECKS, accepted, application
from tests.examples.harness import EXAMPLES, BridgeHarness

FILES = {path.stem: path for path in [*(EXAMPLES / "chat").glob("*.json"), EXAMPLES / "workflows/inngest.json"]}
EVIL = '"}],"text":"<!channel> @everyone\\ {{data}} \u2028\n\t</at>'


def request_of(name: str) -> Any:
    return json.loads(FILES[name].read_text("utf-8"))


def test_there_is_one_example_for_each_server() -> None:
    assert FILES.keys() == CHECKS.keys()


async def test_each_server_accepts_the_end_of_a_video(harness: BridgeHarness) -> None:
    received: dict[str, list[Any]] = defaultdict(list)
    failing = Behaviour(queue_seconds=0, run_seconds=0, outcome=SandboxOutcome.FAILED, error_message=EVIL)
    watches = {}
    async with TestServer(application(received)) as server:
        for name in FILES:
            for behaviour in (Behaviour(queue_seconds=0, run_seconds=0), failing):
                body = request_of(name)
                url = urlsplit(body["callback_url"])
                body["callback_url"] = str(server.make_url(f"/{name}{url.path}").with_query(url.query))
                body["task_id"] = harness.amux.create_task(behaviour)
                watches[name, behaviour is failing] = (await harness.request("POST", "/watch", **body))["id"]
        for watch in watches.values():
            await harness.delivered(watch, 1)
    for name in FILES:
        assert len(received[name]) == 2
        assert all(accepted(answer) for _, answer in received[name]), received[name]
        texts = json.dumps([body for body, _ in received[name]])
        assert "video.completed" in texts and "video.failed" in texts
        assert "17" in texts
        assert any(cut(EVIL) in text for text in strings(received[name]))


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for each in value for text in strings(each)] if isinstance(value, list | tuple) else []


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_largest_event_is_accepted_too(name: str, outcome: Outcome) -> None:
    example = request_of(name)
    completed = outcome is Outcome.COMPLETED
    url = "https://videos.example/" + "u" * 4_073 if completed else None
    error = None if completed else Problem("policy", EVIL + "x" * 5_000)
    watch = Watch(
        id="wat_1",
        app="shop",
        task_id="t" * 191,
        callback_url=example["callback_url"],
        events=TERMINAL_EVENTS,
        context=json.dumps(example["context"]).encode(),
        created_at=0,
        deadline_at=1,
        timeout_seconds=1,
    )
    event = terminal_event(watch, Ending(outcome, TaskSnapshot(TaskStatus.UNKNOWN, url=url), error), 1, None)
    body = fill_body(compile_body(example["body"]), event.payload)
    headers = {"Content-Type": "application/json", **example.get("headers", {})}
    answer = CHECKS[name](json.loads(body), headers, len(body))
    assert accepted(answer), answer
