"""Where the service listens: sockets bound before anything else, so that the port is known and a taken one is told."""

import socket
from ipaddress import ip_address

from bridge.core.errors import BadSetting
from bridge.core.targets import Address, bracketed

BACKLOG = 1024
# Nothing is sent to these (documentation addresses): connecting a datagram socket only asks the routing table.
_SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of `host`, all on one port (0: any free one). Raises BadSetting when it can't be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BadSetting(f"BRIDGE_HOST: {host!r} is not an address of this machine: {error.strerror}") from None
    bound: list[socket.socket] = []
    for family, _, _, _, address in dict.fromkeys(found):
        chosen = bound[0].getsockname()[1] if bound else port
        try:
            bound.append(_bound(family, (address[0], chosen, *address[2:])))
        except OSError as error:
            if bound and family == socket.AF_INET6:
                continue  # localhost has an IPv6 name where the kernel has no IPv6
            for opened in bound:
                opened.close()
            raise BadSetting(f"BRIDGE_PORT: cannot listen on {bracketed(host)}:{chosen}: {error.strerror}") from None
    return bound


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def base_url(host: str, port: int) -> str:
    """Where a program on this machine reaches the service."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  replaced, not bound
    return f"http://{bracketed(reached)}:{port}"


def own_addresses() -> frozenset[Address]:
    """This machine's own addresses towards the outside, as far as its routes tell; no callback may use them."""
    found = set()
    for family, somewhere in _SOMEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))
                found.add(ip_address(probe.getsockname()[0].partition("%")[0]))
        except OSError:
            continue  # no route in this family, so no address that anyone could be sent to
    return frozenset(found)
