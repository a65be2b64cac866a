"""How the text of each setting is read: pure functions from what was given to a value, or ValueError with the rule.

The sentences go on from the setting's name ("BRIDGE_TOKENS: entry 2 is empty"), and those of settings that may hold
a secret repeat nothing of it. Each reader takes its own result as well, for values that a program gives.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from cryptography.fernet import Fernet
from pydantic import SecretStr

from bridge.core.signing import Secret, SigningKey, parse_secret, parse_signing_key
from bridge.core.targets import Network, special_use

Value = TypeVar("Value")

_APP_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/:=-]{1,512}")  # RFC 6750's b64token and ":"; all that a header carries as is
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")
_PRINTABLE = re.compile(r"[!-~]+")
_LONGEST_RETRY_DELAY = 2_592_000  # 30 days: a row would outlive its retention


def upper(given: Any) -> Any:
    """A word in capitals; anything but text as it is, for the type's own check to refuse."""
    return given.strip().upper() if isinstance(given, str) else given


def entries(given: Any) -> list[str]:
    """The entries of a comma-separated list, without the spaces around them; blank text is an empty list."""
    if isinstance(given, str):
        found = [entry.strip() for entry in given.split(",")] if given.strip() else []
    elif isinstance(given, Sequence) and all(isinstance(entry, str) for entry in given):
        found = list(given)
    else:
        raise ValueError("must be a comma-separated list")
    for number, entry in enumerate(found, 1):
        if not entry:
            raise ValueError(f"entry {number} is empty")
    return found


def each(given: Any, read: Callable[[str], Value]) -> tuple[Value, ...]:
    """Read each entry of a list; a ValueError names the entry by its number, for it may be a secret."""
    found = []
    for number, entry in enumerate(entries(given), 1):
        try:
            found.append(read(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    return tuple(found)


# --- who may, and secrets -----------------------------------------------------------------------------------------


def tokens(given: Any) -> Mapping[str, str]:
    """`name:token,...` as token → name. Names repeat (several tokens of one app), tokens must not."""
    if isinstance(given, Mapping):
        given = [f"{name}:{token}" for token, name in given.items()]
    found: dict[str, str] = {}
    for number, (name, token) in enumerate(each(given, _named_token), 1):
        if token in found:
            raise ValueError(f"entry {number} has the token of an earlier entry; a token names one app")
        found[token] = name
    return found


def _named_token(entry: str) -> tuple[str, str]:
    name, colon, token = (part.strip() for part in entry.partition(":"))
    if not colon or not _APP_NAME.fullmatch(name):
        raise ValueError("must be name:token, the name of up to 64 letters, digits, dots, hyphens and underscores")
    if not token:
        raise ValueError(f"the token of {name} is empty")
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"the token of {name} may hold letters, digits and . _ ~ + / : = - only, up to 512")
    return name, token


def api_key(given: Any) -> str:
    """A key that a header can carry: visible ASCII without spaces."""
    text = given.get_secret_value() if isinstance(given, SecretStr) else _text(given).strip()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be visible ASCII characters without spaces")
    return text


def signing_secrets(given: Any) -> tuple[Secret, ...]:
    """`whsec_...` secrets, the current one first; none twice."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = [entry.text if isinstance(entry, Secret) else entry for entry in given]
    return _distinct(each(given, parse_secret))


def signing_key(given: Any) -> SigningKey | None:
    """A `whsk_...` key."""
    return given if given is None or isinstance(given, SigningKey) else parse_signing_key(_text(given).strip())


def fernet_keys(given: Any) -> tuple[str, ...]:
    """Fernet keys (URL-safe base64 of 32 bytes), the newest first; none twice."""
    return _distinct(each(given, _fernet_key))


def _fernet_key(entry: str) -> str:
    try:
        Fernet(entry.encode())
    except ValueError:
        raise ValueError("must be a Fernet key: URL-safe base64 of 32 bytes") from None
    return entry


def _distinct(found: tuple[Value, ...]) -> tuple[Value, ...]:
    for number, value in enumerate(found, 1):
        if value in found[: number - 1]:
            raise ValueError(f"entry {number} is given twice")
    return found


# --- places -------------------------------------------------------------------------------------------------------


def http_url(given: Any) -> str:
    """An http(s) URL of a place to put paths behind: no user info, query or fragment, final slashes dropped."""
    text = _text(given).strip()
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or a password")
    if "?" in text or "#" in text:
        raise ValueError("must not hold a query or a fragment")
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be visible ASCII characters without spaces")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def amux_url(given: Any) -> str:
    """As `http_url`, and without the `/v1` that base URLs of SDKs end with."""
    return http_url(given).removesuffix("/v1").rstrip("/")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  it raises for a bad port
    except ValueError:
        raise ValueError("must be a URL with a well-formed host and port") from None
    return parts


def database_url(given: Any) -> str:
    """`sqlite:///path` or `postgresql://...`; the text is never repeated, for it may hold a password."""
    text = _text(given).strip()
    scheme, mark, rest = text.partition("://")
    if scheme == "postgres":
        raise ValueError("must begin with postgresql://, not postgres://")
    if mark and scheme == "postgresql" and rest:
        _split(text)
        return text
    if not (mark and scheme == "sqlite"):
        raise ValueError("must be sqlite:///path or postgresql://user@host/name")
    path = rest.partition("?")[0]
    if not path.startswith("/") or path in {"/", "/:memory:"} or "mode=memory" in rest:
        raise ValueError("must name a file: sqlite:///bridge.db, or sqlite:////data/bridge.db for an absolute path")
    return text


def is_plain_http_to_public(url: str) -> bool:
    """Whether a URL sends what it carries in the open: http, and no host of a private network.

    Names of one label and those under the names kept for local use (RFC 6761, 6762, 8375, 9476 and ICANN's
    `.internal`) count as private; no name is looked up.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "http":
        return False
    try:
        return special_use(ipaddress.ip_address(host)) is None
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal", ".home.arpa", ".test", ".alt"))


# --- callbacks ----------------------------------------------------------------------------------------------------


def networks(given: Any) -> tuple[Network, ...]:
    """CIDRs; one with bits below its mask is refused, for it opens more than it seems to say."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = [str(entry) for entry in given]
    return each(given, _network)


def _network(entry: str) -> Network:
    try:
        loose = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is not a network such as 10.0.0.0/8 or fd00::/8") from None
    if loose.network_address != ipaddress.ip_address(entry.partition("/")[0]):
        raise ValueError(f"{entry!r} has bits set below its mask; write {loose}, or {entry.partition('/')[0]} alone")
    return loose


def host_patterns(given: Any) -> tuple[str, ...]:
    """Host names, addresses, and `*.example.com` for what is under a name; in lower case."""
    return each(given, _host_pattern)


def _host_pattern(entry: str) -> str:
    if not _HOST_PATTERN.fullmatch(entry):
        raise ValueError(f"{entry!r} is not a host name, an address or *.example.com (no scheme, port or path)")
    return entry.lower()


def ports(given: Any) -> frozenset[int] | None:
    """Port numbers from 1 to 65535; None is any."""
    if given is None:
        return None
    if isinstance(given, (Sequence, set, frozenset)) and not isinstance(given, str):
        given = [str(entry) for entry in given]
    found = each(given, _port)
    if not found:
        raise ValueError("must hold a port, or be left out for any")
    return frozenset(found)


def _port(entry: str) -> int:
    if not (entry.isascii() and entry.isdigit() and len(entry) <= 5 and 1 <= int(entry) <= 65_535):
        raise ValueError(f"{entry!r} is not a port from 1 to 65535")
    return int(entry)


def retry_delays(given: Any) -> tuple[float, ...]:
    """Seconds between attempts, each above 0; none at all means that the first attempt is the only one."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = [str(entry) for entry in given]
    return each(given, _delay)


def _delay(entry: str) -> float:
    try:
        delay = float(entry)
    except ValueError:
        delay = math.nan
    if not 0 < delay <= _LONGEST_RETRY_DELAY:
        raise ValueError(f"{entry!r} is not a number of seconds above 0 and up to {_LONGEST_RETRY_DELAY} (30 days)")
    return delay


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError("must be text")  # noqa: TRY004  pydantic takes ValueError for a finding
    return given
