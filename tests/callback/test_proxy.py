"""Callbacks through an http(s) proxy: both http and https use a tunnel to the judged address."""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from bridge.aio.proxy_connector import Proxy
from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.callback.tls import receiver_tls
from bridge.core.model import Answered, NoAnswer, RefusedTarget
from bridge.core.targets import TargetPolicy
from tests.callback.harness import OK, code_of, post
from tests.certificates import certificate_authority
from tests.connect_proxy import connect_proxy
from tests.scripted_server import StartServer, raw

OPEN = TargetPolicy(allow_networks=(ip_network("127.0.0.1/32"),))
NAMES = {"hooks.example": ["127.0.0.1"], "two.example": ["127.0.0.1", "127.0.0.1"], "bad.example": ["10.0.0.1"]}


@asynccontextmanager
async def sender_through(url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Sender]:
    async def resolve(host: str, _port: int) -> list[str]:
        return NAMES[host]

    sender = Sender(
        Guard(OPEN, resolve),
        user_agent="test",
        timeout_seconds=5,
        ssl_context=context,
        proxy=Proxy.from_url(url),
    )
    try:
        yield sender
    finally:
        await sender.close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """Returns the file of a CA, and the TLS context of a server with a certificate of this CA."""
    ca, certificate, key = certificate_authority(tmp_path / "ca", "ca")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return ca, server


@pytest.mark.parametrize("receiver_has_tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("proxy_has_tls", [False, True], ids=["http proxy", "https proxy"])
async def test_a_callback_goes_through_a_tunnel_to_the_judged_address(
    start_receiver: StartServer, files: tuple[Path, ssl.SSLContext], *, receiver_has_tls: bool, proxy_has_tls: bool
) -> None:
    ca, server = files
    receiver = await start_receiver(raw(OK), tls=server if receiver_has_tls else None)
    scheme = "https" if receiver_has_tls else "http"
    async with connect_proxy(server if proxy_has_tls else None) as proxy:
        proxy_url = f"{'https' if proxy_has_tls else 'http'}://user:pass%3Aword@127.0.0.1:{proxy.port}"
        async with sender_through(proxy_url, receiver_tls(None, None, ca)) as sender:
            for _ in range(2):
                answer = await post(sender, f"{scheme}://hooks.example:{receiver.port}/hook")
                assert answer == Answered(200, None, b"ok")
        assert proxy.targets == [f"127.0.0.1:{receiver.port}"], "one tunnel, then the kept connection"
        login = base64.b64encode(b"user:pass:word").decode()
        assert f"\r\nProxy-Authorization: Basic {login}\r\n" in proxy.heads[0]
    assert receiver.header("Host") == [f"hooks.example:{receiver.port}"]
    assert receiver.header("Proxy-Authorization") == []
    assert receiver.connections == 1


async def test_a_target_is_judged_before_the_proxy_is_asked(start_receiver: StartServer) -> None:
    async with connect_proxy() as proxy, sender_through(f"http://127.0.0.1:{proxy.port}") as sender:
        assert isinstance(await post(sender, "http://10.0.0.1/"), RefusedTarget)
        assert code_of(await post(sender, "http://bad.example/")) == "target_refused"
        assert proxy.heads == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "answered 407 (its login is missing or wrong)"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502"),
        (b"SSH-2.0-x\r\n\r\n", "answered no HTTP"),
        (b"", "did not answer"),
    ],
)
async def test_a_proxy_that_refuses_is_named_without_its_login(answer: bytes, sentence: str) -> None:
    async with connect_proxy() as proxy:
        proxy.answer = answer
        async with sender_through(f"http://user:hidden@127.0.0.1:{proxy.port}") as sender:
            found = await post(sender, "http://two.example/")
        assert isinstance(found, NoAnswer)
        assert found.code == "connection_failed"
        assert found.message == f"no connection to two.example:80: the proxy 127.0.0.1:{proxy.port} {sentence}"
        assert len(proxy.targets) == 2, "each address of the name was tried"


async def test_a_proxy_that_is_down_is_named() -> None:
    async with connect_proxy() as proxy:
        port = proxy.port
    async with sender_through(f"http://user:hidden@127.0.0.1:{port}") as sender:
        found = await post(sender, "http://hooks.example/")
    assert "the proxy 127.0.0.1:" in str(found)
    assert "cannot be reached" in str(found)
    assert "hidden" not in str(found)


async def test_an_untrusted_https_proxy_is_refused(files: tuple[Path, ssl.SSLContext]) -> None:
    async with (
        connect_proxy(files[1]) as proxy,
        sender_through(f"https://127.0.0.1:{proxy.port}") as sender,
    ):
        assert "TLS failed" in str(await post(sender, "http://hooks.example/"))
        assert proxy.heads == []


async def test_no_task_and_no_socket_of_a_tunnel_is_left(start_receiver: StartServer) -> None:
    receiver = await start_receiver(raw(OK), raw(OK, then_close=True))
    async with connect_proxy() as proxy:
        async with sender_through(f"http://127.0.0.1:{proxy.port}") as sender:
            for _ in range(3):
                await post(sender, f"http://hooks.example:{receiver.port}/")
            pipes = sender._connectors[1]._pipes  # type: ignore[attr-defined]
        assert not pipes
