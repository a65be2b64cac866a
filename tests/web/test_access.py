"""Authentication: with tokens, and on a bridge without tokens."""

from pathlib import Path

import pytest
from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.web.api.routes import ROUTES
from bridge.web.auth import Access, Caller
from bridge.web.errors import Forbidden, Unauthorized
from tests.web.harness import BODY, Bridge, running_bridge


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


async def test_every_route_except_the_open_ones_requires_a_token(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        for method, path in [(route.method, route.path) for route in ROUTES]:
            for token in ("", "Bearer", "Bearer nonsense", "Bearer app-token x", "Token app-token", "app-token"):
                answer = await bridge.ask(method, path.format(id="x", receiver="x:1"), headers={"Authorization": token})
                answer.problem(401, "unauthorized")
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await bridge.get(path, headers={"Authorization": ""})).status == 200


def test_a_token_names_its_app_or_operator() -> None:
    access = Access({"t1": "shop", "t2": "shop"}, {"o1": "shop"})
    assert access.caller(headers(("authorization", "BEARER  t1 "))) == Caller("shop", "shop", "shop")
    assert access.caller(headers(("Authorization", "Bearer t2"))).visible_app == "shop"
    operator = access.caller(headers(("Authorization", "Bearer o1")))
    assert (operator.app, operator.visible_app) == (None, None)
    assert operator.key != access.caller(headers(("Authorization", "Bearer t1"))).key
    with pytest.raises(Forbidden):
        operator.require_app()


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer é", "Bearer \udcff", "\udcff t1", "Bearer T1", "Bearer t1,t2"])
def test_an_invalid_authorization_header_is_refused(value: str) -> None:
    access = Access({"t1": "shop"}, {})
    for pairs in ([("Authorization", value)], [], [("Authorization", "Bearer t1")] * 2):
        with pytest.raises(Unauthorized):
            access.caller(headers(*pairs))


def test_operator_tokens_alone_also_require_a_token() -> None:
    with pytest.raises(Unauthorized):
        Access({}, {"o1": "ops"}).caller(headers(("Host", "127.0.0.1")))


# --- no token configured ------------------------------------------------------------------------------------------

PUBLIC = "https://Bridge.example:8443"


@pytest.mark.parametrize(
    "pairs",
    [
        [("Host", "127.0.0.1:8080")],
        [("Host", "127.8.8.8")],
        [("Host", "LocalHost:1")],
        [("Host", "[::1]:8080")],
        [("Host", "bridge.example")],
        [("Host", "bridge.EXAMPLE:8443"), ("Origin", "https://bridge.example:8443")],
        [("Host", "localhost:8080"), ("Origin", "http://localhost:8080"), ("Sec-Fetch-Site", "same-origin")],
        [("Host", "localhost:8080"), ("Origin", "https://bridge.example:8443")],
        [("Host", "localhost:8080"), ("Sec-Fetch-Site", "none")],
    ],
)
def test_a_local_caller_without_tokens_is_the_default_app(pairs: list[tuple[str, str]]) -> None:
    assert Access({}, {}, PUBLIC).caller(headers(*pairs)) == Caller("default", "default", None)


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [("Host", "")],
        [("Host", "evil.example:8080")],
        [("Host", "localhost.evil.example")],
        [("Host", "127.0.0.1.evil.example")],
        [("Host", "10.0.0.1")],
        [("Host", "2130706433")],
        [("Host", "localhost:8080@evil.example")],
        [("Host", "\udcff")],
        [("Host", "é")],
        [("Host", "localhost"), ("Host", "localhost")],
        [("Host", "localhost:8080"), ("Origin", "http://localhost:3000")],
        [("Host", "localhost:8080"), ("Origin", "null")],
        [("Host", "localhost:8080"), ("Origin", "\udcff")],
        [("Host", "localhost:8080"), ("Origin", "http://evil.example")],
        [("Host", "localhost"), ("Origin", "http://localhost"), ("Origin", "http://evil.example")],
        [("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")],
        [("Host", "localhost"), ("Sec-Fetch-Site", "Same-Site")],
        [("Host", "localhost"), ("Sec-Fetch-Site", "")],
    ],
)
def test_a_request_from_another_site_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(Forbidden):
        Access({}, {}, PUBLIC).caller(headers(*pairs))


async def test_a_bridge_without_tokens_serves_local_callers_only(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tokens={}, operators={}) as bridge:
        watch = await bridge.watch()
        assert watch["app"] == "default"
        assert (await bridge.get("/watch?app=default")).json["items"] == [watch]
        assert (await bridge.ask("DELETE", f"/watch/{watch['id']}")).status == 200
        await _cross_site_is_refused(bridge)


async def _cross_site_is_refused(bridge: Bridge) -> None:
    for extra in ({hdrs.HOST: "evil.example"}, {hdrs.ORIGIN: "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        (await bridge.post("/watch", BODY, headers=extra)).problem(403, "forbidden")
        (await bridge.get("/watch", headers=extra)).problem(403, "forbidden")
        assert (await bridge.get("/healthz", headers=extra)).status == 200
