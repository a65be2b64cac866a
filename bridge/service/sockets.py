"""The service's sockets. They are bound before anything else, so that the port is known and a used one is reported."""

import socket
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from bridge.core.errors import BadSetting
from bridge.core.targets import Address, bracketed

# Documentation addresses. Nothing is sent to them: connecting a datagram socket only looks up the route.
_ROUTE_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def bind(host: str, port: int) -> list[socket.socket]:
    """Returns sockets on every address of `host`, all on one port (0: any free one). Raises BadSetting."""
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadSetting(f"BRIDGE_HOST: {host!r} is not an address of this machine: {error.strerror}") from None
    sockets: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(resolved):
        actual_port = sockets[0].getsockname()[1] if sockets else port
        try:
            sockets.append(_bind_one(family, (address[0], actual_port, *address[2:])))
        except OSError as error:
            if sockets and family == socket.AF_INET6:
                continue  # localhost has an IPv6 address even where the kernel has no IPv6
            for opened in sockets:
                opened.close()
            raise BadSetting(
                f"BRIDGE_PORT: cannot listen on {bracketed(host)}:{actual_port}: {error.strerror}"
            ) from None
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


def own_addresses() -> frozenset[Address]:
    """Returns the addresses of this machine's interfaces. Callbacks to them are refused on own ports."""
    return frozenset({*_routed_addresses(), *_linux_ipv4_addresses(), *_linux_ipv6_addresses()})


def _routed_addresses() -> Iterator[Address]:
    """The addresses on the routes to the outside: all that is known where there is no /proc."""
    for family, probe_address in _ROUTE_PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((probe_address, 9))
                yield ip_address(probe.getsockname()[0].partition("%")[0])
        except OSError:
            continue  # no route in this address family


def _linux_ipv4_addresses() -> Iterator[Address]:
    """Linux's table of routes lists an address and, in the next line, that it is local: `/32 host LOCAL`."""
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
    except OSError:  # another system, or one that hides it
        return []
