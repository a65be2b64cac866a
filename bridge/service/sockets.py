"""The service's sockets. They are bound first: a port in use is then reported at once, and a free port is known."""

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeAlias

from bridge.core.errors import BadSetting
from bridge.core.targets import Address, bracketed

_SocketAddress: TypeAlias = tuple[socket.AddressFamily, tuple[Any, ...]]

# Documentation addresses. Nothing is sent to them: connecting a datagram socket only looks up the route.
_ROUTE_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


_ANY_IPV4, _ANY_IPV6 = "0.0.0.0", "::"  # noqa: S104  the operator configures them
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_PORT_ERRORS = frozenset({errno.EADDRINUSE, errno.EACCES, errno.EPERM})  # all other errors are about the address
_FREE_PORT_TRIES = 20  # a port that is free on the first address may be in use on another one


class _AddressInUseError(OSError):
    """The port of the first address is in use on another address."""


def bind(hosts: Sequence[str], port: int, prefix: str = "BRIDGE_") -> list[socket.socket]:
    """Returns sockets on every address of `hosts`, all on one port (0: any free one).

    `::` means every IPv6 and IPv4 address; without IPv6 in the system, every IPv4 address. Raises BadSetting, which
    names the setting: `prefix` and HOST or PORT.
    """
    addresses = _addresses(hosts, prefix)
    for _ in range(_FREE_PORT_TRIES if port == 0 else 0):
        with suppress(_AddressInUseError):
            return _bind_all(addresses, 0, prefix)
    return _bind_all(addresses, port, prefix)


def _addresses(hosts: Sequence[str], prefix: str) -> list[_SocketAddress]:
    """Returns the family and address of each socket, without duplicates."""
    found: list[_SocketAddress] = []
    for host in hosts:
        for name in (_ANY_IPV4, _ANY_IPV6) if host == _ANY_IPV6 else (host,):
            try:
                resolved = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            except OSError as error:
                if name == _ANY_IPV6:
                    continue  # the system has no IPv6; `::` then means every IPv4 address
                raise BadSetting(
                    f"{prefix}HOST: {host!r} is not an address of this machine: {error.strerror}"
                ) from None
            found += [(family, address) for family, _, _, _, address in resolved]
    # If an address means all addresses of its family, the others of the family cannot be bound to the same port.
    for_all = {family for family, address in found if address[0] in {_ANY_IPV4, _ANY_IPV6}}
    kept = [one for one in found if one[0] not in for_all or one[1][0] in {_ANY_IPV4, _ANY_IPV6}]
    return list(dict.fromkeys(kept))


def _bind_all(addresses: Sequence[_SocketAddress], port: int, prefix: str) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for family, address in addresses:
        actual_port = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bind_one(family, (address[0], actual_port, *address[2:])))
        except OSError as error:
            if sockets and family == socket.AF_INET6 and error.errno in _NO_IPV6:
                continue  # localhost has an IPv6 address even if the kernel has no IPv6
            for opened in sockets:
                opened.close()
            if sockets and port == 0 and error.errno == errno.EADDRINUSE:
                raise _AddressInUseError from None
            place = f"{bracketed(str(address[0]))}:{actual_port}"
            name = "PORT" if error.errno in _PORT_ERRORS else "HOST"
            raise BadSetting(f"{prefix}{name}: cannot listen on {place}: {error.strerror}") from None
    return sockets


def _bind_one(family: int, address: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


def port_of(sockets: Sequence[socket.socket]) -> int:
    """Returns the port of sockets that `bind` made. It is the same for all."""
    return int(sockets[0].getsockname()[1])


def own_addresses() -> frozenset[Address]:
    """Returns the addresses of this machine's interfaces. Callbacks to them are refused on the bridge's own ports."""
    return frozenset({*_routed_addresses(), *_linux_ipv4_addresses(), *_linux_ipv6_addresses()})


def _routed_addresses() -> Iterator[Address]:
    """Yields this machine's addresses on its routes to the outside. Without /proc, only these are known."""
    for family, probe_address in _ROUTE_PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((probe_address, 9))
                yield ip_address(probe.getsockname()[0].partition("%")[0])
        except OSError:
            continue  # no route in this address family


def _linux_ipv4_addresses() -> Iterator[Address]:
    """Yields the local addresses in Linux's table of routes. The line after a local address is `/32 host LOCAL`."""
    previous = ""
    for line in _lines("/proc/net/fib_trie"):
        if line.strip() == "/32 host LOCAL":
            yield ip_address(previous.rsplit(maxsplit=1)[-1])
        previous = line


def _linux_ipv6_addresses() -> Iterator[Address]:
    for line in _lines("/proc/net/if_inet6"):
        yield IPv6Address(int(line.split()[0], 16))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("ascii").splitlines()
    except OSError:  # not Linux, or /proc is hidden
        return []
