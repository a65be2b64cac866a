"""The guard: looks up the names of callback targets, checks each address, and checks it again at each connection."""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import TypeAlias

from aiohappyeyeballs import AddrInfoType

from bridge.aio.threads import Runner
from bridge.core.errors import BridgeError, TargetRefused
from bridge.core.targets import (
    Address,
    Target,
    TargetPolicy,
    check_address,
    parse_target,
    refusal_of,
    unmapped_address,
)

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Returns the addresses of a name, best first. Raises OSError if it has none now."""

CACHE_SECONDS = 5.0  # a batch of 500 registrations with one host looks it up once; attempts never use the cache
CACHE_NAMES = 1024
LOOK_UPS_AT_ONCE = 64
# With the store's 4 s, an app has its answer within 5 s. A name that takes longer counts as not resolved.
REGISTRATION_LOOK_UP_SECONDS = 1.0


def name_of(target: Target) -> str | None:
    """Returns the host name of a target; None if its host is a literal address."""
    return target.host if target.address is None else None


class NameUnresolved(BridgeError):
    """The host name of a callback has no address now."""

    code = "name_unresolved"


class RefusedAddressError(OSError):
    """The policy refuses the address of a connection. An OSError, because a socket factory may raise nothing else."""


class SystemResolver:
    """The system's resolver (`getaddrinfo`) on a runner of its own, which it closes at the end.

    Each name and port have one look-up at a time, and all callers share its result. So a name whose servers do not
    answer occupies one thread, not all. A look-up continues after its caller's time limit, until the system ends it.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Returns a name's addresses, each once, in the system's order (RFC 6724). Raises OSError if there is none."""
        key = (host, port)
        look_up = self._running.get(key)
        if look_up is None:
            look_up = self._runner.submit(partial(_getaddrinfo, host, port))
            self._running[key] = look_up
            look_up.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(look_up)

    def _forget(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # asyncio would log an exception that no caller has retrieved

    async def close(self) -> None:
        """Starts no more look-ups. Does not wait for the running ones."""
        await self._runner.close(0.0)


def _getaddrinfo(host: str, port: int) -> list[str]:
    # Bytes: the name is ASCII already, and a str would go through Python's slow IDNA 2003 codec.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(slots=True)
class _LookUp:
    """The addresses of a name. `expires_at` is in seconds of the guard's clock.

    `allowed` has each pair (port, https) for which all addresses are allowed.
    """

    expires_at: float
    addresses: tuple[Address, ...]
    allowed: set[tuple[int, bool]] = field(default_factory=set)


class Guard:
    """Checks callback targets by one policy, with one resolver. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        policy: TargetPolicy,
        resolve: Resolver,
        *,
        look_up_seconds: float = REGISTRATION_LOOK_UP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._resolve = resolve
        self._look_up_seconds = look_up_seconds
        self._clock = clock
        self._cache: OrderedDict[str, _LookUp] = OrderedDict()

    def parse(self, url: str) -> Target:
        """Returns the target of a URL, without a look-up.

        Raises InvalidRequest for a malformed URL, and TargetRefused if a rule refuses the URL or its literal address.
        """
        return parse_target(url, self._policy)

    async def addresses(self, target: Target) -> tuple[Address, ...]:
        """Looks up a target, without the cache, checks all its addresses, and returns them, best first.

        Raises NameUnresolved if the name has no address, and TargetRefused if any of its addresses is refused. The
        look-up has no time limit of its own.
        """
        if target.address is not None:
            check_address(target.address, self._policy, target.port, https=target.https)
            return (unmapped_address(target.address),)
        return self._check_addresses(target, await self._look_up(target))

    def check_cached(self, url: str) -> Target | None:
        """Does the same as `check` with `remember`, or returns None if that needs a look-up.

        Literal addresses and names in the cache need no look-up. Without a look-up a check is ten times as fast, and
        apps that register thousands of watches use few hosts.
        """
        target = self.parse(url)
        if target.address is None:
            entry = self._cache.get(target.host)
            if entry is None or (target.port, target.https) not in entry.allowed or entry.expires_at <= self._clock():
                return None
        return target

    async def check(self, url: str, *, remember: bool = False) -> Target:
        """Checks a URL at registration and returns its target. Raises InvalidRequest or TargetRefused.

        A name that does not resolve within 1 s (the default) is accepted, because each attempt checks the target again.
        With `remember`, the look-up is cached for 5 s, for batches; attempts never use the cache.
        """
        target = self.parse(url)
        if target.address is None:
            try:
                async with asyncio.timeout(self._look_up_seconds):
                    entry = await (self._look_up_cached(target) if remember else self._look_up_fresh(target))
            except (NameUnresolved, TimeoutError):
                return target
            self._check_addresses(target, entry.addresses)
            entry.allowed.add((target.port, target.https))
        return target

    def open_socket(self, addr_info: AddrInfoType, target: Target | None = None) -> socket.socket:
        """Returns the socket for one connection, for aiohttp's `socket_factory`. Raises RefusedAddressError."""
        family, kind, protocol, _, peer = addr_info
        self.check_peer(peer[0], int(peer[1]), target)
        return socket.socket(family, kind, protocol)

    def check_peer(self, address: str, port: int, target: Target | None = None) -> None:
        """Checks the address of one connection. `target` is the target that is connected to, if it is known.

        Raises RefusedAddressError. This is the second check: it sees the address that is really connected to.
        """
        name = None if target is None else name_of(target)
        # https=True: the scheme was checked with the target.
        if refusal := refusal_of(ip_address(address), self._policy, port, https=True, name=name):
            raise RefusedAddressError(f"{address} {refusal.rule}")

    def _check_addresses(self, target: Target, found: tuple[Address, ...]) -> tuple[Address, ...]:
        for address in found:
            if refusal := refusal_of(address, self._policy, target.port, https=target.https, name=name_of(target)):
                # The message does not contain the address: apps must not learn the addresses of internal names.
                raise TargetRefused(f"{target.host} resolves to an address that {refusal.rule}", refusal.settings)
        return tuple(map(unmapped_address, found))

    async def _look_up(self, target: Target) -> tuple[Address, ...]:
        try:
            found = await self._resolve(target.host, target.port)
        except TimeoutError:
            raise  # a subclass of OSError, but it is the time limit of the caller or resolver, not a missing name
        except OSError as error:
            raise NameUnresolved(f"{target.host} does not resolve: {error.strerror or 'no answer'}") from error
        if not found:
            raise NameUnresolved(f"{target.host} does not resolve: it has no address")
        return tuple(map(ip_address, found))

    async def _look_up_fresh(self, target: Target) -> _LookUp:
        found = await self._look_up(target)
        return _LookUp(self._clock() + CACHE_SECONDS, found)

    async def _look_up_cached(self, target: Target) -> _LookUp:
        cached = self._cache.get(target.host)
        if cached is not None and self._clock() < cached.expires_at:
            return cached
        entry = self._cache[target.host] = await self._look_up_fresh(target)
        self._cache.move_to_end(target.host)
        if len(self._cache) > CACHE_NAMES:
            self._cache.popitem(last=False)
        return entry
