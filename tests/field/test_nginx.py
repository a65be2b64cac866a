"""A bridge behind nginx: a path prefix, another Host header, nginx's buffers, and replicas."""

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import yaml
from openai import AsyncOpenAI, AuthenticationError, UnprocessableEntityError

from bridge.sandbox.video import MP4
from tests.databases import PostgresServer
from tests.e2e.bridges import APP, FAST_SETTINGS, ROOT, Bridge, connect_to
from tests.e2e.harness import Environment
from tests.field.harness import check_works, serving
from tests.field.nginx import nginx
from tests.ports import free_port
from tests.waiting import SAFETY_SECONDS

pytestmark = pytest.mark.long
KEYS = FAST_SETTINGS["encryption_keys"]
PREFIX = "/tools/bridge"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def below_a_path(port: int) -> str:
    """Returns a minimal `server` block. The bridge gets another Host header than the browser sends."""
    return f"""
        server {{
            listen 127.0.0.1:PORT;
            location {PREFIX}/ {{
                proxy_pass http://127.0.0.1:{port}/;
                proxy_set_header Host bridge.internal;
            }}
        }}"""


async def check_page(bridge: Bridge) -> None:
    """Loads the dashboard and the files that it links to, signs in, and makes the request that the page makes."""
    page = await bridge.ask("GET", "/")
    links = re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode())
    assert len(links) > 4
    for link in links:
        async with bridge.session.get(urljoin(bridge.url + "/", link)) as answer:
            assert answer.status == 200, link
    form = {"token": "operator-token-1234"}
    sign_in, origin = f"{bridge.url}/page/sign-in", {"Origin": bridge.url.removesuffix(PREFIX)}
    options = {"data": form, "allow_redirects": False}
    async with bridge.session.post(sign_in, headers={**SAME_ORIGIN, **origin}, **options) as answer:  # type: ignore[arg-type]
        assert answer.status == 303, await answer.text()
        assert urljoin(sign_in, answer.headers["Location"]) == f"{bridge.url}/"
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    async with bridge.session.post(sign_in, headers={"Sec-Fetch-Site": "cross-site"}, **options) as answer:  # type: ignore[arg-type]
        assert answer.status == 403
    overview = await bridge.ask("GET", "/page/overview", headers={"Cookie": cookie, **SAME_ORIGIN})
    assert overview.status == 200


async def test_below_a_path_with_a_foreign_host_everything_works(folder: Path, env: Environment) -> None:
    port = free_port()
    with nginx(below_a_path(port)) as proxy:
        async with serving(folder, env, port=str(port), public_url=proxy + PREFIX) as (running, direct):
            async with connect_to(proxy + PREFIX) as bridge:
                watch = await check_works(env, bridge)
                await check_page(bridge)
                content_url = env.receiver.terminal(watch)["data"]["content_url"]
                assert content_url.startswith(f"{proxy}{PREFIX}/watch/{watch}/content")
                async with bridge.session.get(content_url, headers={"Range": "bytes=0-9"}) as video:
                    assert (video.status, await video.read()) == (206, MP4[:10])
                assert (await bridge.ask("HEAD", "/healthz")).status == 200
                slash = await bridge.ask("GET", "/watch/")
                assert (slash.status, slash.json["code"]) == (404, "not_found")
                assert "remove the slash" in slash.json["detail"]
            assert direct.url.endswith(f":{port}")
            await running.stop()


async def test_events_are_not_held_back_by_the_proxys_buffer(folder: Path, env: Environment) -> None:
    port = free_port()
    with nginx(below_a_path(port)) as proxy:
        async with serving(folder, env, port=str(port)) as (running, _), connect_to(proxy + PREFIX) as bridge:
            task = env.running_task()
            watch = await bridge.register(task, env.receiver.url)
            stream = bridge.session.get(f"{bridge.url}/watch/{watch}/events", headers=APP)
            async with stream as events, asyncio.timeout(SAFETY_SECONDS):
                await events.content.readuntil(b"event: snapshot\n")
                await env.wait_for_polls(task)
                env.clock.now += 60
                await events.content.readuntil(b'"delivered"')
            # The bridge ends a held answer itself, so nginx's limit of 60 s does not matter.
            endless = await bridge.register(env.endless_task(), env.receiver.url)
            assert (await bridge.watch(endless, wait_seconds=1))["state"] == "active"
            await running.stop()


async def test_the_proxy_of_the_compose_example_hides_the_death_of_a_replica(
    folder: Path, env: Environment, postgres_server: PostgresServer
) -> None:
    compose = (ROOT / "examples/compose/replicas.yaml").read_text()
    config = yaml.safe_load(re.sub(r"(?<!\$)\$\{\w+[^}]*\}", "x", compose))["configs"]["nginx"]["content"]
    ports = [free_port(), free_port()]
    config = config.replace("$$", "$").replace("listen 8080", "listen 127.0.0.1:PORT")
    for number, port in enumerate(ports, 1):
        config = config.replace(f"bridge-{number}:8080", f"127.0.0.1:{port}")
    settings: dict[str, Any] = {
        "database_url": postgres_server.empty(),
        "encryption_keys": FAST_SETTINGS["encryption_keys"],
    }
    with nginx(config) as proxy:
        async with (
            serving(folder, env, port=str(ports[0]), **settings) as (one, _),
            serving(folder, env, port=str(ports[1]), **settings) as (two, _),
            connect_to(proxy) as bridge,
        ):
            for _ in range(3):
                await check_works(env, bridge)
            one.signal(9)
            assert await one.wait_for_exit() != 0
            for _ in range(6):  # the other replica answers each request, and the client sees no error
                await check_works(env, bridge)
            await two.stop()


@pytest.mark.filterwarnings("ignore:The Sora API")
async def test_the_openai_sdk_creates_a_video_through_the_proxy_and_shows_our_errors(
    folder: Path, env: Environment
) -> None:
    port = free_port()
    with nginx(below_a_path(port)) as proxy:
        async with serving(folder, env, port=str(port), drop_in="true") as (running, bridge):
            base_url = f"{proxy}{PREFIX}/v1"
            async with AsyncOpenAI(api_key="app-token-1234", base_url=base_url, max_retries=0) as client:
                headers = {"X-Callback-Url": env.receiver.url}
                created = await client.videos.create(prompt="a fox", model="sora-2", extra_headers=headers)
                env.clock.now += 60
                await env.receiver.until(lambda: len(env.receiver.ended_watches) == 1)
                [body] = next(iter(env.receiver.bodies.values()))
                assert created.id.encode() in body
                bad = {"X-Callback-Url": "http://10.0.0.1/hook"}
                with pytest.raises(UnprocessableEntityError, match="private"):
                    await client.videos.create(prompt="a fox", model="sora-2", extra_headers=bad)
            async with AsyncOpenAI(api_key="wrong", base_url=base_url, max_retries=0) as stranger:
                with pytest.raises(AuthenticationError, match="this token is not known"):
                    await stranger.videos.retrieve(created.id)
            assert bridge.url
            await running.stop()
