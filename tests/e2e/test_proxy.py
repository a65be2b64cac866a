"""A whole bridge with drop-in creation: the create call, the event stream, the callback and the link to the video."""

import json
from pathlib import Path

from bridge.sandbox.video import MP4
from tests.e2e.bridges import APP, runtime
from tests.e2e.harness import environment


async def test_a_create_call_results_in_a_callback_with_a_link(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/bridge.db"
    async with environment(database) as env:
        settings = {"drop_in": "true", "public_url": "https://bridge.example"}
        async with runtime(database, env.amux_url, **settings) as bridge:
            body = {"model": "m", "prompt": "a fox", "sandbox": {"queue_seconds": 0.0, "run_seconds": 5.0}}
            headers = {"X-Callback-Url": env.receiver.url, "X-Callback-Context": '{"order": 7}'}
            created = await bridge.ask("POST", "/v1/videos", json=body, headers=headers)
            watch_id = created.headers["X-Watch-Id"]

            async with bridge.session.get(f"{bridge.url}/watch/{watch_id}/events", headers=APP) as stream:
                await stream.content.readuntil(b"data: ")  # the stream has begun before the attempt
                env.clock.now += 10
                events = (await stream.read()).decode()  # the bridge closes the stream
            assert events.count("event: attempt\n") == 1
            last = json.loads(events.rstrip().rpartition("data: ")[2])
            assert (last["state"], last["outcome"]) == ("settled", "completed")
            assert last["deliveries"][0]["state"] == "delivered"

            data = env.receiver.terminal(watch_id)["data"]
            assert (data["task_id"], data["context"]) == (created.json["id"], {"order": 7})
            assert data["content_url"].startswith("https://bridge.example/")
            path = data["content_url"].removeprefix("https://bridge.example")
            async with bridge.session.get(bridge.url + path) as video:
                assert (video.status, await video.read()) == (200, MP4)
            async with bridge.session.get(bridge.url + path[:-1]) as forged:
                assert forged.status == 403
