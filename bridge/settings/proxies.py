"""Warns of proxies in the environment, which the bridge does not use."""

import os
from collections.abc import Mapping
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
