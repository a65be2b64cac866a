"""The guard: look-ups, the judgement of every address, and the check of each socket."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import aiohttp
import pytest

from bridge.aio.threads import Threads
from bridge.callback.guard import Guard, NameUnresolved, RefusedAddressError, SystemResolver
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.targets import TargetPolicy

LOOPBACK_OPEN = TargetPolicy(allow_networks=(ip_network("127.0.0.0/8"),))


class Names:
    """A resolver with a table: each look-up gets the next answer of its name, and the last answer is repeated."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): list(lists) for name, lists in answers.items()}
        self.looked_up: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def never_resolves(host: str, port: int) -> list[str]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def system_resolver() -> AsyncIterator[SystemResolver]:
    resolver = SystemResolver(Threads(2, "dns"))
    yield resolver
    await resolver.close()


async def test_a_literal_needs_no_look_up() -> None:
    names = Names()
    guard = Guard(TargetPolicy(), names)
    assert await guard.addresses(guard.parse("https://8.8.8.8/")) == (ip_address("8.8.8.8"),)
    assert await guard.addresses(guard.parse("https://[::ffff:8.8.8.8]/")) == (ip_address("8.8.8.8"),)
    assert names.looked_up == []


async def test_all_addresses_of_a_name_are_returned_in_order() -> None:
    guard = Guard(TargetPolicy(), Names(a_example=[["2606:4700::1", "8.8.8.8", "::ffff:8.8.4.4"]]))
    found = await guard.addresses(guard.parse("https://A.example./"))
    assert [str(address) for address in found] == ["2606:4700::1", "8.8.8.8", "8.8.4.4"]


@pytest.mark.parametrize("bad", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fe80::1%1"])
async def test_one_refused_address_refuses_the_name_and_is_not_in_the_message(bad: str) -> None:
    guard = Guard(TargetPolicy(), Names(a_example=[["8.8.8.8", bad]]))
    with pytest.raises(TargetRefused, match=r"^a\.example resolves to an address that ") as refused:
        await guard.addresses(guard.parse("https://a.example/"))
    assert not str(refused.value).startswith(bad)


async def test_https_only_is_judged_by_the_addresses_of_a_name() -> None:
    policy = TargetPolicy(allow_networks=LOOPBACK_OPEN.allow_networks, https_only=True)
    guard = Guard(policy, Names(sidecar=[["127.0.0.1"]], a_example=[["8.8.8.8"]]))
    assert await guard.check("http://sidecar/")
    assert await guard.check("https://a.example/")
    with pytest.raises(TargetRefused, match="https only"):
        await guard.check("http://a.example/")


async def test_a_name_without_an_address_is_unresolved() -> None:
    guard = Guard(TargetPolicy(), Names(empty_example=[[]]))
    for url in ("https://nowhere.example/", "https://empty.example/"):
        with pytest.raises(NameUnresolved, match="does not resolve"):
            await guard.addresses(guard.parse(url))


async def test_registration_refuses_bad_targets() -> None:
    guard = Guard(TargetPolicy(), Names(bad_example=[["10.0.0.1"]]))
    with pytest.raises(InvalidRequest):
        await guard.check("nonsense")
    for url in ("http://127.0.0.1/", "http://bad.example/", "ftp://a.example/"):
        with pytest.raises(TargetRefused):
            await guard.check(url)


async def test_registration_accepts_a_name_that_does_not_resolve_at_present() -> None:
    assert (await Guard(TargetPolicy(), Names()).check("https://nowhere.example/")).host == "nowhere.example"
    assert await Guard(TargetPolicy(), never_resolves, look_up_seconds=0.02).check("https://slow.example/")


async def test_registration_caches_look_ups_for_five_seconds_and_attempts_never_do() -> None:
    now = 100.0
    names = Names(a_example=[["8.8.8.8"]])
    guard = Guard(TargetPolicy(), names, clock=lambda: now)
    for _ in range(3):
        await guard.check("https://a.example/1", remember=True)
    await guard.check("http://a.example:81/2", remember=True)
    assert len(names.looked_up) == 1
    await guard.addresses(guard.parse("https://a.example/"))
    await guard.check("https://a.example/")
    assert len(names.looked_up) == 3
    now += 5.0
    await guard.check("https://a.example/", remember=True)
    assert len(names.looked_up) == 4


async def test_cached_addresses_are_judged_for_each_target() -> None:
    policy = TargetPolicy(allow_networks=LOOPBACK_OPEN.allow_networks, own_ports=frozenset({8080}))
    guard = Guard(policy, Names(sidecar=[["127.0.0.1"]]))
    assert await guard.check("http://sidecar:9000/", remember=True)
    with pytest.raises(TargetRefused, match="own"):
        await guard.check("http://sidecar:8080/", remember=True)


async def test_the_cache_has_a_maximum_size() -> None:
    names = Names(**{f"n{number}": [["8.8.8.8"]] for number in range(1025)})
    guard = Guard(TargetPolicy(), names)
    for host in [*names.answers, "n1024", "n0"]:
        await guard.check(f"http://{host}/", remember=True)
    assert names.looked_up[1025:] == ["n0"]


# --- sockets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_refused_peer_gets_no_socket(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    peer = (host, 80, 0, 0) if ":" in host else (host, 80)
    with pytest.raises(RefusedAddressError):
        Guard(TargetPolicy(), Names()).open_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", peer))


async def test_aiohttp_asks_the_guard_for_each_socket() -> None:
    """aiohttp opens no connection to a refused address, neither for a name nor for a literal address."""
    connected: list[str] = []

    async def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append("yes")
        writer.close()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connector = aiohttp.TCPConnector(socket_factory=Guard(TargetPolicy(), Names()).open_socket)
    async with server, aiohttp.ClientSession(connector=connector) as session:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(aiohttp.ClientConnectorError) as failed:
                await session.get(f"http://{host}:{port}/")
            assert isinstance(failed.value.os_error, OSError)
    assert connected == []


# --- the system's resolver ----------------------------------------------------------------------------------------


async def test_the_system_resolver_resolves_localhost(system_resolver: SystemResolver) -> None:
    assert set(await system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}


async def test_a_name_that_does_not_answer_occupies_one_thread(
    system_resolver: SystemResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers share the look-up of one name, other names are not delayed, and each caller has its own time limit."""
    proceed, looked_up = threading.Event(), list[bytes]()

    def getaddrinfo(host: bytes, port: int, **_: object) -> list[tuple[object, ...]]:
        looked_up.append(host)
        if host == b"slow.example":
            proceed.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", port))] * 2

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)  # the system's own function cannot be delayed
    timed_out = [asyncio.wait_for(system_resolver("slow.example", 80), 0.02) for _ in range(8)]
    assert all(isinstance(end, TimeoutError) for end in await asyncio.gather(*timed_out, return_exceptions=True))
    waiting = asyncio.create_task(system_resolver("slow.example", 80))
    assert await system_resolver("fast.example", 80) == ["8.8.8.8"]
    proceed.set()
    assert await waiting == ["8.8.8.8"]
    assert sorted(looked_up) == [b"fast.example", b"slow.example"]
    await system_resolver("slow.example", 80)
    assert len(looked_up) == 3


async def test_a_failure_of_the_system_resolver_is_an_unresolved_name(
    system_resolver: SystemResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    guard = Guard(TargetPolicy(), system_resolver)
    with pytest.raises(NameUnresolved, match="Temporary failure"):
        await guard.addresses(guard.parse("https://a.example/"))
