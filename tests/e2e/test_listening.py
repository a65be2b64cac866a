"""Listening: lists of addresses, both IP families, the second listener, and callbacks to the bridge's own port."""

import socket
from pathlib import Path

import aiohttp
import pytest

from bridge.core.errors import BadSetting
from bridge.service import sockets
from bridge.service.runtime import Runtime
from bridge.settings.settings import load
from tests.e2e.bridges import APP, FAST_SETTINGS, runtime


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")


def families(bound: list[socket.socket]) -> set[tuple[str, int]]:
    found = {(one.getsockname()[0], one.getsockname()[1]) for one in bound}
    for one in bound:
        one.close()
    return found


@needs_ipv6
def test_any_ipv6_address_listens_on_ipv4_as_well() -> None:
    bound = sockets.bind(["::"], 0)
    port = bound[0].getsockname()[1]
    assert families(bound) == {("0.0.0.0", port), ("::", port)}  # noqa: S104


def test_a_list_has_one_port_and_each_address_once() -> None:
    bound = sockets.bind(["127.0.0.1", "127.0.0.2", "127.0.0.1"], 0)
    port = bound[0].getsockname()[1]
    assert families(bound) == {("127.0.0.1", port), ("127.0.0.2", port)}


def test_an_address_for_all_of_its_family_replaces_the_others() -> None:
    bound = sockets.bind(["127.0.0.1", "0.0.0.0"], 0)  # noqa: S104
    port = bound[0].getsockname()[1]
    assert families(bound) == {("0.0.0.0", port)}  # noqa: S104


def test_without_ipv6_any_ipv6_address_means_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockets._bind_one

    def bind_one(family: int, address: tuple[object, ...]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, address)

    monkeypatch.setattr(sockets, "_bind_one", bind_one)
    bound = sockets.bind(["::"], 0)
    assert [one.family for one in bound] == [socket.AF_INET]
    families(bound)


def test_a_port_in_use_is_named_by_its_own_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSetting, match=rf"^BRIDGE_METRICS_PORT: cannot listen on 127\.0\.0\.1:{port}: "):
            sockets.bind(["127.0.0.1"], port, "BRIDGE_METRICS_")
    with pytest.raises(BadSetting, match=r"^BRIDGE_HOST: 'no such name' is not an address of this machine"):
        sockets.bind(["no such name"], 0)
    # An address of another machine, and one that no socket can have.
    for host in ("192.0.2.1", "::ffff:127.0.0.1"):
        with pytest.raises(BadSetting, match=r"^BRIDGE_HOST: cannot listen on "):
            sockets.bind([host], 0)


@needs_ipv6
async def test_a_bridge_on_any_ipv6_address_answers_both_families(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    async with runtime(url, "http://127.0.0.1:9", host="::") as bridge:
        port = bridge.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            async with bridge.session.get(f"http://{host}:{port}/healthz") as answer:
                assert answer.status == 200


# --- the second listener ------------------------------------------------------------------------------------------


async def test_the_second_listener_has_metrics_and_probes_and_nothing_else(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    texts = {
        **FAST_SETTINGS,
        "database_url": url,
        "tokens": "",
        "operator_tokens": "",
        "metrics_host": "127.0.0.1",
        "metrics_port": "0",
    }
    started = await Runtime.start(load(None, **texts))
    try:
        probes = started.probes_url
        foreign = {"Host": "10.0.0.7:9090", "Origin": "https://elsewhere.example"}
        async with aiohttp.ClientSession() as session:
            for path in ("/metrics", "/healthz", "/readyz"):
                for method in ("GET", "HEAD"):
                    async with session.request(method, probes + path, headers=foreign) as answer:
                        assert answer.status == 200, path
            for path in ("/", "/watch", "/docs", "/openapi.json", "/v1/videos", "/page/session", "/watch/x/content"):
                async with session.get(probes + path) as answer:
                    assert (answer.status, (await answer.json())["code"]) == (404, "not_found"), path
            async with session.post(probes + "/metrics") as answer:
                assert answer.status == 405
            # The second listener's port is the bridge's own. No callback goes there, although loopback is allowed.
            body = {"callback_url": f"{probes}/metrics"}
            async with session.post(f"{started.url}/ping", json=body, headers=APP) as answer:
                problem = await answer.json()
                assert (answer.status, problem["code"]) == (422, "callback_refused")
                assert "is the bridge's own" in problem["detail"]
    finally:
        await started.stop()
