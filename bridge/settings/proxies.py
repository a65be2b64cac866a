"""Warns of environment variables for proxies, which are not used, and of SSL_CERT_FILE if it cannot be read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# The variables from which other programs read their proxies. NO_PROXY alone names no proxy.
_PROXY_NAMES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})


def proxy_cautions(environ: Mapping[str, str] | None = None) -> list[str]:
    """Returns a warning, without values, if the environment names proxies, which are not used."""
    environ = os.environ if environ is None else environ
    names = sorted(name for name in environ if name.upper() in _PROXY_NAMES and environ[name])
    if not names:
        return []
    used = "AMUX_PROXY is the proxy to amux, BRIDGE_CALLBACK_PROXY the proxy for callbacks"
    return [f"{', '.join(names)}: proxies of the environment are not used; {used}"]


def certificate_cautions(environ: Mapping[str, str] | None = None) -> list[str]:
    """Returns a warning if SSL_CERT_FILE names a file that cannot be read or has no certificates.

    OpenSSL ignores such a file without a message.
    """
    environ = os.environ if environ is None else environ
    file = environ.get("SSL_CERT_FILE")
    if not file:
        return []
    try:
        if b"-----BEGIN" in Path(file).read_bytes():
            return []
        problem = "contains no certificates in PEM form"
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or 'error').lower()}"
    return [f"SSL_CERT_FILE: {file} {problem}, so no certificate of an https server can be verified"]
