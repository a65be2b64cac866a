import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from bridge.web.dashboard.sessions import SESSION_SECONDS, Sessions, WrongToken
from bridge.web.rate_limits import FAILURES_A_MINUTE, FAILURES_IN_ALL, SignInLimits, TooManySignIns
from tests.dashboard.harness import APP_TOKEN, OPERATOR_TOKEN, Operator, staged

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


def test_a_session_is_known_again_by_every_replica_until_its_hours_are_over() -> None:
    value, begun = sessions().sign_in("tok-ops")
    read = sessions(T0 + SESSION_SECONDS - 1).read(value)
    assert read == begun
    assert read is not None
    assert read.operator == "ops"
    assert sessions(T0 + SESSION_SECONDS).read(value) is None


def test_a_session_dies_with_its_token_and_with_no_other() -> None:
    value, _ = sessions(ops="tok-ops", lea="tok-lea").sign_in("tok-ops")
    assert sessions(ops="tok-new", lea="tok-lea").read(value) is None
    assert sessions(ops="tok-ops").read(value) is not None


def test_a_cookie_holds_nothing_of_its_token_and_counts_only_as_it_was_made() -> None:
    value, _ = sessions().sign_in("tok-ops")
    assert "tok-ops" not in value
    for place in range(0, len(value), 7):
        other = "0" if value[place] != "0" else "1"
        assert sessions().read(value[:place] + other + value[place + 1 :]) is None
    assert sessions(key=b"x" * 32).read(value) is None
    for nonsense in (None, "", "a.b.c.d", value[:-1], value + "0", f" {value}", "\ud800"):
        assert sessions().read(nonsense) is None


def test_an_expiry_that_was_moved_is_refused() -> None:
    fingerprint, expires, nonce, mac = sessions().sign_in("tok-ops")[0].split(".")
    assert sessions().read(f"{fingerprint}.{int(expires) + 1}.{nonce}.{mac}") is None


def test_two_sessions_of_one_operator_prove_changes_by_different_tokens() -> None:
    one, other = sessions().sign_in("tok-ops")[1], sessions().sign_in("tok-ops")[1]
    assert one.proved_by(one.csrf)
    assert not one.proved_by(other.csrf)
    assert not one.proved_by("")
    assert not one.proved_by("\udcff")


def test_an_apps_token_signs_nobody_in_and_the_sentence_says_why() -> None:
    with pytest.raises(WrongToken, match="an app's token"):
        sessions().sign_in("tok-app")
    with pytest.raises(WrongToken, match="not known"):
        sessions().sign_in("tok-nobody")


def test_bridges_on_one_machine_have_cookies_of_different_names() -> None:
    assert sessions().cookie != sessions(key=b"x" * 32).cookie
    assert sessions().cookie == sessions(T0 + 9).cookie


# --- guessing -----------------------------------------------------------------------------------------------------


def test_ten_wrong_tokens_a_minute_and_then_that_address_waits() -> None:
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


def test_many_addresses_are_no_way_around() -> None:
    limits = SignInLimits(lambda: 100.0)
    for number in range(FAILURES_IN_ALL):
        limits.failed(f"10.0.1.{number}")
    with pytest.raises(TooManySignIns):
        limits.check("10.0.2.1")


async def test_guessing_is_answered_with_429_and_the_form_even_for_the_right_token(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for _ in range(FAILURES_A_MINUTE):
            assert (await stage.sign_in("wrong")).status == 401
        answer = await stage.sign_in(OPERATOR_TOKEN)
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert "Too many wrong tokens" in answer.text
        assert answer.cookies == []


# --- over HTTP ----------------------------------------------------------------------------------------------------


async def test_an_operators_token_becomes_a_cookie_that_scripts_and_other_sites_never_see(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        answer = await stage.sign_in()
        assert (answer.status, answer.headers["Location"]) == (303, "../")
        [cookie] = answer.cookies
        assert re.fullmatch(r"amux_bridge_[0-9a-f]{8}=[0-9a-f.]+; Max-Age=43200; HttpOnly; SameSite=Strict", cookie)
        assert OPERATOR_TOKEN not in cookie


async def test_behind_tls_the_cookie_is_secure(tmp_path: Path) -> None:
    async with staged(tmp_path, public_url="https://bridge.example/amux") as stage:
        [cookie] = (await stage.sign_in()).cookies
        assert cookie.endswith("; Secure")


@pytest.mark.parametrize(
    ("token", "says"), [("wrong", "not known here"), (APP_TOKEN, "an app&#x27;s token"), ("", "Give an operator")]
)
async def test_another_token_brings_the_form_again_with_a_sentence(tmp_path: Path, token: str, says: str) -> None:
    async with staged(tmp_path) as stage:
        answer = await stage.sign_in(token)
        assert answer.status == 401
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.headers["Cache-Control"] == "no-store"
        assert says in answer.text
        assert 'action="../page/sign-in"' in answer.text
        assert answer.cookies == []
        assert not token or token not in answer.text


async def test_without_an_operators_token_in_the_settings_the_form_says_so(tmp_path: Path) -> None:
    async with staged(tmp_path, operator_tokens="") as stage:
        assert "BRIDGE_OPERATOR_TOKENS" in (await stage.sign_in("anything")).text


async def test_a_form_that_is_none_or_too_large_signs_nobody_in(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for options in ({"json": {"token": OPERATOR_TOKEN}}, {"data": b"\xff"}, {"data": {"token": "x" * 9000}}):
            answer = await stage.ask("POST", "/page/sign-in", **options)
            assert (answer.status, answer.cookies) == (401, [])


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
async def test_another_sites_form_signs_nobody_in(tmp_path: Path, headers: dict[str, str]) -> None:
    async with staged(tmp_path) as stage:
        answer = await stage.sign_in(OPERATOR_TOKEN, **headers)
        assert (answer.status, answer.cookies) == (403, [])


async def test_our_own_form_has_a_null_origin_where_no_referrer_is_given(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        answer = await stage.sign_in(OPERATOR_TOKEN, **{"Origin": "null", "Sec-Fetch-Site": "same-origin"})
        assert answer.status == 303


async def test_the_api_does_not_take_the_cookie(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        for path in ("/watch", "/watch/wat_00000000000000000000000000", f"/deliveries/evt_{'a' * 32}"):
            assert (await operator.get(path)).status == 401
        assert (await operator.post("/deliveries/retry", {"state": "dead"})).status == 401


async def test_the_page_does_not_take_a_bearer_token(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        answer = await stage.ask("GET", "/page/watches", headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"})
        assert answer.status == 401


PROTECTED = ("/page/overview", "/page/watches", "/page/watches/wat_00000000000000000000000000", "/page/live")


async def test_nothing_is_shown_without_a_session_or_to_another_site(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        assert (await stage.ask("GET", "/page/session")).json == {"operator": None}
        operator = await stage.operator()
        for path in PROTECTED:
            assert (await stage.ask("GET", path)).status == 401, path
            assert (await operator.get(path, **{"Sec-Fetch-Site": "cross-site"})).status == 403, path


# --- changes ------------------------------------------------------------------------------------------------------

UNPROVED: list[dict[str, Any]] = [
    {"Origin": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"X-CSRF-Token": ""},
    {"X-CSRF-Token": "0" * 64},
]


async def test_a_change_without_every_proof_changes_nothing(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        watch = await stage.watch(status=200, task_id="sandbox_0_900000_never_1")
        operator, other = await stage.operator(), await stage.operator()
        for missing in [*UNPROVED, {"X-CSRF-Token": other.csrf}]:
            answer = await operator.post(f"/page/watches/{watch['id']}/cancel", **missing)
            assert answer.status == 403, missing
            assert answer.json["code"] == "forbidden"
        assert (await operator.post(f"/page/watches/{watch['id']}/cancel", Cookie="")).status == 401
        assert (await operator.get(f"/page/watches/{watch['id']}")).json["state"] == "active"
        assert (await operator.post(f"/page/watches/{watch['id']}/cancel")).json["state"] == "cancelled"


async def test_sec_fetch_site_alone_is_a_proof_and_the_public_urls_origin_is_ours(tmp_path: Path) -> None:
    async with staged(tmp_path, public_url="https://bridge.example") as stage:
        operator = await stage.operator()
        path, body = "/page/deliveries/retry", {"state": "dead", "dry_run": True}
        assert (await operator.post(path, body, **{"Origin": "", "Sec-Fetch-Site": "same-origin"})).status == 200
        assert (await operator.post(path, body, Origin="https://bridge.example")).status == 200
        assert (await operator.post(path, body, Origin="http://bridge.example")).status == 403


def test_a_session_that_was_ended_is_no_longer_known_and_its_hours_over_forgotten() -> None:
    clock = [T0]
    known = Sessions(KEY, {"tok-ops": "ops"}, {}, now=lambda: clock[0])
    (value, begun), (other, _) = known.sign_in("tok-ops"), known.sign_in("tok-ops")
    known.end(begun)
    assert known.read(value) is None
    assert known.read(other) is not None
    clock[0] += SESSION_SECONDS
    known.end(known.sign_in("tok-ops")[1])
    assert len(known._ended) == 1


async def test_signing_out_ends_the_session_and_makes_the_browser_forget(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        answer = await operator.post("/page/sign-out")
        assert answer.status == 204
        assert answer.cookies[0].startswith(f"{operator.cookie.partition('=')[0]}=; Max-Age=0;")
        for path in PROTECTED:
            assert (await operator.get(path)).status == 401, path
        assert (await operator.post("/page/deliveries/retry", {"state": "dead", "dry_run": True})).status == 401
        assert (await stage.operator()).cookie != operator.cookie


async def test_a_live_page_ends_with_its_session(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        operator = await stage.operator()
        async with stage.session.get(f"{stage.url}/page/live", headers={"Cookie": operator.cookie}) as answer:
            await answer.content.readline()
            await operator.post("/page/sign-out")
            async with asyncio.timeout(10):
                await answer.read()


# --- with no token at all -----------------------------------------------------------------------------------------


async def test_with_no_token_configured_everyone_here_is_signed_in_and_nobody_from_elsewhere(tmp_path: Path) -> None:
    async with staged(tmp_path, tokens="", operator_tokens="") as stage:
        session = await stage.ask("GET", "/page/session")
        assert session.json["open"]
        anyone = Operator(stage, "", session.json["csrf"])
        assert (await anyone.get("/page/watches")).status == 200
        assert (await anyone.get("/page/session", Host="evil.example")).status == 403
        assert (await anyone.get("/page/watches", **{"Sec-Fetch-Site": "cross-site"})).status == 403
        path, body = "/page/deliveries/retry", {"state": "dead", "dry_run": True}
        assert (await anyone.post(path, body)).status == 200
        for missing in UNPROVED:
            assert (await anyone.post(path, body, **missing)).status == 403, missing
