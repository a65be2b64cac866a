"""Warns of proxies in the environment, which are not used, and of certificates there that cannot be read."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# What other programs read their proxies from (NO_PROXY alone names no proxy).
_PROXY_NAMES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})


def proxy_cautions(environ: Mapping[str, str] | None = None) -> list[str]:
    """Returns a sentence if the environment names proxies, which are not used. The proxies themselves are not shown."""
    environ = os.environ if environ is None else environ
    names = sorted(name for name in environ if name.upper() in _PROXY_NAMES and environ[name])
    if not names:
        return []
    used = "AMUX_PROXY is the proxy to amux, BRIDGE_CALLBACK_PROXY the one for callbacks"
    return [f"{', '.join(names)}: proxies of the environment are not used; {used}"]


def certificate_cautions(environ: Mapping[str, str] | None = None) -> list[str]:
    """Returns a sentence if SSL_CERT_FILE names a file that is no list of certificates: OpenSSL ignores it silently."""
    environ = os.environ if environ is None else environ
    file = environ.get("SSL_CERT_FILE")
    if not file:
        return []
    try:
        if b"-----BEGIN" in Path(file).read_bytes():
            return []
        problem = "holds no certificates in PEM form"
    except OSError as error:
        problem = f"cannot be read: {(error.strerror or 'error').lower()}"
    return [f"SSL_CERT_FILE: {file} {problem}, so no certificate of an https server can be verified"]
