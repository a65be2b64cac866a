"""Machines with IPv4 and IPv6: with one setting the bridge listens on both, and probes and callbacks use either."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.bridges import FAST_SETTINGS
from tests.e2e.harness import Environment
from tests.e2e.test_listening import needs_ipv6
from tests.field.harness import check_works, is_delivered, need, program, run_command, serving
from tests.field.relay import relay

pytestmark = [needs_ipv6, pytest.mark.long]
TOKENS = FAST_SETTINGS["tokens"]
HOSTS = ("127.0.0.1", "[::1]")


async def answers(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status


@pytest.mark.parametrize("host", ["::", "127.0.0.1,::1", "::1,127.0.0.1", "[::]"])
async def test_both_families_are_answered(folder: Path, env: Environment, host: str) -> None:
    settings: dict[str, Any] = {"host": host, "metrics_host": "::", "metrics_port": "0"}
    async with serving(folder, env, **settings) as (running, bridge):
        api, probes = bridge.url, (await running.wait_for_log("listening_for_probes"))["url"]
        for url, path in ((api, "/healthz"), (probes, "/metrics")):
            port = url.rpartition(":")[2]
            for address in HOSTS:
                assert await answers(f"http://{address}:{port}{path}") == 200, (address, path)
        environ = {"BRIDGE_HOST": host, "BRIDGE_PORT": api.rpartition(":")[2], "BRIDGE_TOKENS": TOKENS}
        done = await asyncio.to_thread(run_command, "healthy", folder=folder, environ=environ)
        assert done.returncode == 0, done
        await check_works(env, bridge)
        await running.stop()


async def test_a_callback_goes_to_an_ipv6_address(folder: Path, env: Environment) -> None:
    """A relay on IPv6 passes the callback on to the receiver, which listens on IPv4."""
    started = serving(folder, env, host="::1", callback_allow_networks="::1/128")
    async with relay(env.receiver.port, host="::1") as port, started as (running, bridge):
        watch = await bridge.register(env.finished_task(), f"http://[::1]:{port}/hook")
        await bridge.until("GET", f"/watch/{watch}", lambda answer: is_delivered(answer.json))
        await running.stop()


def without_ipv6() -> list[str]:
    """Returns a prefix that runs the program in a network namespace that has loopback and IPv4 only."""
    need("unshare", "--net", "ip", "link", "set", "lo", "up")
    off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    return ["unshare", "--net", "sh", "-c", f'ip link set lo up && {off} && exec "$@"', "sh"]


@pytest.mark.parametrize("host", ["::", "*", "127.0.0.1,::1", "localhost"])
async def test_without_ipv6_the_same_settings_listen_on_ipv4(folder: Path, host: str) -> None:
    settings: dict[str, Any] = {
        "host": host,
        "metrics_host": "::",
        "metrics_port": "0",
        "amux_base_url": "http://127.0.0.1:9",
    }
    async with program(folder, prefix=without_ipv6(), **settings) as running:
        listening = await running.wait_for_log("listening")
        environ = {"BRIDGE_HOST": host, "BRIDGE_PORT": str(listening["port"]), "BRIDGE_TOKENS": TOKENS}
        same = ["nsenter", f"--net=/proc/{running.bridge_pid}/ns/net"]
        done = await asyncio.to_thread(run_command, "healthy", folder=folder, prefix=same, environ=environ)
        assert done.returncode == 0, done
        await running.stop()


async def test_without_ipv6_an_ipv6_address_is_refused_in_one_sentence(folder: Path) -> None:
    async with program(folder, prefix=without_ipv6(), host="::1", amux_base_url="http://127.0.0.1:9") as refused:
        assert await refused.wait_for_exit() == 2
        [line] = refused.lines
        assert line["reason"].startswith("BRIDGE_HOST: ")
