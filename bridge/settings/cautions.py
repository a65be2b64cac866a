"""Warnings at the start and in `check`, about settings that are allowed."""

import ipaddress
from urllib.parse import urlsplit

from bridge.core.targets import special_use
from bridge.settings import variables
from bridge.settings.settings import ENV_FILE, EnvFile, Settings, known_names
from bridge.settings.variables import read_variables


def cautions(settings: Settings) -> list[str]:
    """Returns a sentence for each setting that is allowed but needs a warning at the start."""
    found = []
    if _is_plain_http_to_public(settings.amux_base_url):
        found.append("AMUX_BASE_URL is plain http to a public host: the key and every answer are sent unencrypted")
    if not (settings.tokens or settings.operator_tokens):
        found.append("no token is configured: every program on this machine can use the bridge, as the app `default`")
    return found


def variable_cautions(env_file: EnvFile = ENV_FILE) -> list[str]:
    """Returns a warning for each problem of the environment and of `env_file`.

    Problems are a file that cannot be read, settings with different values in both, and names that are not settings.
    """
    found = read_variables(env_file)
    sentences = [found.unreadable] if found.unreadable else []
    if differing := variables.differing(found, known_names()):
        sentences.append(
            f"the environment and {env_file} set different values of {', '.join(differing)}: the environment is used"
        )
    return sentences + [
        f"{name} is not a setting of this bridge; is it a typo? The nearest name is "
        f"{variables.nearest(name, known_names())}"
        for name in variables.unknown(found, known_names())
    ]


def _is_plain_http_to_public(url: str) -> bool:
    """Whether requests to a URL cross a public network unencrypted: the scheme is http and the host is not private.

    These hosts are private: addresses of special-use networks, names of one label, and names below the domains that are
    reserved for local use (RFC 6761, 6762, 8375, 9476 and ICANN's `.internal`). No name is resolved.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "http":
        return False
    try:
        return special_use(ipaddress.ip_address(host)) is None
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal", ".home.arpa", ".test", ".alt"))
