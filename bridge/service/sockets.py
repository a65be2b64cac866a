"""The service's sockets. They are bound before anything else, so that the port is known and a used one is reported."""

import socket
from ipaddress import ip_address

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
    """Returns this machine's addresses on its routes to the outside. Callbacks to them are refused on own ports."""
    addresses = set()
    for family, probe_address in _ROUTE_PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((probe_address, 9))
                addresses.add(ip_address(probe.getsockname()[0].partition("%")[0]))
        except OSError:
            continue  # no route in this address family, so a callback cannot reach an own address in it
    return frozenset(addresses)
