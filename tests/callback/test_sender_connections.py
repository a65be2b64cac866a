"""Connections: kept for their judged address only, replaced when dead, and over TLS with the name checked."""

import asyncio
import datetime as dt
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bridge.core.model import Answered
from tests.callback.harness import ALL_LOOPBACK, AT_MOST_SECONDS, BODY, OK, MakeSender, code_of, post
from tests.scripted_server import StartServer, WriteAnswer, raw, reset, silence


async def test_a_kept_connection_is_used_for_its_judged_address_only(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    """The name changes to another server while the first connection is kept."""
    first = await start_receiver(raw(OK))
    second = await start_receiver(raw(OK), host="127.0.0.2", port=first.port)
    sender = make_sender({"moves.example": [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]}, policy=ALL_LOOPBACK)
    for _ in range(4):
        assert isinstance(await post(sender, f"http://moves.example:{first.port}/"), Answered)
    assert (first.connections, len(first.requests)) == (1, 2)
    assert (second.connections, len(second.requests)) == (1, 2)


async def test_the_next_address_is_tried_after_a_refused_connection(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    receiver = await start_receiver(raw(OK))
    sender = make_sender({"two.example": [["::1", "127.0.0.1"]]})
    assert await post(sender, f"http://two.example:{receiver.port}/") == Answered(200, None, b"ok")


async def test_a_stalled_address_leaves_time_for_the_next(start_receiver: StartServer, make_sender: MakeSender) -> None:
    """A listener whose backlog is full neither accepts nor refuses connections."""
    receiver = await start_receiver(raw(OK))
    with socket.socket() as stalled:
        stalled.bind(("127.0.0.2", receiver.port))
        stalled.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(stalled.getsockname())
        sender = make_sender({"two.example": [["127.0.0.2", "127.0.0.1"]]}, policy=ALL_LOOPBACK, timeout_seconds=2.0)
        assert await post(sender, f"http://two.example:{receiver.port}/") == Answered(200, None, b"ok")
        for filler in fillers:
            filler.close()


async def test_a_2xx_that_no_request_asked_for_is_not_the_answer_to_the_next_callback(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    refusal = raw(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n")
    receiver = await start_receiver(refusal)
    sender = make_sender()
    assert await post(sender, receiver.url) == Answered(500, None, b"")
    receiver.writers[0].write(OK)
    [kept] = [protocol for pool in sender._connectors[0]._conns.values() for protocol, _ in pool]
    while not kept.should_close:  # until the bytes arrive
        await asyncio.sleep(0)
    assert await post(sender, receiver.url) == Answered(500, None, b"")
    assert (receiver.connections, len(receiver.requests)) == (2, 2)


@pytest.mark.parametrize("end", [reset, raw(then_close=True)], ids=["reset", "closed"])
async def test_a_dead_kept_connection_is_replaced_once(
    start_receiver: StartServer, make_sender: MakeSender, end: WriteAnswer
) -> None:
    receiver = await start_receiver(raw(OK), end, raw(OK))
    sender = make_sender()
    for _ in range(2):
        assert await post(sender, receiver.url) == Answered(200, None, b"ok")
    assert len(receiver.requests) == 3
    assert receiver.connections == 2


async def test_an_attempt_sends_at_most_twice_to_a_receiver_that_always_resets(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    receiver = await start_receiver(raw(OK), reset)
    sender = make_sender()
    await post(sender, receiver.url)
    assert code_of(await post(sender, receiver.url)) == "connection_lost"
    assert len(receiver.requests) == 3


# --- TLS ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """The TLS contexts of a server with a certificate for `hooks.example` and of a client that trusts it."""

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


async def test_tls_uses_the_name(
    start_receiver: StartServer, make_sender: MakeSender, certificates: Certificates
) -> None:
    receiver = await start_receiver(raw(OK), tls=certificates.server)
    sender = make_sender(NAMES, ssl_context=certificates.client)
    for _ in range(2):
        answer = await post(sender, f"https://hooks.example:{receiver.port}/")
        assert answer == Answered(200, None, b"ok")
    assert receiver.server_names == ["hooks.example"], "one handshake, then the kept connection"
    assert receiver.header("Host") == [f"hooks.example:{receiver.port}"]


async def test_a_certificate_for_another_name_is_refused(
    start_receiver: StartServer, make_sender: MakeSender, certificates: Certificates
) -> None:
    """A request to another name at the same address needs a new connection, whose certificate is checked."""
    receiver = await start_receiver(raw(OK), tls=certificates.server)
    sender = make_sender(NAMES, ssl_context=certificates.client)
    assert isinstance(await post(sender, f"https://hooks.example:{receiver.port}/"), Answered)
    for host in ("other.example", "127.0.0.1"):
        answer = await post(sender, f"https://{host}:{receiver.port}/?key=secret")
        assert code_of(answer) == "tls_failed"
        assert "mismatch" in str(answer)
    assert len(receiver.requests) == 1


async def test_an_untrusted_certificate_is_refused(
    start_receiver: StartServer, make_sender: MakeSender, certificates: Certificates
) -> None:
    receiver = await start_receiver(raw(OK), tls=certificates.server)
    answer = await post(make_sender(NAMES), f"https://hooks.example:{receiver.port}/")
    assert code_of(answer) == "tls_failed"
    assert receiver.requests == []


async def test_a_server_without_tls_is_a_tls_failure(start_receiver: StartServer, make_sender: MakeSender) -> None:
    async def speak_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_first, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await post(make_sender(), f"https://127.0.0.1:{port}/")
    assert code_of(answer) == "tls_failed"


async def test_a_stalled_handshake_ends_at_the_time_limit(start_receiver: StartServer, make_sender: MakeSender) -> None:
    receiver = await start_receiver(silence)  # it waits for the end of an HTTP request, but gets a ClientHello
    result = await make_sender(timeout_seconds=0.2).send(receiver.url.replace("http:", "https:"), {}, BODY)
    assert code_of(result.answer) == "timeout"
    assert result.duration_seconds < AT_MOST_SECONDS
