"""Tests the real command, `python -m bridge serve`: its first answer, a callback and its exit."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.settings.settings import env_name
from tests.e2e.bridges import FAST_SETTINGS, check_all_delivered, connect_to
from tests.e2e.harness import environment
from tests.waiting import SAFETY_SECONDS


async def test_the_command_serves_and_stops_cleanly(
    either_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async with environment(either_url) as env:
        texts = {**FAST_SETTINGS, "database_url": either_url, "amux_base_url": env.amux_url}
        own = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
        variables = {**own, **{env_name(name): value for name, value in texts.items()}}
        command = [sys.executable, "-m", "bridge", "serve"]
        began = time.monotonic()
        serving = await asyncio.create_subprocess_exec(
            *command, env=variables, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert serving.stdout is not None
        assert serving.stderr is not None
        try:
            async with asyncio.timeout(SAFETY_SECONDS):
                while (line := json.loads(await serving.stdout.readline()))["event"] != "listening":
                    assert line["level"] != "error", line
            async with connect_to(line["url"]) as bridge:
                assert (await bridge.ask("GET", "/healthz")).status == 200
                # The test reports both values without a limit, because they depend on the load of the machine.
                record_property("seconds_to_first_healthz", round(time.monotonic() - began, 2))
                resident = Path(f"/proc/{serving.pid}/statm").read_text().split()[1]
                record_property("idle_rss_megabytes", int(resident) * os.sysconf("SC_PAGE_SIZE") // 1_000_000)
                watch = await bridge.register(env.finished_task(), env.receiver.url)
                await env.receiver.wait_for_events([watch])
            serving.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SAFETY_SECONDS):
                lines, errors = await serving.communicate()
        finally:
            if serving.returncode is None:
                serving.kill()
                await serving.communicate()
        assert (serving.returncode, errors) == (0, b"")
        assert [json.loads(text)["event"] for text in lines.splitlines()][-1] == "stopped"
    check_all_delivered(either_url, [watch])


@pytest.mark.long
async def test_svix_and_openai_verify_a_callback_unchanged(either_url: str) -> None:
    from openai import OpenAI
    from svix.webhooks import Webhook

    from tests.e2e.bridges import runtime
    from tests.e2e.receiver import SECRET

    async with environment(either_url) as env, runtime(either_url, env.amux_url) as bridge:
        watch = await bridge.register(env.finished_task(), env.receiver.url, context={"order": 7})
        await env.receiver.wait_for_events([watch])
        [call] = env.receiver.arrived
        Webhook(SECRET).verify(call.body, call.headers)  # raises an error for a wrong signature; returns nothing
        client = OpenAI(api_key="none", webhook_secret=SECRET)
        event = client.webhooks.unwrap(call.body.decode(), call.headers)
        assert (event.type, event.id) == ("video.completed", call.id)
