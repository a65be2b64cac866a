"""Signing in and out, session cookies, sign-in limits and the proofs that a change needs."""

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from bridge.web.dashboard.sessions import SESSION_SECONDS, Sessions, WrongToken
from bridge.web.rate_limits import FAILURES_A_MINUTE, FAILURES_IN_ALL, SignInLimits, TooManySignIns
from tests.dashboard.harness import APP_TOKEN, OPERATOR_TOKEN, Operator, running_bridge
from tests.dashboard.proxy import proxied
from tests.waiting import SAFETY_SECONDS

KEY = b"k" * 32
T0 = 1_795_446_245.0


def sessions(at: float = T0, key: bytes = KEY, **operators: str) -> Sessions:
    return Sessions(
        key,
        {token: name for name, token in (operators or {"ops": "tok-ops"}).items()},
        {"tok-app": "shop"},
        now=lambda: at,
    )


# --- the cookie ---------------------------------------------------------------------------------------------------


def test_every_replica_accepts_a_session_until_it_expires() -> None:
    value, begun = sessions().sign_in("tok-ops")
    read = sessions(T0 + SESSION_SECONDS - 1).read(value)
    assert read == begun
    assert read is not None
    assert read.operator == "ops"
    assert sessions(T0 + SESSION_SECONDS).read(value) is None


def test_a_session_ends_with_its_own_token_only() -> None:
    value, _ = sessions(ops="tok-ops", lea="tok-lea").sign_in("tok-ops")
    assert sessions(ops="tok-new", lea="tok-lea").read(value) is None
    assert sessions(ops="tok-ops").read(value) is not None


def test_a_cookie_contains_nothing_of_its_token_and_no_changed_cookie_is_valid() -> None:
    value, _ = sessions().sign_in("tok-ops")
    assert "tok-ops" not in value
    for place in range(0, len(value), 7):
        other = "0" if value[place] != "0" else "1"
        assert sessions().read(value[:place] + other + value[place + 1 :]) is None
    assert sessions(key=b"x" * 32).read(value) is None
    for nonsense in (None, "", "a.b.c.d", value[:-1], value + "0", f" {value}", "\ud800"):
        assert sessions().read(nonsense) is None


def test_a_cookie_with_a_changed_expiry_is_refused() -> None:
    fingerprint, expires, nonce, mac = sessions().sign_in("tok-ops")[0].split(".")
    assert sessions().read(f"{fingerprint}.{int(expires) + 1}.{nonce}.{mac}") is None


def test_two_sessions_of_one_operator_have_different_csrf_tokens() -> None:
    one, other = sessions().sign_in("tok-ops")[1], sessions().sign_in("tok-ops")[1]
    assert one.has_csrf_token(one.csrf)
    assert not one.has_csrf_token(other.csrf)
    assert not one.has_csrf_token("")
    assert not one.has_csrf_token("\udcff")


def test_an_app_token_is_refused_with_the_reason() -> None:
    with pytest.raises(WrongToken, match="an app token"):
        sessions().sign_in("tok-app")
    with pytest.raises(WrongToken, match="not valid"):
        sessions().sign_in("tok-unknown")


def test_bridges_on_one_machine_have_different_cookie_names() -> None:
    assert sessions().cookie_name != sessions(key=b"x" * 32).cookie_name
    assert sessions().cookie_name == sessions(T0 + 9).cookie_name


# --- sign-in limits -----------------------------------------------------------------------------------------------


def test_after_ten_wrong_tokens_in_a_minute_an_address_has_to_wait() -> None:
    clock = [100.0]
    limits = SignInLimits(lambda: clock[0])
    for _ in range(FAILURES_A_MINUTE):
        limits.check("10.0.0.1")
        limits.failed("10.0.0.1")
    with pytest.raises(TooManySignIns) as caught:
        limits.check("10.0.0.1")
    assert caught.value.retry_after_seconds == 60.0
    limits.check("10.0.0.2")
    clock[0] += 60.0
    limits.check("10.0.0.1")


def test_wrong_tokens_from_many_addresses_are_limited_together() -> None:
    limits = SignInLimits(lambda: 100.0)
    for number in range(FAILURES_IN_ALL):
        limits.failed(f"10.0.1.{number}")
    with pytest.raises(TooManySignIns):
        limits.check("10.0.2.1")


async def test_too_many_wrong_tokens_are_answered_with_429_and_the_right_one_always_signs_in(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        for _ in range(FAILURES_A_MINUTE):
            assert (await bridge.sign_in("wrong")).status == 401
        answer = await bridge.sign_in("wrong")
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert "Too many wrong tokens" in answer.text
        assert answer.cookies == []
        right = await bridge.sign_in(OPERATOR_TOKEN)
        assert (right.status, len(right.cookies)) == (303, 1)


# --- over HTTP ----------------------------------------------------------------------------------------------------


async def test_an_operator_token_is_exchanged_for_a_strict_http_only_cookie(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        answer = await bridge.sign_in()
        assert (answer.status, answer.headers["Location"]) == (303, "../")
        [cookie] = answer.cookies
        assert re.fullmatch(r"amux_bridge_[0-9a-f]{8}=[0-9a-f.]+; Max-Age=43200; HttpOnly; SameSite=Strict", cookie)
        assert OPERATOR_TOKEN not in cookie


async def test_behind_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, public_url="https://bridge.example/amux") as bridge:
        [cookie] = (await bridge.sign_in()).cookies
        assert cookie.endswith("; Secure")


@pytest.mark.parametrize(
    ("token", "reason"), [("wrong", "not valid"), (APP_TOKEN, "an app token"), ("", "Enter an operator token")]
)
async def test_a_wrong_token_shows_the_form_again_with_the_reason(tmp_path: Path, token: str, reason: str) -> None:
    async with running_bridge(tmp_path) as bridge:
        answer = await bridge.sign_in(token)
        assert answer.status == 401
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Cache-Control"] == "no-store"
        assert reason in answer.text
        assert 'action="../page/sign-in"' in answer.text
        assert answer.cookies == []
        assert not token or token not in answer.text


async def test_the_form_names_the_setting_when_no_operator_token_is_configured(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, operator_tokens="") as bridge:
        assert "BRIDGE_OPERATOR_TOKENS" in (await bridge.sign_in("anything")).text


async def test_a_request_that_is_not_the_form_or_too_large_is_refused(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        for options in ({"json": {"token": OPERATOR_TOKEN}}, {"data": b"\xff"}, {"data": {"token": "x" * 9000}}):
            answer = await bridge.request("POST", "/page/sign-in", **options)
            assert (answer.status, answer.cookies) == (401, [])


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_a_form_of_another_site_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    async with running_bridge(tmp_path) as bridge:
        answer = await bridge.sign_in(OPERATOR_TOKEN, **headers)
        assert (answer.status, answer.cookies) == (403, [])


async def test_our_own_form_may_have_a_null_origin(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        answer = await bridge.sign_in(OPERATOR_TOKEN, **{"Origin": "null", "Sec-Fetch-Site": "same-origin"})
        assert answer.status == 303


async def test_the_api_does_not_accept_the_cookie(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        for path in ("/watch", "/watch/wat_00000000000000000000000000", f"/deliveries/evt_{'a' * 32}"):
            assert (await operator.get(path)).status == 401
        assert (await operator.post("/deliveries/retry", {"state": "dead"})).status == 401


async def test_the_dashboard_does_not_accept_a_bearer_token(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        answer = await bridge.request("GET", "/page/watches", headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"})
        assert answer.status == 401


PROTECTED = ("/page/overview", "/page/watches", "/page/watches/wat_00000000000000000000000000", "/page/live")


async def test_no_data_is_shown_without_a_session_or_to_another_site(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        assert (await bridge.request("GET", "/page/session")).json == {"operator": None, "possible": True}
        operator = await bridge.operator()
        for path in PROTECTED:
            assert (await bridge.request("GET", path)).status == 401, path
            assert (await operator.get(path, **{"Sec-Fetch-Site": "cross-site"})).status == 403, path


# --- changes ------------------------------------------------------------------------------------------------------

MISSING_PROOFS: list[dict[str, Any]] = [
    {"Origin": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"X-CSRF-Token": ""},
    {"X-CSRF-Token": "0" * 64},
]


async def test_a_change_without_every_proof_is_refused(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        watch = await bridge.register(status=200, task_id="sandbox_0_900000_never_1")
        operator, other = await bridge.operator(), await bridge.operator()
        for missing in [*MISSING_PROOFS, {"X-CSRF-Token": other.csrf}]:
            answer = await operator.post(f"/page/watches/{watch['id']}/cancel", **missing)
            assert answer.status == 403, missing
            assert answer.json["code"] == "forbidden"
        assert (await operator.post(f"/page/watches/{watch['id']}/cancel", Cookie="")).status == 401
        assert (await operator.get(f"/page/watches/{watch['id']}")).json["state"] == "active"
        assert (await operator.post(f"/page/watches/{watch['id']}/cancel")).json["state"] == "cancelled"


async def test_sec_fetch_site_alone_is_enough_and_the_public_urls_origin_is_accepted(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, public_url="https://bridge.example") as bridge:
        operator = await bridge.operator()
        path, body = "/page/deliveries/retry", {"state": "dead", "dry_run": True}
        assert (await operator.post(path, body, **{"Origin": "", "Sec-Fetch-Site": "same-origin"})).status == 200
        assert (await operator.post(path, body, Origin="https://bridge.example")).status == 200
        assert (await operator.post(path, body, Origin="http://bridge.example")).status == 403


async def test_behind_a_proxy_that_changes_the_host_the_browsers_word_is_enough(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        # By default nginx sends the Host of the upstream, and passes on the Origin with the public name.
        proxied = {"Origin": "https://page.example", "Sec-Fetch-Site": "same-origin"}
        assert (await bridge.sign_in(**proxied)).status == 303
        operator = await bridge.operator()
        path, body = "/page/deliveries/retry", {"state": "dead", "dry_run": True}
        assert (await operator.post(path, body, **proxied)).status == 200


async def test_a_foreign_origin_without_the_browsers_word_is_refused_with_the_setting(tmp_path: Path) -> None:
    """Browsers send Sec-Fetch-Site only to https URLs and to localhost."""
    async with running_bridge(tmp_path) as bridge:
        refused = await bridge.sign_in(Origin="http://page.example")
        assert refused.status == 403
        assert "set BRIDGE_PUBLIC_URL to the URL that the browser shows" in refused.text
        operator = await bridge.operator()
        body = {"state": "dead", "dry_run": True}
        answer = await operator.post("/page/deliveries/retry", body, Origin="http://page.example")
        assert answer.status == 403
        assert "BRIDGE_PUBLIC_URL" in answer.json["detail"]


@pytest.mark.parametrize(
    ("prefix", "link"),
    [
        ("/tools/bridge", "/tools/bridge/page/static/app.js"),
        ("/bridge/", "/bridge/page/static/app.js"),
        ("//evil.example", "page/static/app.js"),
        ("javascript:x", "page/static/app.js"),
        ('/"><script>', "page/static/app.js"),
        ("", "page/static/app.js"),
    ],
)
async def test_a_prefix_that_a_proxy_has_removed_is_in_the_pages_links(tmp_path: Path, prefix: str, link: str) -> None:
    async with running_bridge(tmp_path) as bridge:
        page = await bridge.request("GET", "/", headers={"X-Forwarded-Prefix": prefix})
        assert f' src="{link}"' in page.text


async def test_the_page_works_below_a_path_and_behind_a_foreign_host(tmp_path: Path) -> None:
    """Follows the page's links and forms as a browser does."""
    async with (
        running_bridge(tmp_path) as bridge,
        proxied(bridge.url) as base,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser,
    ):
        own = {"Origin": str(base.origin()), "Sec-Fetch-Site": "same-origin"}
        async with browser.get(base) as page:
            [form] = re.findall(r'<form method="post" action="([^"]+)"', await page.text())
        async with browser.post(base.join(URL(form)), data={"token": OPERATOR_TOKEN}, headers=own) as signed_in:
            assert (signed_in.status, signed_in.url) == (200, base)
            [script] = re.findall(r'src="([^"]+app\.js)"', await signed_in.text())
        async with browser.get(base.join(URL(script))) as loaded:
            assert loaded.status == 200
            root = loaded.url.join(URL("../"))
        async with browser.get(root.join(URL("session"))) as session:
            csrf = (await session.json())["csrf"]
        headers = {**own, "X-CSRF-Token": csrf}
        async with browser.post(
            root.join(URL("deliveries/retry")), json={"state": "dead", "dry_run": True}, headers=headers
        ) as change:
            assert (change.status, await change.json()) == (200, {"count": 0})


def test_an_ended_session_is_refused_and_is_forgotten_after_its_expiry() -> None:
    clock = [T0]
    replica = Sessions(KEY, {"tok-ops": "ops"}, {}, now=lambda: clock[0])
    (value, begun), (other, _) = replica.sign_in("tok-ops"), replica.sign_in("tok-ops")
    replica.end(begun)
    assert replica.read(value) is None
    assert replica.read(other) is not None
    clock[0] += SESSION_SECONDS
    replica.end(replica.sign_in("tok-ops")[1])
    assert len(replica._ended) == 1


async def test_signing_out_ends_the_session_and_deletes_the_cookie(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        answer = await operator.post("/page/sign-out")
        assert answer.status == 204
        assert answer.cookies[0].startswith(f"{operator.cookie.partition('=')[0]}=; Max-Age=0;")
        for path in PROTECTED:
            assert (await operator.get(path)).status == 401, path
        assert (await operator.post("/page/deliveries/retry", {"state": "dead", "dry_run": True})).status == 401
        assert (await bridge.operator()).cookie != operator.cookie


async def test_a_live_stream_ends_with_its_session(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        async with bridge.session.get(f"{bridge.url}/page/live", headers={"Cookie": operator.cookie}) as answer:
            await answer.content.readline()
            await operator.post("/page/sign-out")
            async with asyncio.timeout(SAFETY_SECONDS):
                await answer.read()


# --- with no token at all -----------------------------------------------------------------------------------------


async def test_with_no_token_configured_only_local_requests_have_a_session(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tokens="", operator_tokens="") as bridge:
        session = await bridge.request("GET", "/page/session")
        assert session.json["open"]
        local = Operator(bridge, "", session.json["csrf"])
        assert (await local.get("/page/watches")).status == 200
        assert (await local.get("/page/session", Host="evil.example")).status == 403
        assert (await local.get("/page/watches", **{"Sec-Fetch-Site": "cross-site"})).status == 403
        path, body = "/page/deliveries/retry", {"state": "dead", "dry_run": True}
        assert (await local.post(path, body)).status == 200
        for missing in MISSING_PROOFS:
            assert (await local.post(path, body, **missing)).status == 403, missing
