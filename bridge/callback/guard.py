"""The guard: looks names up, judges every address, and judges each socket once more before it connects."""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeAlias

from aiohappyeyeballs import AddrInfoType

from bridge.core.errors import BridgeError, TargetRefused
from bridge.core.targets import Address, Target, TargetPolicy, judge_address, parse_target, plain_address, refusal

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Gives a name's addresses, best first; raises OSError when there are none just now."""

REMEMBER_SECONDS = 5.0  # a batch of 500 registrations with one host asks once; attempts never use this
REMEMBER_NAMES = 1024
# With the store's 4 s an app has its answer within 5; a name that takes longer does not resolve just now.
REGISTRATION_LOOK_UP_SECONDS = 1.0


class NameUnresolved(BridgeError):
    """A callback's name that has no address just now."""

    code = "name_unresolved"


class RefusedAddressError(OSError):
    """A connection to an address that the policy refuses; an OSError, as that is what a socket factory may raise."""


class SystemResolver:
    """The system's resolver (`getaddrinfo`), in threads of its own: neither asyncio's pool nor uvloop's four.

    One look-up at a time for each name, shared by all who ask meanwhile: a name whose servers hang holds one thread,
    not all. A look-up outlives its caller's patience, and the thread is free again when the system gives up.
    """

    def __init__(self, threads: int = 64) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="bridge-dns")
        self._running: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """Look a name up: its addresses, each once, in the system's order (RFC 6724); OSError when there is none."""
        key = (host, port)
        look_up = self._running.get(key)
        if look_up is None:
            look_up = asyncio.get_running_loop().run_in_executor(self._pool, _getaddrinfo, host, port)
            self._running[key] = look_up
            look_up.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(look_up)

    def _forget(self, key: tuple[str, int], done: asyncio.Future[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # whoever still waits gets it; with nobody left it is no news

    def close(self) -> None:
        """Start no more look-ups; those that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _getaddrinfo(host: str, port: int) -> list[str]:
    # Bytes: the name is ASCII already, and str would go through Python's slow IDNA 2003 codec.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(slots=True)
class _LookUp:
    """A name's addresses, until when they count, and for which ports and schemes (https or not) all were let pass."""

    until: float
    addresses: tuple[Address, ...]
    passed: set[tuple[int, bool]] = field(default_factory=set)


class Guard:
    """Judges targets by one policy, with one resolver. `clock` is monotonic, in seconds."""

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
        self._remembered: OrderedDict[str, _LookUp] = OrderedDict()

    def parse(self, url: str) -> Target:
        """Take a URL apart; raises InvalidRequest (malformed) or TargetRefused (a rule or a literal address)."""
        return parse_target(url, self._policy)

    async def addresses(self, target: Target) -> tuple[Address, ...]:
        """Look a target up anew and judge every address of it; the ones to connect to, best first.

        Raises NameUnresolved, or TargetRefused: one refused address refuses the name. Takes as long as the resolver.
        """
        if target.address is not None:
            judge_address(target.address, self._policy, target.port, https=target.https)
            return (plain_address(target.address),)
        return self._judged(target, await self._look_up(target))

    def known(self, url: str) -> Target | None:
        """As `check` with `remember`, where that needs no look-up: a literal address, or a name judged a moment ago.

        Ten times as quick: what registers by the thousand names few hosts.
        """
        target = self.parse(url)
        if target.address is None:
            look_up = self._remembered.get(target.host)
            if look_up is None or (target.port, target.https) not in look_up.passed or look_up.until <= self._clock():
                return None
        return target

    async def check(self, url: str, *, remember: bool = False) -> Target:
        """Judge a URL at its registration: as `addresses`, but a name that does not resolve just now may pass.

        With `remember`, a look-up is good for 5 s, for batches; what is sent later is judged anew all the same.
        """
        target = self.parse(url)
        if target.address is None:
            try:
                async with asyncio.timeout(self._look_up_seconds):
                    look_up = await (self._look_up_remembered(target) if remember else self._look_up_anew(target))
            except (NameUnresolved, TimeoutError):
                return target
            self._judged(target, look_up.addresses)
            look_up.passed.add((target.port, target.https))
        return target

    def open_socket(self, addr_info: AddrInfoType) -> socket.socket:
        """Make the socket for one connection, for aiohttp's `socket_factory`; RefusedAddressError for a refused peer.

        The second line of defence: whatever came before, no connection begins to an address that the policy refuses.
        """
        family, kind, protocol, _, peer = addr_info
        host, port = peer[0], peer[1]
        # The scheme was judged with the target and is not known here.
        if rule := refusal(ip_address(host), self._policy, int(port), https=True):
            raise RefusedAddressError(f"{host} {rule}")
        return socket.socket(family, kind, protocol)

    def _judged(self, target: Target, found: tuple[Address, ...]) -> tuple[Address, ...]:
        for address in found:
            if rule := refusal(address, self._policy, target.port, https=target.https):
                # Without the address: what internal names stand for is not the app's to learn.
                raise TargetRefused(f"{target.host} resolves to an address that {rule}")
        return tuple(map(plain_address, found))

    async def _look_up(self, target: Target) -> tuple[Address, ...]:
        try:
            found = await self._resolve(target.host, target.port)
        except TimeoutError:
            raise  # the caller's clock, or the resolver's own: an OSError by class, yet not "no such name"
        except OSError as error:
            raise NameUnresolved(f"{target.host} does not resolve: {error.strerror or 'no answer'}") from error
        if not found:
            raise NameUnresolved(f"{target.host} does not resolve: it has no address")
        return tuple(map(ip_address, found))

    async def _look_up_anew(self, target: Target) -> _LookUp:
        found = await self._look_up(target)
        return _LookUp(self._clock() + REMEMBER_SECONDS, found)

    async def _look_up_remembered(self, target: Target) -> _LookUp:
        known = self._remembered.get(target.host)
        if known is not None and self._clock() < known.until:
            return known
        found = self._remembered[target.host] = await self._look_up_anew(target)
        self._remembered.move_to_end(target.host)
        if len(self._remembered) > REMEMBER_NAMES:
            self._remembered.popitem(last=False)
        return found
