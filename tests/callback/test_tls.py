"""TLS with receivers: a private CA beside the system's, client certificates, and errors that name mutual TLS."""

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bridge.callback.guard import Guard
from bridge.callback.sender import Sender
from bridge.callback.tls import receiver_tls
from bridge.core.errors import BadSetting
from bridge.core.model import Answered
from tests.callback.harness import OK, OPEN, MakeSender, code_of, post
from tests.certificates import certificate_authority, private_key
from tests.scripted_server import StartServer, raw, reset


class Files:
    """A CA, its certificate for 127.0.0.1 with the key, and TLS contexts of servers with this certificate."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = certificate_authority(folder / "one", "one")

    def server(self, *, mutual: bool = False, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.maximum_version = version
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_a_ca_file_is_added_to_the_ones_of_the_system(
    start_receiver: StartServer, make_sender: MakeSender, files: Files
) -> None:
    receiver = await start_receiver(raw(OK), tls=files.server())
    url = receiver.url.replace("http:", "https:")
    assert code_of(await post(make_sender(), url)) == "tls_failed"
    context = receiver_tls(None, None, files.ca)
    assert context is not None
    assert len(context.get_ca_certs()) == len(ssl.create_default_context().get_ca_certs()) + 1
    assert await post(make_sender(ssl_context=context), url) == Answered(200, None, b"ok")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_receiver_that_requires_a_client_certificate_gets_one_or_is_named(
    start_receiver: StartServer, make_sender: MakeSender, files: Files, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    receiver = await start_receiver(raw(OK), tls=files.server(mutual=True, version=version))
    url = receiver.url.replace("http:", "https:")
    without = await post(make_sender(ssl_context=receiver_tls(None, None, files.ca)), url)
    assert code_of(without) in {"tls_failed", "connection_lost", "connection_failed"}
    assert "perhaps it requires a client certificate (BRIDGE_CALLBACK_CLIENT_CERTIFICATE)" in str(without)
    together = tmp_path / "together.pem"
    together.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    for certificate, key in ((files.certificate, files.key), (together, None)):
        context = receiver_tls(certificate, key, files.ca)
        assert await post(make_sender(ssl_context=context), url) == Answered(200, None, b"ok")
    _, other_certificate, other_key = certificate_authority(tmp_path / "two", "two")
    other = receiver_tls(other_certificate, other_key, files.ca)

    async def resolve(_host: str, _port: int) -> list[str]:
        return []

    sender = Sender(Guard(OPEN, resolve), user_agent="test", ssl_context=other, has_client_certificate=True)
    assert "perhaps it does not accept the client certificate" in str(await post(sender, url))
    await sender.close()


async def test_other_failures_do_not_name_client_certificates(
    start_receiver: StartServer, make_sender: MakeSender, files: Files
) -> None:
    plain, untrusted = await start_receiver(reset), await start_receiver(raw(OK), tls=files.server())
    for url in (plain.url, untrusted.url.replace("http:", "https:")):
        assert "client certificate" not in str(await post(make_sender(), url))


def test_a_bad_file_is_named_with_its_setting(files: Files, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.touch()
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        private_key(tmp_path / "plain.pem").private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    for arguments, sentence in (
        ((None, None, missing), "BRIDGE_CALLBACK_CA_FILE: .*missing.pem cannot be read: no such file"),
        ((None, None, empty), "BRIDGE_CALLBACK_CA_FILE: .*empty.pem contains no certificates"),
        ((missing, None, None), "BRIDGE_CALLBACK_CLIENT_CERTIFICATE: .*cannot be read"),
        (
            (files.certificate, None, None),
            "BRIDGE_CALLBACK_CLIENT_CERTIFICATE: .*must contain a certificate and its unen",
        ),
        ((files.certificate, missing, None), "BRIDGE_CALLBACK_CLIENT_KEY: .*cannot be read"),
        (
            (files.certificate, empty, None),
            "BRIDGE_CALLBACK_CLIENT_KEY: .*must contain a certificate and its unencrypted",
        ),
        ((files.certificate, encrypted, None), "BRIDGE_CALLBACK_CLIENT_KEY: .*unencrypted key in PEM form"),
        ((files.certificate, tmp_path / "plain.pem", None), "the key does not belong to the certificate"),
    ):
        with pytest.raises(BadSetting, match=sentence):
            receiver_tls(*arguments)
    assert receiver_tls(None, None, None) is None
