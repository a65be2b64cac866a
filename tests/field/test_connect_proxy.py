"""The only way out is a proxy that understands CONNECT, for amux and for callbacks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.connect_proxy import ConnectProxy, connect_proxy
from tests.e2e.harness import Environment
from tests.e2e.receiver import answer
from tests.field.harness import check_works, run_command, serving

LOGIN, PASSWORD = "way-out", "p%40ss-word-0123456789"
NOWHERE = "http://amux.invalid:8090"  # only the proxy knows this host


@pytest.fixture
async def proxy(env: Environment) -> AsyncIterator[ConnectProxy]:
    async with connect_proxy() as started:
        host, _, port = env.amux_url.removeprefix("http://").partition(":")
        started.places["amux.invalid:8090"] = (host, int(port))
        yield started


async def test_polls_and_callbacks_go_through_the_proxy(folder: Path, env: Environment, proxy: ConnectProxy) -> None:
    url = f"http://{LOGIN}:{PASSWORD}@127.0.0.1:{proxy.port}"
    settings: dict[str, Any] = {"amux_base_url": NOWHERE, "amux_proxy": url, "callback_proxy": url}
    # The bridge does not use the proxies of the environment, and logs a caution about them.
    environ = {"HTTPS_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    async with serving(folder, env, environ=environ, **settings) as (running, bridge):
        await check_works(env, bridge)
        env.receiver.responder = answer(200, Content_Security_Policy="x" * 8300)  # curl accepts a header of this length
        await check_works(env, bridge)
        assert {"amux.invalid:8090", f"127.0.0.1:{env.receiver.port}"} == set(proxy.targets)
        assert all("Proxy-Authorization: Basic " in head for head in proxy.heads)
        assert [line for line in running.lines if line["event"] == "caution" and "HTTPS_PROXY" in line["what"]]
        await running.stop()
    shown = "\n".join(running.raw)
    for secret in (PASSWORD, "p@ss-word-0123456789"):
        assert secret not in shown


@pytest.mark.long
async def test_a_proxy_that_refuses_is_named_and_nothing_goes_around_it(
    folder: Path, env: Environment, proxy: ConnectProxy
) -> None:
    proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    url = f"http://127.0.0.1:{proxy.port}"
    settings: dict[str, Any] = {"amux_base_url": NOWHERE, "amux_proxy": url, "callback_proxy": url}
    async with serving(folder, env, **settings) as (running, bridge):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        shown = await bridge.until("GET", f"/watch/{watch}", lambda answer: bool(answer.json["last_error"]))
        message = shown.json["last_error"]["message"]
        assert "proxy" in message
        assert "407" in message
        pinged = await bridge.ask("POST", "/ping", json={"callback_url": env.receiver.url})
        assert pinged.json["ok"] is False
        assert "407" in pinged.json["error"]["message"]
        assert env.receiver.arrived == []
        await running.stop()


@pytest.mark.long
def test_check_names_the_proxy_that_does_not_answer(folder: Path) -> None:
    environ = {"AMUX_API_KEY": "sk-0123456789", "AMUX_BASE_URL": NOWHERE, "AMUX_PROXY": "http://u:hidden-1@127.0.0.1:9"}
    done = run_command("check", folder=folder, environ=environ)
    assert done.returncode == 1
    assert "proxy" in done.stdout + done.stderr
    assert "hidden-1" not in done.stdout + done.stderr
