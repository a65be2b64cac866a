"""Parses the text of each setting: pure functions that return the value or raise ValueError with the broken rule.

An error message continues a sentence that begins with the setting's name ("BRIDGE_TOKENS: entry 2 is empty"). The
messages of settings that may contain a secret repeat no part of it. Each parser also accepts its own results, because
programs pass parsed values as overrides.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from cryptography.fernet import Fernet
from pydantic import SecretStr

from bridge.core.database_url import is_postgres, postgres_url
from bridge.core.signing import Secret, SigningKey, parse_secret, parse_signing_key
from bridge.core.targets import Network

Value = TypeVar("Value")

_APP_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/:=-]{1,512}")  # RFC 6750's b64token and ":", which need no encoding in a header
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")
_PRINTABLE = re.compile(r"[!-~]+")
_LONGEST_RETRY_DELAY = 2_592_000  # 30 days, the default retention
LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


_LEVELS = {"WARN": "WARNING", "FATAL": "CRITICAL", "ERR": "ERROR", "TRACE": "DEBUG", "NOTICE": "INFO"}
_BATCH_MODES = {"on": "auto", "true": "auto", "yes": "auto", "1": "auto", "false": "off", "no": "off", "0": "off"}
_FORMATS = {"text": "console", "plain": "console", "pretty": "console"}


def log_level(raw: Any) -> Any:
    """Returns Python's name of a level. Accepts any case and names of other programs. The field's type checks it."""
    return _LEVELS.get(raw.strip().upper(), raw.strip().upper()) if isinstance(raw, str) else raw


def log_format(raw: Any) -> Any:
    """Returns the name of a format in lower case, and "console" for other programs' names of it."""
    return _FORMATS.get(raw.strip().lower(), raw.strip().lower()) if isinstance(raw, str) else raw


def batch_mode(raw: Any) -> Any:
    """Returns "auto" or "off" for any case of these words and for words such as "true" and "no".

    Any other value is returned for the field's type to refuse.
    """
    return _BATCH_MODES.get(raw.strip().lower(), raw.strip().lower()) if isinstance(raw, str) else raw


def entries(raw: Any) -> list[str]:
    """Returns the entries of a comma-separated list, without surrounding spaces. Blank text is an empty list."""
    if isinstance(raw, str):
        found = [entry.strip() for entry in raw.split(",")] if raw.strip() else []
    elif isinstance(raw, Sequence) and all(isinstance(entry, str) for entry in raw):
        found = list(raw)
    else:
        raise ValueError("must be a comma-separated list")
    for number, entry in enumerate(found, 1):
        if not entry:
            raise ValueError(f"entry {number} is empty")
    return found


def parse_each(raw: Any, parse: Callable[[str], Value]) -> tuple[Value, ...]:
    """Parses each entry of a list. A ValueError names the entry by its number, because the entry may be a secret."""
    found = []
    for number, entry in enumerate(entries(raw), 1):
        try:
            found.append(parse(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
    return tuple(found)


# --- tokens and secrets -------------------------------------------------------------------------------------------


def tokens(raw: Any) -> Mapping[str, str]:
    """Returns the names in `name:token,...` by their tokens. A name may occur several times, a token only once."""
    if isinstance(raw, Mapping):
        raw = [f"{name}:{token}" for token, name in raw.items()]
    found: dict[str, str] = {}
    for number, (name, token) in enumerate(parse_each(raw, _named_token), 1):
        if token in found:
            raise ValueError(
                f"entry {number} repeats the token of an earlier entry; each entry needs a token of its own"
            )
        found[token] = name
    return found


def _named_token(entry: str) -> tuple[str, str]:
    name, colon, token = (part.strip() for part in entry.partition(":"))
    if not colon or not _APP_NAME.fullmatch(name):
        raise ValueError("must be name:token; a name has up to 64 letters, digits, dots, hyphens and underscores")
    if not token:
        raise ValueError(f"the token of {name} is empty")
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"the token of {name} must be at most 512 letters, digits and . _ ~ + / : = -")
    return name, token


def api_key(raw: Any) -> str:
    """Returns a key that can be sent in a header: visible ASCII characters without spaces."""
    text = raw.get_secret_value() if isinstance(raw, SecretStr) else _text(raw).strip()
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be visible ASCII characters without spaces")
    return text


def signing_secrets(raw: Any) -> tuple[Secret, ...]:
    """Returns `whsec_...` secrets, the current one first. A duplicate is an error."""
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = [entry.text if isinstance(entry, Secret) else entry for entry in raw]
    return _distinct(parse_each(raw, parse_secret))


def signing_key(raw: Any) -> SigningKey | None:
    """Returns the key of a `whsk_...` text; None for None."""
    return raw if raw is None or isinstance(raw, SigningKey) else parse_signing_key(_text(raw).strip())


def fernet_keys(raw: Any) -> tuple[str, ...]:
    """Returns Fernet keys (URL-safe base64 of 32 bytes), the newest first. A duplicate is an error."""
    return _distinct(parse_each(raw, _fernet_key))


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


# --- URLs and hosts -----------------------------------------------------------------------------------------------


def http_url(raw: Any) -> str:
    """Returns an http(s) base URL: no user info, query or fragment; final slashes are removed."""
    text = _text(raw).strip()
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or a password")
    if "?" in text or "#" in text:
        raise ValueError("must not contain a query or a fragment")
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be visible ASCII characters without spaces")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def amux_url(raw: Any) -> str:
    """Does the same as `http_url` and removes the `/v1` at the end of SDKs' base URLs."""
    return http_url(raw).removesuffix("/v1").rstrip("/")


def proxy_url(raw: Any) -> str:
    """Returns the URL of an http(s) proxy, which may contain a login. Errors never repeat the text."""
    text = _text(raw).strip()
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL of a proxy; socks proxies are not supported")
    if parts.path not in {"", "/"} or "?" in text or "#" in text:
        raise ValueError("must have no path, query or fragment; percent-encode the characters / ? # in a password")
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("must be visible ASCII characters without spaces")
    return text.rstrip("/")


def callback_url(raw: Any) -> str:
    """Returns a callback URL. The rules for its target are applied when the bridge starts, and at each attempt."""
    text = _text(raw).strip()
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL")
    return text


_NEXT_URL = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")  # a URL of apprise may itself contain commas


def notify_urls(raw: Any) -> tuple[str, ...]:
    """Returns the URLs of a list, separated by commas or spaces. Errors never repeat a URL."""
    if isinstance(raw, tuple):
        return raw
    urls = tuple(url.strip(" ,") for url in _NEXT_URL.split(_text(raw).strip(" ,\n\t")) if url.strip(" ,"))
    for number, url in enumerate(urls, 1):
        if "://" not in url:
            raise ValueError(f"entry {number} must be a URL of apprise, such as slack://... or mailtos://...")
    return urls


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  the property raises for a bad port
    except ValueError:
        raise ValueError("must be a URL with a well-formed host and port") from None
    return parts


def database_url(raw: Any) -> str:
    """Returns `sqlite:///path`, or a `postgresql://` URL for libpq. Errors never repeat a part that may be secret."""
    text = _text(raw).strip()
    scheme, mark, rest = text.partition("://")
    if is_postgres(text) and rest:
        return postgres_url(text)
    if not (mark and scheme == "sqlite"):
        raise ValueError("must be sqlite:///path or postgresql://user@host/name (postgres:// is the same)")
    path = rest.partition("?")[0]
    if not path.startswith("/") or path in {"/", "/:memory:"} or "mode=memory" in rest:
        raise ValueError("must name a file: sqlite:///bridge.db, or sqlite:////data/bridge.db for an absolute path")
    return text


def folder(raw: Any) -> Path:
    """Returns the path of a folder, which may be missing."""
    path = raw if isinstance(raw, Path) else Path(_text(raw).strip())
    if "\0" in str(path):
        raise ValueError("must be the path of a folder")
    return path


def hosts(raw: Any) -> tuple[str, ...]:
    """Returns the addresses or names to listen on, each once, without the brackets that a URL has around IPv6."""
    found = parse_each(raw, _host)
    if not found:
        raise ValueError("must contain an address to listen on")
    return tuple(dict.fromkeys(found))


def _host(entry: str) -> str:
    text = entry.removeprefix("[").removesuffix("]")
    if not _PRINTABLE.fullmatch(text) or "/" in text:
        raise ValueError(f"{entry!r} is not an address or a name to listen on")
    if text == "*":
        return "::"  # every address, as in other servers
    try:
        return str(ipaddress.ip_address(text))  # `::0` is `::`
    except ValueError:
        return text


# --- callbacks ----------------------------------------------------------------------------------------------------


def networks(raw: Any) -> tuple[Network, ...]:
    """Returns networks (CIDR). A network with host bits set is an error, because it allows more than it seems to."""
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = [str(entry) for entry in raw]
    return parse_each(raw, _network)


def _network(entry: str) -> Network:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        raise ValueError(f"{entry!r} is not a network such as 10.0.0.0/8 or fd00::/8") from None
    if network.network_address != ipaddress.ip_address(entry.partition("/")[0]):
        raise ValueError(f"{entry!r} has host bits set; write {network}, or {entry.partition('/')[0]} alone")
    return network


def host_patterns(raw: Any) -> tuple[str, ...]:
    """Returns host names, addresses and patterns such as `*.example.com`, in lower case."""
    return parse_each(raw, _host_pattern)


def _host_pattern(entry: str) -> str:
    if not _HOST_PATTERN.fullmatch(entry):
        raise ValueError(f"{entry!r} is not a host name, an address or *.example.com (no scheme, port or path)")
    return entry.lower()


def private_hosts(raw: Any) -> tuple[str, ...]:
    """Returns host names and patterns such as `*.svc.cluster.local`, in lower case; no addresses."""
    return parse_each(raw, _private_host)


def _private_host(entry: str) -> str:
    if entry == "*":
        raise ValueError("'*' would let every name resolve to a private address; write names or *.svc.cluster.local")
    pattern = _host_pattern(entry)
    try:
        ipaddress.ip_address(pattern.strip("[]"))
    except ValueError:
        return pattern
    raise ValueError(f"{entry!r} is an address; addresses belong in BRIDGE_CALLBACK_ALLOW_NETWORKS")


def ports(raw: Any) -> frozenset[int] | None:
    """Returns port numbers from 1 to 65535; None, which means any port, for None."""
    if raw is None:
        return None
    if isinstance(raw, (Sequence, set, frozenset)) and not isinstance(raw, str):
        raw = [str(entry) for entry in raw]
    found = parse_each(raw, _port)
    if not found:
        raise ValueError("must contain a port; to allow every port, do not set it")
    return frozenset(found)


def _port(entry: str) -> int:
    if not (entry.isascii() and entry.isdigit() and len(entry) <= 5 and 1 <= int(entry) <= 65_535):
        raise ValueError(f"{entry!r} is not a port from 1 to 65535")
    return int(entry)


def retry_delays(raw: Any) -> tuple[float, ...]:
    """Returns the seconds between attempts, each greater than 0. "none", or an empty list, means a single attempt."""
    if isinstance(raw, str) and raw.strip().lower() == "none":
        return ()
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        raw = [str(entry) for entry in raw]
    return parse_each(raw, _delay)


def _delay(entry: str) -> float:
    try:
        delay = float(entry)
    except ValueError:
        delay = math.nan
    if not 0 < delay <= _LONGEST_RETRY_DELAY:
        raise ValueError(f"{entry!r} is not a number of seconds above 0 and at most {_LONGEST_RETRY_DELAY} (30 days)")
    return delay


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("must be text")  # noqa: TRY004  pydantic reports a ValueError
    return raw
