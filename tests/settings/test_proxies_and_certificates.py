"""Settings of the connections to amux and to receivers: proxies and certificates."""

from pathlib import Path

import pytest

from bridge.core.errors import BadSetting
from bridge.settings.proxies import certificate_cautions, proxy_cautions
from bridge.settings.settings import secret_texts
from tests.settings.conftest import Load


def test_proxies_of_the_environment_are_named_with_the_settings_that_are_used_instead() -> None:
    environ = {
        "https_proxy": "http://user:hidden@proxy:1",
        "ALL_PROXY": "socks5://x",
        "HTTP_PROXY": "",
        "NO_PROXY": "*",
    }
    [sentence] = proxy_cautions(environ)
    assert sentence.startswith("ALL_PROXY, https_proxy: proxies of the environment are not used")
    assert "AMUX_PROXY" in sentence
    assert "BRIDGE_CALLBACK_PROXY" in sentence
    assert "hidden" not in sentence
    assert proxy_cautions({"NO_PROXY": "*", "PATH": "/bin"}) == []


def test_a_proxy_keeps_its_login_which_is_a_secret(read: Load) -> None:
    settings = read(AMUX_PROXY="http://user:p%40ss@proxy:3128/", BRIDGE_CALLBACK_PROXY="https://[::1]")
    assert (settings.amux_proxy, settings.callback_proxy) == ("http://user:p%40ss@proxy:3128", "https://[::1]")
    assert {"p%40ss", "p@ss"} < set(secret_texts(settings))
    assert "p%40ss" not in repr(settings)


def test_a_client_key_needs_its_certificate(read: Load) -> None:
    with pytest.raises(
        BadSetting, match="BRIDGE_CALLBACK_CLIENT_CERTIFICATE: must be set if BRIDGE_CALLBACK_CLIENT_KEY"
    ):
        read(BRIDGE_CALLBACK_CLIENT_KEY="/no/key.pem")


def test_certificates_that_openssl_would_ignore_are_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    [missing] = certificate_cautions({"SSL_CERT_FILE": str(file)})
    assert missing.startswith(f"SSL_CERT_FILE: {file} cannot be read: no such file or directory")
    file.write_text("a page that says sign in")
    [wrong] = certificate_cautions({"SSL_CERT_FILE": str(file)})
    assert "contains no certificates in PEM form" in wrong
    file.write_text("-----BEGIN CERTIFICATE-----\n")
    assert certificate_cautions({"SSL_CERT_FILE": str(file)}) == []
    assert certificate_cautions({}) == certificate_cautions({"SSL_CERT_FILE": ""}) == []
