"""Connections: kept for their judged address only, replaced when dead, by TLS with the name checked."""

import asyncio
import datetime as dt
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bridge.core.model import Answered
from tests.callback.harness import (
    ALL_LOOPBACK,
    BODY,
    OK,
    Answering,
    Sending,
    Starting,
    code_of,
    post,
    raw,
    receivers,
    reset,
    senders,
    silence,
)


@pytest.fixture
async def receiver() -> AsyncIterator[Starting]:
    async with receivers() as start:
        yield start


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    async with senders() as make:
        yield make


async def test_a_kept_connection_is_used_for_its_judged_address_only(receiver: Starting, sending: Sending) -> None:
    """The name moves from one server to another while the first connection is kept."""
    first = await receiver(raw(OK))
    second = await receiver(raw(OK), host="127.0.0.2", port=first.port)
    sender = sending({"moves.example": [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]}, policy=ALL_LOOPBACK)
    for _ in range(4):
        assert isinstance(await post(sender, f"http://moves.example:{first.port}/"), Answered)
    assert (first.connections, len(first.requests)) == (1, 2)
    assert (second.connections, len(second.requests)) == (1, 2)


async def test_the_next_address_is_tried(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(OK))
    sender = sending({"two.example": [["::1", "127.0.0.1"]]})
    assert await post(sender, f"http://two.example:{got.port}/") == Answered(200, None, b"ok")


async def test_a_stalled_address_leaves_time_for_the_next(receiver: Starting, sending: Sending) -> None:
    """A listener whose backlog is full takes no connection, and refuses none."""
    got = await receiver(raw(OK))
    with socket.socket() as stalled:
        stalled.bind(("127.0.0.2", got.port))
        stalled.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(stalled.getsockname())
        sender = sending({"two.example": [["127.0.0.2", "127.0.0.1"]]}, policy=ALL_LOOPBACK, timeout_seconds=0.6)
        assert await post(sender, f"http://two.example:{got.port}/") == Answered(200, None, b"ok")
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("end", [reset, raw(then_close=True)], ids=["reset", "closed"])
async def test_a_dead_kept_connection_is_replaced_once(receiver: Starting, sending: Sending, end: Answering) -> None:
    got = await receiver(raw(OK), end, raw(OK))
    sender = sending()
    for _ in range(2):
        assert await post(sender, got.url) == Answered(200, None, b"ok")
    assert len(got.requests) == 3
    assert got.connections == 2


async def test_a_receiver_that_always_hangs_up_is_asked_twice_at_most(receiver: Starting, sending: Sending) -> None:
    got = await receiver(raw(OK), reset)
    sender = sending()
    await post(sender, got.url)
    assert code_of(await post(sender, got.url)) == "connection_lost"
    assert len(got.requests) == 3


# --- TLS ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """A server's certificate for `hooks.example`, and who trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    file = tmp_path / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + pem
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return Certificates(server, ssl.create_default_context(cadata=pem.decode()))


NAMES = {"hooks.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}


async def test_tls_keeps_the_name(receiver: Starting, sending: Sending, certificates: Certificates) -> None:
    got = await receiver(raw(OK), tls=certificates.server)
    sender = sending(NAMES, ssl_context=certificates.client)
    for _ in range(2):
        answer = await post(sender, f"https://hooks.example:{got.port}/")
        assert answer == Answered(200, None, b"ok")
    assert got.server_names == ["hooks.example"], "one handshake, then the kept connection"
    assert got.header("Host") == [f"hooks.example:{got.port}"]


async def test_a_certificate_for_another_name(receiver: Starting, sending: Sending, certificates: Certificates) -> None:
    """Another name at the same address gets no kept connection of the first, and its certificate is checked."""
    got = await receiver(raw(OK), tls=certificates.server)
    sender = sending(NAMES, ssl_context=certificates.client)
    assert isinstance(await post(sender, f"https://hooks.example:{got.port}/"), Answered)
    for host in ("other.example", "127.0.0.1"):
        answer = await post(sender, f"https://{host}:{got.port}/?key=secret")
        assert code_of(answer) == "tls_failed"
        assert "mismatch" in str(answer)
    assert len(got.requests) == 1


async def test_an_unknown_certificate(receiver: Starting, sending: Sending, certificates: Certificates) -> None:
    got = await receiver(raw(OK), tls=certificates.server)
    answer = await post(sending(NAMES), f"https://hooks.example:{got.port}/")
    assert code_of(answer) == "tls_failed"
    assert got.requests == []


async def test_plain_http_where_tls_is_expected(receiver: Starting, sending: Sending) -> None:
    async def speak_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_first, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await post(sending(), f"https://127.0.0.1:{port}/")
    assert code_of(answer) == "tls_failed"


async def test_a_stalled_handshake_ends_by_the_clock(receiver: Starting, sending: Sending) -> None:
    got = await receiver(silence)  # it waits for the end of a request that is a ClientHello
    result = await sending(timeout_seconds=0.2).send(got.url.replace("http:", "https:"), {}, BODY)
    assert code_of(result.answer) == "timeout"
    assert result.duration_seconds < 1
