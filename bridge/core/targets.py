"""The rules for callback targets: the parts of a URL, and a table of refused addresses. No name is looked up here.

The table is the bridge's own, because `ipaddress.is_global` differs between Python versions and is true for NAT64,
6to4 and site-local forms of private addresses. Sources: IANA's IPv4 and IPv6 Special-Purpose Address Registries
(RFC 6890 and its updates), RFC 4291 (IPv6 addressing), and the metadata addresses that cloud providers document.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from urllib.parse import quote, unquote

from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.ipv4_spelling import inet_aton
from bridge.core.refusal import ALLOW_HOSTS, ALLOW_NETWORKS, ALLOW_PRIVATE_HOSTS, HTTPS_ONLY, PORTS, Refusal

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}

# The first match names the rule, so the narrow ones come first.
_IPV4_RULES = tuple(
    (IPv4Network(network), name)
    for network, name in (
        ("169.254.169.254/32", "a cloud's metadata service"),
        ("100.100.100.200/32", "a cloud's metadata service"),  # Alibaba Cloud
        ("168.63.129.16/32", "a cloud's metadata service"),  # Azure's wire server, inside a public range
        ("0.0.0.0/32", "unspecified"),
        ("0.0.0.0/8", "reserved for this network"),  # RFC 791; Linux connects some of these to itself
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a 6to4 relay"),  # RFC 7526: deprecated
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_IPV6_RULES = tuple(
    (IPv6Network(network), name)
    for network, name in (
        ("fd00:ec2::254/128", "a cloud's metadata service"),  # AWS
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),  # RFC 4291: deprecated, so refused with any IPv4 address
        ("::ffff:0:0:0/96", "IPv4-translated"),  # RFC 2765: never sent between hosts
        ("64:ff9b:1::/48", "local NAT64"),  # RFC 8215: not global, in each of RFC 6052's layouts
        ("100::/64", "discard-only"),
        ("2001::/32", "Teredo"),  # RFC 4380: it contains a server's IPv4 and a client's inverted IPv4
        ("2001:2::/48", "for benchmarks"),
        ("2001:10::/28", "ORCHID"),
        ("2001:20::/28", "ORCHID"),
        ("2001::/23", "reserved for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "for segment routing"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052, the well-known prefix
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
# Linux connects every address of 0.0.0.0/8 that it accepts, and ::, to itself.
_THIS_MACHINE: tuple[Network, ...] = (*_LOOPBACK, IPv4Network("0.0.0.0/8"), IPv6Network("::/128"))
_PRIVATE: tuple[Network, ...] = (
    *_LOOPBACK,
    *map(IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")),
    IPv6Network("fc00::/7"),
)
# No receiver has such an address, or none that an operator should open.
_USELESS = frozenset({"a cloud's metadata service", "multicast", "broadcast", "discard-only"})
_NEVER_OPENED: tuple[Network, ...] = (
    *(network for network, name in _IPV4_RULES if name in _USELESS),
    *(network for network, name in _IPV6_RULES if name in _USELESS),
)
_METADATA = frozenset({IPv4Address("100.100.100.200"), IPv6Address("fd00:ec2::254")})  # inside of _PRIVATE
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has allocated
_ISATAP_MARKS = frozenset({0x0000_5EFE, 0x0200_5EFE})  # RFC 5214: the upper half of the interface identifier

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PARTS = re.compile(r"[A-Za-z]+://([^/?#]*)([^#]*)(#.*)?")
_AUTHORITY = re.compile(r"(?:\[([^\[\]@]*)\]|([^\[\]@:]*))(?::([0-9]*))?")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNCHANGED_ASCII = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class TargetPolicy:
    """The targets that the operator allows.

    `allow_networks` opens exactly these networks, IPv4 or IPv6. An IPv4-mapped address counts as its IPv4 address.
    Every other form that contains an IPv4 address needs its own entry. If `allow_hosts` is not empty, every other
    host is refused; an entry is an exact name or `*.example.com` for subdomains. `ports` is None for any port.
    `allow_private_hosts`, in the same form, opens private, CGNAT and loopback addresses for these names.
    `own_ports` are the ports that the service listens on: on them, local addresses and `own_addresses` are refused,
    even in an open network.
    """

    allow_networks: tuple[Network, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_private_hosts: tuple[str, ...] = ()
    ports: frozenset[int] | None = None
    https_only: bool = False
    own_ports: frozenset[int] = frozenset()
    own_addresses: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a callback URL.

    `url` is the URL as the app gave it, `path` the path and query as they are sent. `host` is lower-case ASCII without
    brackets and without a dot at its end. `address` is set if the host is a literal address.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str
    address: Address | None = None

    @property
    def https(self) -> bool:
        """Whether the connection uses TLS."""
        return self.scheme == "https"

    @property
    def host_key(self) -> str:
        """Host and port, always both: `example.com:443`, `[2606:4700::1]:80`. Limits for each host use this key."""
        return f"{bracketed(self.host)}:{self.port}"

    @property
    def authority(self) -> str:
        """The `Host` header (RFC 9110, 7.2): it has a port only if that is not the scheme's default."""
        return bracketed(self.host) if self.port == DEFAULT_PORTS[self.scheme] else self.host_key


def bracketed(host: str) -> str:
    """Returns a host as URLs write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on `host`: an address in 127.0.0.0/8, ::1, or `localhost`.

    An IPv6 address has no brackets.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return any(address in network for network in _LOOPBACK)


# --- addresses ----------------------------------------------------------------------------------------------------


def embedded_ipv4(address: Address) -> Iterator[tuple[str, IPv4Address]]:
    """Yields each IPv4 address inside an IPv6 address, with the name of the form.

    The forms are IPv4-mapped, the well-known NAT64 prefix, 6to4 and ISATAP. The table refuses all other forms.
    """
    if isinstance(address, IPv4Address):
        return
    bits = int(address)
    if address.ipv4_mapped is not None:
        yield "IPv4-mapped", address.ipv4_mapped
    if address in _NAT64:
        yield "NAT64", IPv4Address(bits & 0xFFFF_FFFF)
    if address in _SIX_TO_FOUR:
        yield "6to4", IPv4Address(bits >> 80 & 0xFFFF_FFFF)
    if (bits >> 32 & 0xFFFF_FFFF) in _ISATAP_MARKS:
        yield "ISATAP", IPv4Address(bits & 0xFFFF_FFFF)


def unmapped_address(address: Address) -> Address:
    """Returns the IPv4 address inside an IPv4-mapped address, and any other address unchanged.

    The kernel connects both to the same host.
    """
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@lru_cache(maxsize=4096)  # pure; a scan takes 10 µs, and a host is checked at each attempt
def special_use(address: Address) -> str | None:
    """Returns why an address is not a public one, as the end of a sentence ("is loopback (127.0.0.0/8)"), else None."""
    rules = _IPV4_RULES if isinstance(address, IPv4Address) else _IPV6_RULES
    for network, name in rules:
        if address in network:
            return f"is {name} ({network})"
    embedded = list(embedded_ipv4(address))
    for form, inner in embedded:
        if rule := special_use(inner):
            return f"contains {inner} ({form}), which {rule}"
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST and not _represents_ipv4(address):
        return f"is outside global unicast ({_GLOBAL_UNICAST})"
    return None


def _represents_ipv4(address: IPv6Address) -> bool:
    """Whether the address only represents an IPv4 address. These forms are outside global unicast by design."""
    return address.ipv4_mapped is not None or address in _NAT64


def refusal_of(
    address: Address, policy: TargetPolicy, port: int, *, https: bool, name: str | None = None
) -> Refusal | None:
    """Returns why an address is refused; None if no rule refuses it.

    `name` is the name that resolved to the address; None for a literal address.
    """
    address = unmapped_address(address)
    if port in policy.own_ports and _is_local(address, policy):
        return Refusal(f"is local, and port {port} is the bridge's own")
    if any(address in network for network in policy.allow_networks):
        return None
    opened = name is not None and any(_matches(name, pattern) for pattern in policy.allow_private_hosts)
    if (rule := special_use(address)) and not (opened and _is_private(address)):
        return Refusal(rule, _settings_that_open(address, name))
    if policy.https_only and not https:
        return Refusal(f"may be called over https only ({HTTPS_ONLY})", (HTTPS_ONLY,))
    return None


def _settings_that_open(address: Address, name: str | None) -> tuple[str, ...]:
    forms = [address, *(inner for _, inner in embedded_ipv4(address))]
    if any(form in network for form in forms for network in _NEVER_OPENED):
        return ()
    return (ALLOW_NETWORKS,) if name is None or not _is_private(address) else (ALLOW_NETWORKS, ALLOW_PRIVATE_HOSTS)


def _is_local(address: Address, policy: TargetPolicy) -> bool:
    """Whether a connection to an address reaches this machine."""
    forms = [address, *(inner for _, inner in embedded_ipv4(address))]
    return any(form in policy.own_addresses or any(form in network for network in _THIS_MACHINE) for form in forms)


def _is_private(address: Address) -> bool:
    """Whether an address is one that `allow_private_hosts` opens."""
    return any(address in network for network in _PRIVATE) and address not in _METADATA


def check_address(address: Address, policy: TargetPolicy, port: int, *, https: bool) -> None:
    """Raises TargetRefused with the rule ("127.0.0.1 is loopback (127.0.0.0/8)") if a rule refuses the address."""
    if refusal := refusal_of(address, policy, port, https=https):
        raise TargetRefused(f"{address} {refusal.rule}", refusal.settings)


# --- URLs ---------------------------------------------------------------------------------------------------------


def parse_target(url: str, policy: TargetPolicy) -> Target:
    """Splits a callback URL into its parts and checks everything that needs no look-up.

    Raises InvalidRequest (field `callback_url`) for a malformed URL, and TargetRefused if a rule refuses the scheme,
    the port, the host, plain http or a literal address. Neither message repeats the path or the query.
    """
    target = _split(url)
    if policy.ports is not None and target.port not in policy.ports:
        raise TargetRefused(f"port {target.port} is not among the allowed ports ({PORTS})", (PORTS,))
    if policy.allow_hosts and not any(_matches(target.host, pattern) for pattern in policy.allow_hosts):
        raise TargetRefused(f"{target.host} is not among the allowed hosts ({ALLOW_HOSTS})", (ALLOW_HOSTS,))
    if target.address is not None:
        check_address(target.address, policy, target.port, https=target.https)
    elif policy.https_only and not target.https and not policy.allow_networks:
        # If networks are open, a name may resolve to an address in one of them. The addresses are checked later.
        raise TargetRefused(f"{target.host} may be called over https only ({HTTPS_ONLY})", (HTTPS_ONLY,))
    return target


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower().strip("[]").rstrip(".")
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _malformed(rule: str) -> InvalidRequest:
    return InvalidRequest([("callback_url", rule)])


@lru_cache(maxsize=1024)  # pure, and each retry splits the same URL again
def _split(url: str) -> Target:
    _check_characters(url)
    scheme_match = _SCHEME.match(url)
    if scheme_match is None:
        raise _malformed("must be an absolute http or https URL")
    scheme = scheme_match[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise TargetRefused("only http and https targets are allowed")
    parts = _PARTS.fullmatch(url)
    if parts is None or not parts[1]:
        raise _malformed("must name a host")
    authority, path, fragment = parts.groups()
    if fragment is not None:
        raise _malformed("must have no fragment")
    if "@" in authority:
        raise _malformed("must not contain a user or a password")
    host, address, port = split_authority(authority)
    if not path.startswith("/"):
        path = "/" + path
    wire_path = quote(path, safe=_UNCHANGED_ASCII)  # encodes only characters that are not ASCII
    return Target(url, scheme, host, DEFAULT_PORTS[scheme] if port is None else port, wire_path, address)


def _check_characters(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise _malformed(f"must be at most {MAX_URL_CHARACTERS} characters")
    if not url.isprintable() or " " in url:
        raise _malformed("must have no white space, control or invisible characters")
    if _BAD_PERCENT.search(url.split("[", 1)[0] if "]" in url else url):
        # Not inside brackets: `[fe80::1%eth0]` is refused for its zone, and the message says so.
        raise _malformed("must have two hexadecimal digits after each %")


def split_authority(authority: str) -> tuple[str, Address | None, int | None]:
    """Returns the host, the literal address and the port (None: the scheme's default) of the text before the path."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise _malformed("must have a valid host and port")
    inside_brackets, name, digits = match.groups()
    port = int(digits[-6:]) if digits else None
    if port is not None and (not 0 < port < 1 << 16 or len(digits) > 5):
        raise _malformed("must have a port from 1 to 65535")
    if inside_brackets is not None:
        address = _bracketed_address(inside_brackets)
        return str(address), address, port
    return *_host(name), port


def _bracketed_address(text: str) -> IPv6Address:
    if "%" in text:
        raise TargetRefused("addresses with a zone are not allowed")
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise _malformed("must have a valid IPv6 address in its brackets") from None


def _host(spelling: str) -> tuple[str, IPv4Address | None]:
    """Reads a host without brackets: a name, which becomes ASCII, or an IPv4 address in its canonical spelling.

    Every spelling that `inet_aton` accepts is an address here too (as in the WHATWG URL standard). Short, octal,
    hexadecimal, full-width and percent-encoded spellings are refused: only an attempt to hide an address needs them.
    """
    host = unicodedata.normalize("NFKC", unquote(spelling)).lower()
    host = host.replace("\u3002", ".").removesuffix(".")  # IDNA reads the ideographic full stop as a dot; NFKC keeps it
    if _ENDS_IN_NUMBER.fullmatch(host):
        try:
            address = inet_aton(host)
        except ValueError as error:
            raise _malformed(str(error)) from None
        if str(address) != spelling:
            raise TargetRefused(f"IPv4 addresses are accepted in their usual spelling only: {address}")
        return spelling, address
    if not host.isascii():
        host = _idna(host)
    if len(host) > 253 or not _NAME.fullmatch(host):  # RFC 1035, 2.3.4
        raise _malformed("must have a valid host name")
    if _ENDS_IN_NUMBER.fullmatch(host):
        raise _malformed("must have a valid host name")
    return host, None


def _idna(host: str) -> str:
    """Encodes an international name as browsers do (IDNA 2008 with UTS 46 mapping)."""
    import idna  # the import takes 10 ms, and few hosts need it

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise _malformed("must have a valid host name") from None
