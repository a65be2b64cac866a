"""Notices for people: apprise sends them in its own process, without proxies and without repeats, and shows no URL.

Slack, DingTalk, Feishu and Discord have fixed hosts in apprise. Their tests run apprise in this process, and connect it
to a local server with TLS. Only the function that opens a connection is replaced.
"""

import asyncio
import importlib.util
import json
import logging
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from bridge.core.errors import BadSetting
from bridge.maintenance import notify
from bridge.maintenance.notify import AppriseNotifier
from bridge.maintenance.notify_process import send
from bridge.settings import settings as bridge_settings
from tests.certificates import certificate_authority
from tests.dashboard.harness import running_bridge
from tests.waiting import SAFETY_SECONDS

SENTENCE = "The receiver app.example:443 fails."
TOKEN = "hidden-token-0123456789"


@dataclass
class Posted:
    host: str
    path: str
    body: Any


@dataclass
class TlsServer:
    """A server with TLS that answers as each service does, and keeps the messages that it got."""

    port: int = 0
    posted: list[Posted] = field(default_factory=list)
    answers: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {
            "hooks.slack.com": (200, "ok"),
            "discord.com": (204, ""),
            "oapi.dingtalk.com": (200, '{"errcode": 0, "errmsg": "ok"}'),
            "open.feishu.cn": (200, '{"code": 0, "msg": "success"}'),
        }
    )


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsServer]:
    """A server that gets every connection of the library `requests`, whatever host it is for."""
    made = TlsServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            host = self.headers["Host"]
            made.posted.append(Posted(host, self.path, json.loads(body)))
            status, answer = made.answers[host]
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    _, certificate, key = certificate_authority(tmp_path / "tls", "test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        assert address[0] in made.answers
        return socket.create_connection(("127.0.0.1", made.port))

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    yield made
    server.shutdown()
    server.server_close()


def text_of(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("url", "host", "path", "fields"),
    [
        (
            "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ?verify=no",
            "hooks.slack.com",
            "/services/T1JJ3T3L2/A1BRTD4JD/",
            {},
        ),
        (f"discord://123456789/{TOKEN}?verify=no", "discord.com", "/api/webhooks/123456789/", {}),
        (f"dingtalk://{'a' * 40}?verify=no", "oapi.dingtalk.com", "/robot/send?access_token=", {"msgtype": "text"}),
        (f"feishu://{TOKEN}?verify=no", "open.feishu.cn", "/open-apis/bot/v2/hook/", {"msg_type": "text"}),
    ],
    ids=["slack", "discord", "dingtalk", "feishu"],
)
def test_each_chat_service_gets_the_sentence_in_its_own_form(
    tls_server: TlsServer, url: str, host: str, path: str, fields: dict[str, str]
) -> None:
    assert send([url], [SENTENCE, "A second one."]) == [True]
    [posted] = tls_server.posted
    assert (posted.host, posted.path[: len(path)]) == (host, path)
    assert fields.items() <= posted.body.items()
    assert SENTENCE in text_of(posted.body)
    assert "A second one." in text_of(posted.body)
    tls_server.answers[host] = (403, '{"errcode": 1, "code": 1}')
    assert send([url], [SENTENCE]) == [False]


@pytest.mark.filterwarnings("ignore")
def test_a_mail_server_gets_a_mail() -> None:
    mails: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb") as file:

            def answer(text: bytes) -> None:
                file.write(text + b"\r\n")
                file.flush()

            answer(b"220 test")
            while line := file.readline():
                command = line[:4].upper()
                if command == b"DATA":
                    answer(b"354 go on")
                    lines = list(iter(file.readline, b".\r\n"))
                    mails.append(b"".join(lines).decode())
                answer(b"221 bye" if command == b"QUIT" else b"250 ok")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    url = f"mailto://127.0.0.1:{port}?from=bridge@example.com&to=night@example.com&mode=insecure"
    assert send([url], [SENTENCE]) == [True]
    thread.join(10)
    listening.close()
    [mail] = mails
    assert "night@example.com" in mail
    assert SENTENCE in mail


# --- the process --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def local_server() -> AsyncIterator[tuple[str, "asyncio.Queue[Any]"]]:
    """Starts a server for apprise's `json://`. Yields its URL, and a queue of the messages that it gets."""
    got: asyncio.Queue[Any] = asyncio.Queue()

    async def answer(request: web.Request) -> web.Response:
        await got.put(await request.json())
        return web.Response(status=500 if "fail" in request.path else 200)

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"json://127.0.0.1:{runner.addresses[0][1]}", got
    finally:
        await runner.cleanup()


@pytest.mark.long
async def test_a_running_bridge_tells_people_and_uses_no_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with local_server() as (url, got), running_bridge(tmp_path, notify_urls=f"{url}/{TOKEN}") as bridge:
        await bridge.register(status=410)
        async with asyncio.timeout(SAFETY_SECONDS):
            message = (await got.get())["message"]
    assert message.startswith("1 delivery is dead at the receiver 127.0.0.1:")


async def test_a_failure_is_logged_without_the_url_and_the_others_get_their_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with local_server() as (url, got):
        notifier = AppriseNotifier([f"{url}/fail-{TOKEN}", f"{url}/good"])
        await notifier.check()
        with caplog.at_level(logging.WARNING):
            notifier.send([SENTENCE])
            notifier.send(["A second one."])
            assert notifier._sending is not None
            await asyncio.wait_for(notifier._sending, SAFETY_SECONDS)
        assert (await got.get())["message"] == (await got.get())["message"] == f"{SENTENCE}\nA second one."
    [line] = [one for one in caplog.records if one.getMessage() == "notify_failed"]
    assert line.__dict__["bridge_fields"]["services"] == ["json"]
    assert TOKEN not in caplog.text


async def test_a_process_that_cannot_be_started_is_logged_and_the_next_sentences_are_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with local_server() as (url, got):
        notifier = AppriseNotifier([url])
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(sys, "executable", "/no/such/program")
            notifier.send([SENTENCE])
            assert notifier._sending is not None
            await asyncio.wait_for(notifier._sending, SAFETY_SECONDS)
        notifier.send(["A second one."])
        await asyncio.wait_for(notifier._sending, SAFETY_SECONDS)
        assert (await got.get())["message"] == "A second one."
    assert caplog.messages == ["notify_failed"]


@pytest.mark.long
async def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "SEND_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # it accepts connections and answers nothing
        notifier = AppriseNotifier([f"json://127.0.0.1:{hanging.getsockname()[1]}"])
        notifier.send([SENTENCE])
        assert notifier._sending is not None
        await asyncio.wait_for(notifier._sending, SAFETY_SECONDS)


# --- the start ----------------------------------------------------------------------------------------------------


async def test_without_the_extra_the_start_stops_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(notify, "find_spec", lambda name: None if name == "apprise" else real(name))
    with pytest.raises(BadSetting, match=r"BRIDGE_NOTIFY_URLS: .*extra `notify`.*pip install 'amux-bridge\[notify\]'"):
        async with running_bridge(tmp_path, notify_urls=f"slack://{TOKEN}"):
            pass


async def test_a_url_that_apprise_does_not_know_stops_the_start_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(BadSetting) as refused:
        async with running_bridge(tmp_path, notify_urls=f"json://127.0.0.1,nonsense://{TOKEN}"):
            pass
    assert str(refused.value).startswith("BRIDGE_NOTIFY_URLS: apprise does not know entry 2")
    assert TOKEN not in str(refused.value)


def test_urls_are_separated_where_the_next_one_begins_and_never_shown() -> None:
    text = "slack://a/b/c, mailto://u:p@example.com?to=a@example.com,b@example.com\n discord://1/2"
    settings = bridge_settings.load(env_file=None, notify_urls=text)
    assert settings.notify_urls == (
        "slack://a/b/c",
        "mailto://u:p@example.com?to=a@example.com,b@example.com",
        "discord://1/2",
    )
    assert set(settings.notify_urls) <= set(bridge_settings.secret_texts(settings))
    assert "slack" not in repr(settings)
    with pytest.raises(BadSetting, match="BRIDGE_NOTIFY_URLS: entry 1 must be a URL of apprise") as refused:
        bridge_settings.load(env_file=None, notify_urls=TOKEN)
    assert TOKEN not in str(refused.value)
