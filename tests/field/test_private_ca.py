"""amux and receivers have certificates of a private CA. Some receivers ask the bridge for a client certificate."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificate_authority
from tests.e2e.harness import Environment
from tests.field.harness import is_delivered, run_command, serving
from tests.field.relay import relay

pytestmark = pytest.mark.long


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path, Path]:
    return certificate_authority(tmp_path / "ca", "The Company")


def server_tls(authority: tuple[Path, Path, Path], *, asks_for_one: bool = False) -> ssl.SSLContext:
    ca, certificate, key = authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if asks_for_one:
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def test_one_variable_is_enough_for_amux_and_the_receivers(
    folder: Path, env: Environment, authority: tuple[Path, Path, Path]
) -> None:
    tls, environ = server_tls(authority), {"SSL_CERT_FILE": str(authority[0])}
    amux_port = int(env.amux_url.rpartition(":")[2])
    async with relay(amux_port, tls=tls) as amux, relay(env.receiver.port, tls=tls) as receiver:
        base_url = f"https://127.0.0.1:{amux}"
        async with serving(folder, env, environ=environ, amux_base_url=base_url) as (running, bridge):
            watch = await bridge.register(env.finished_task(), f"https://127.0.0.1:{receiver}/hook")
            await bridge.until("GET", f"/watch/{watch}", lambda answer: is_delivered(answer.json))
            assert env.receiver.unverified == []
            await running.stop()
        asked = {**environ, "AMUX_BASE_URL": base_url, "AMUX_API_KEY": "sk-0123456789"}
        checked = await asyncio.to_thread(run_command, "check", folder=folder, environ=asked)
        assert "amux key" in checked.stdout
        assert "certificate" not in checked.stdout


async def test_without_the_ca_the_error_says_so_and_the_watch_waits(
    folder: Path, env: Environment, authority: tuple[Path, Path, Path]
) -> None:
    amux_port = int(env.amux_url.rpartition(":")[2])
    async with (
        relay(amux_port, tls=server_tls(authority)) as amux,
        serving(folder, env, amux_base_url=f"https://127.0.0.1:{amux}") as (running, bridge),
    ):
        watch = await bridge.register(env.finished_task(), env.receiver.url)
        shown = await bridge.until("GET", f"/watch/{watch}", lambda answer: bool(answer.json["last_error"]))
        assert "certificate" in shown.json["last_error"]["message"]
        assert shown.json["state"] == "active"
        await running.stop()


async def test_a_receiver_that_asks_for_a_certificate_gets_it_from_files_that_any_secret_mount_has(
    folder: Path, env: Environment, authority: tuple[Path, Path, Path]
) -> None:
    """Kubernetes mounts secrets as links to files of mode 0644."""
    ca, certificate, key = authority
    key.chmod(0o644)
    (folder / "tls.key").symlink_to(key)
    settings: dict[str, Any] = {
        "callback_ca_file": str(ca),
        "callback_client_certificate": str(certificate),
        "callback_client_key": str(folder / "tls.key"),
    }
    async with relay(env.receiver.port, tls=server_tls(authority, asks_for_one=True)) as receiver:
        url = f"https://127.0.0.1:{receiver}/hook"
        async with serving(folder, env, **settings) as (running, bridge):
            watch = await bridge.register(env.finished_task(), url)
            await bridge.until("GET", f"/watch/{watch}", lambda answer: is_delivered(answer.json))
            await running.stop()
        async with serving(folder, env, callback_ca_file=str(ca)) as (running, bridge):
            pinged = await bridge.ask("POST", "/ping", json={"callback_url": url})
            assert pinged.json["ok"] is False
            assert "client certificate" in pinged.json["error"]["message"]
            await running.stop()
