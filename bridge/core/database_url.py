"""Reads database URLs in the forms that platforms and libpq use.

libpq's URLs are described in https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
"""

import re
from urllib.parse import parse_qsl, quote, unquote

_SCHEME = re.compile(
    r"postgres(?:ql)?(?:\+psycopg[a-z0-9_]*)?"
)  # also with the name of a driver, as SQLAlchemy writes it
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\[\]:,/?#@ ]*)(?::([0-9]{0,5}))?")
# Parameters of other clients. libpq would refuse a URL that contains them.
_OF_OTHER_CLIENTS = frozenset({
    *("pgbouncer", "connection_limit", "pool_timeout", "statement_cache_size", "prepared_statements", "supa"),
    *("prepare_threshold", "prepareThreshold", "serverVersion", "charset", "pool_size", "max_overflow"),
})  # fmt: skip


def is_postgres(url: str) -> bool:
    """Whether a URL has one of PostgreSQL's schemes."""
    scheme, mark, _ = url.partition("://")
    return bool(mark) and _SCHEME.fullmatch(scheme) is not None


def postgres_url(url: str) -> str:
    """Returns a URL that libpq reads, with the scheme `postgresql://`.

    Names of drivers and parameters of other clients are removed. If there are several hosts, libpq chooses the one that
    accepts writes, unless the URL says otherwise. Raises ValueError. The message repeats no part of the URL except the
    name of a parameter, because any other part may be a password.
    """
    rest, _, query = url.partition("://")[2].partition("?")
    # The last `@`, because a password that is not encoded may contain one.
    login, at, place = rest.rpartition("@")
    hosts, slash, name = place.partition("/")
    if not all(map(_is_host, hosts.split(","))):
        raise ValueError("must have a well-formed host and port: host, host:port, [IPv6]:port or %2Fsocket%2Ffolder")
    parameters = dict(_parameters(query, hosts))
    if _counts_several(hosts) or _counts_several(parameters.get("host", "")):
        parameters.setdefault("target_session_attrs", "read-write")
    if "#" in name:
        raise ValueError("must not contain a fragment")
    encoded = "&".join(f"{key}={quote(value, safe='/:,')}" for key, value in parameters.items())
    return f"postgresql://{_encoded_login(login)}{at}{hosts}{slash}{name}{'?' if encoded else ''}{encoded}"


def passwords(url: str) -> set[str]:
    """Returns the passwords in a database URL, both as they are written and decoded."""
    rest, _, query = url.partition("://")[2].partition("?")
    found = {rest.rpartition("@")[0].partition(":")[2]}
    found.update(value for key, value in parse_qsl(query) if key in {"password", "sslpassword"})
    return {text for password in found for text in (password, unquote(password)) if text}


def _is_host(host: str) -> bool:
    match = _HOST.fullmatch(host)
    return match is not None and (not match[2] or 0 < int(match[2]) <= 65_535)


def _counts_several(hosts: str) -> bool:
    return "," in hosts


def _encoded_login(login: str) -> str:
    """Percent-encodes characters that libpq does not accept, for example a lone `%` in a password."""
    user, colon, password = login.partition(":")
    return f"{quote(unquote(user), safe='')}{colon}{quote(unquote(password), safe='')}"


def _parameters(query: str, hosts: str) -> list[tuple[str, str]]:
    found = []
    places: list[str] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in _OF_OTHER_CLIENTS or (key == "schema" and value == "public"):
            continue
        if key == "schema":
            raise ValueError("the parameter schema is not known; set the role's search_path on the server instead")
        if key == "host" and not hosts:
            places.append(value)
        else:
            found.append((key, value))
    return [*_places(places), *found]


def _places(places: list[str]) -> list[tuple[str, str]]:
    """Returns `host` and `port` for libpq. SQLAlchemy writes several hosts as `host=a:1&host=b:2`."""
    if not places:
        return []
    if len(places) == 1 and (places[0].startswith("/") or ":" not in places[0]):
        return [("host", places[0])]
    pairs = [place.partition(":") for entry in places for place in entry.split(",")]
    hosts, ports = ",".join(host for host, _, _ in pairs), ",".join(port for _, _, port in pairs)
    return [("host", hosts), *([("port", ports)] if ports.strip(",") else [])]
