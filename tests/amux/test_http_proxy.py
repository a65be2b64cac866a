"""amux behind an http(s) proxy: AMUX_PROXY. The proxy looks amux's name up."""

import ssl
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from bridge.aio.proxy_connector import Proxy
from bridge.core.model import TaskRecord, TransientError
from tests.amux.harness import MakeClient
from tests.certificates import certificate_authority
from tests.connect_proxy import connect_proxy

BODY = {"code": "success", "message": "", "data": {"task_id": "t", "status": "IN_PROGRESS", "progress": "10%"}}


async def answer(_request: web.Request) -> web.Response:
    return web.json_response(BODY)


def amux() -> web.Application:
    app = web.Application()
    app.router.add_get("/v1/video/generations/t", answer)
    return app


async def test_polls_go_through_the_proxy_by_name(make_client: MakeClient, tmp_path: Path) -> None:
    ca, certificate, key = certificate_authority(tmp_path / "ca", "ca")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(ca))
    for context in (None, server):
        scheme, port = ("http", 80) if context is None else ("https", 443)
        plain = TestServer(amux(), scheme=scheme)
        await plain.start_server(ssl=context)
        async with connect_proxy() as proxy:
            # Only the proxy knows this name.
            proxy.places[f"hooks.example:{port}"] = ("127.0.0.1", plain.port or 0)
            through = Proxy("127.0.0.1", proxy.port, login="user:secret")
            client = make_client(f"{scheme}://hooks.example", proxy=through, ssl_context=trusting)
            for _ in range(2):
                assert isinstance(await client.poll("t", "sk-key"), TaskRecord)
            assert proxy.targets == [f"hooks.example:{port}"]
        await plain.close()


async def test_a_proxy_that_refuses_is_named_without_its_login(make_client: MakeClient) -> None:
    async with connect_proxy() as proxy:
        proxy.answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
        through = Proxy("127.0.0.1", proxy.port, login="user:secret")
        found = await make_client("http://amux.example", proxy=through).poll("t", "sk-key")
    assert isinstance(found, TransientError)
    assert f"the proxy 127.0.0.1:{proxy.port} answered 407 (its login is missing or wrong)" in str(found.message)
    assert "secret" not in str(found)
