"""The TLS context for receivers: the system's certificates, an additional CA file, and a client certificate."""

import ssl
from pathlib import Path

from bridge.core.errors import BadSetting


def receiver_tls(certificate: Path | None, key: Path | None, ca_file: Path | None) -> ssl.SSLContext | None:
    """Returns the context, or None for aiohttp's own if no file is given. Raises BadSetting, which names the setting.

    If SSL_CERT_FILE is set, it replaces the system's certificates. The certificate's file may contain its key.
    """
    if certificate is None and ca_file is None:
        return None
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])  # as aiohttp's own context
    if ca_file is not None:
        _check_readable("BRIDGE_CALLBACK_CA_FILE", ca_file)
        try:
            context.load_verify_locations(cafile=ca_file)
        except (ssl.SSLError, OSError):
            raise BadSetting(f"BRIDGE_CALLBACK_CA_FILE: {ca_file} contains no certificates in PEM form") from None
    if certificate is not None:
        _check_readable("BRIDGE_CALLBACK_CLIENT_CERTIFICATE", certificate)
        if key is not None:
            _check_readable("BRIDGE_CALLBACK_CLIENT_KEY", key)
        _load_certificate(context, certificate, key)
    return context


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        # Without a password, OpenSSL would ask for it on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        name = "BRIDGE_CALLBACK_CLIENT_CERTIFICATE" if key is None else "BRIDGE_CALLBACK_CLIENT_KEY"
        if reason == "KEY_VALUES_MISMATCH":
            rule = "the key does not belong to the certificate"
        elif key is None:
            rule = (
                f"{certificate} must contain a certificate and its unencrypted key in PEM form, or set the key's file"
            )
        else:
            rule = f"{certificate} and {key} must contain a certificate and its unencrypted key in PEM form"
        raise BadSetting(f"{name}: {rule}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadSetting(f"{name}: {path} cannot be read: {(error.strerror or 'error').lower()}") from None
