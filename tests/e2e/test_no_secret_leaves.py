"""Tests that no secret leaves a busy bridge that logs at DEBUG level.

All secrets contain a mark, and the servers send back what they receive. Then the test searches every log line, answer,
metric, callback body and SQLite file for the marks.
"""

import base64
import json
import signal
import time
from collections.abc import AsyncIterator, Iterable
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from aiohttp import web

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome
from tests.e2e.bridges import Bridge, serving
from tests.e2e.bridges import process as launched
from tests.e2e.harness import Environment, environment
from tests.e2e.receiver import Call, Receiver, accept, receiving

OWN_KEY = "sk-MARK-own-key-0123456789"
HEADER = "MARK-header-value-0123456789"
QUERY = "MARK-query-value-0123456789"
OWN_SECRET = "whsec_" + base64.b64encode(b"MARK-own-secret-of-a-watch").decode()
CONFIGURED = "sk-MARK-configured-0123456789"
SETTINGS = {
    "amux_api_key": CONFIGURED,
    "tokens": "shop:MARK-app-token-0123456789,lab:MARK-other-token-0123456789",
    "operator_tokens": "ops:MARK-operator-token-0123456789",
    "signing_secrets": ",".join(
        "whsec_" + base64.b64encode(name).decode()
        for name in (b"MARK-signing-secret-one-01", b"MARK-signing-secret-two-02")
    ),
    "signing_key": "whsk_" + base64.b64encode(b"MARK-signing-key-seed-of-32-byte").decode(),
    "log_level": "DEBUG",
    "delivery_retry_delays_seconds": "0.1,0.1",
}
APP = {"Authorization": "Bearer MARK-app-token-0123456789"}
OPERATOR = {"Authorization": "Bearer MARK-operator-token-0123456789"}
SIGNING = SETTINGS["signing_secrets"].split(",")
PASSWORD = "MARK-database-password"


def without_prefix(secret: str) -> str:
    """Returns a secret without its prefix, because this part alone is enough to sign."""
    return secret.partition("_")[2] if secret.startswith("whs") else secret


# None of these may leave the bridge. (A watch's own app may see the query, as a part of its callback URL.)
COMMON = [
    CONFIGURED,
    *(entry.partition(":")[2] for entry in SETTINGS["tokens"].split(",")),
    SETTINGS["operator_tokens"].partition(":")[2],
    *map(without_prefix, SIGNING),
    without_prefix(SETTINGS["signing_key"]),
]
SECRETS = [*COMMON, without_prefix(OWN_SECRET), OWN_KEY, HEADER, PASSWORD]
# amux and the receivers send these back: what they received, and what only the bridge should know.
ECHO = " ".join([*COMMON, *SIGNING, f"Bearer {CONFIGURED}", quote(COMMON[1])])
OWN_ECHO = " ".join([ECHO, HEADER, quote(HEADER), OWN_SECRET, without_prefix(OWN_SECRET)])


def found_in(text: str, marks: Iterable[str] = (*SECRETS, PRIVATE_MARK)) -> list[str]:
    return [mark for mark in marks if mark in text]


async def echo(_receiver: Receiver, call: Call) -> web.StreamResponse:
    """Answers 500 with everything that arrived, and with secrets that only the bridge should know."""
    return web.Response(status=500, text=f"{json.dumps(call.headers)} {call.query} {call.body!r} {ECHO}")


async def echo_all_it_knows(_receiver: Receiver, call: Call) -> web.StreamResponse:
    headers = {"X-Echo": call.headers["x-auth"], "Location": f"http://127.0.0.1/{HEADER}", "X-Told": OWN_ECHO}
    return web.Response(status=302, headers=headers, text=OWN_ECHO)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url.replace("postgres@", f"postgres:{PASSWORD}@")  # the server checks no password


@pytest.fixture
async def env(database_url: str) -> AsyncIterator[Environment]:
    async with environment(database_url, clock=time.monotonic) as env:
        yield env


def behaviours(key: str) -> list[Behaviour]:
    """Returns behaviours of tasks in which amux sends back the key that it received, and other secrets."""
    failed = partial(Behaviour, 0, 0, Outcome.FAILED, error_message=f"no: {ECHO} {OWN_KEY}", error_code=key)
    return [
        Behaviour(0, 0.3, form="ABCD"),
        failed(form="C"),
        failed(form="D", error_in_url=True),
        failed(form="B"),
        Behaviour(0, 0, url=f"https://cdn.example/v.mp4?key={key}"),
        Behaviour(0, 0, faults=(Fault(FaultKind.ECHO_KEY, times=3),)),
        Behaviour(0, 10, running_word=key, faults=(Fault(FaultKind.ECHO_KEY),)),
        Behaviour(0, outcome=Outcome.NEVER, faults=(Fault(FaultKind.ECHO_KEY, times=None),)),
    ]


async def all_answers(bridge: Bridge, watches: Iterable[str]) -> dict[str, str]:
    """Returns all answers to an app, an operator and an unknown caller, with headers and without the query's value."""
    answers: dict[str, str] = {}

    async def ask(method: str, path: str, who: str, **options: object) -> None:
        headers = {"app": APP, "operator": OPERATOR}.get(who, {"Authorization": f"Bearer {HEADER}"})
        answer = await bridge.ask(method, path, headers={**headers, **dict(options.pop("headers", {}))}, **options)  # type: ignore[call-overload]
        text = answer.body.decode(errors="replace").replace(QUERY, "")
        answers[f"{method} {path} by {who}"] = f"{sorted(answer.headers.items())} {text}"

    for path in ("/metrics", "/healthz", "/readyz", "/openapi.json", "/docs", "/", "/watch", "/watch?limit=200", "/no"):
        for who in ("app", "operator", "unknown"):
            await ask("GET", path, who)
    for watch in watches:
        await ask("GET", f"/watch/{watch}", "app")
        await ask("GET", f"/watch/{watch}/envelope", "app")
        await ask("GET", f"/watch/{watch}/content", "app")
        shown = await bridge.get(f"/watch/{watch}", headers=APP)
        for delivery in shown["deliveries"]:
            await ask("GET", f"/deliveries/{delivery['id']}", "app")
    wrong = {"task_id": f"../{OWN_KEY}", "callback_url": f"http://{HEADER}:x/", "headers": {"X-Auth": f"{HEADER}\r\n"}}
    for body in (wrong, wrong | {"api_key": OWN_KEY + " ", "secret": OWN_SECRET + "="}, ECHO):
        await ask("POST", "/watch", "app", json=body)
        await ask("POST", "/ping", "app", json=body)
    await ask("POST", "/watch", "app", data=b"{" + OWN_ECHO.encode())
    await ask("GET", f"/watch?cursor={quote(HEADER)}&state={quote(OWN_KEY)}", "app")
    await ask("GET", f"/deliveries/{quote(OWN_KEY)}", "operator")
    return answers


async def test_no_secret_is_in_anything_that_leaves_the_bridge(
    env: Environment, database_url: str, tmp_path: Path
) -> None:
    configured, others = ([env.amux.create_task(one) for one in behaviours(key)] for key in (CONFIGURED, OWN_KEY))
    async with (
        receiving(echo, secret=SIGNING[0]) as one,
        receiving(echo_all_it_knows, secret=OWN_SECRET) as two,
        serving(database_url, env.amux_url, **SETTINGS) as (process, bridge),
    ):
        own = {
            "api_key": OWN_KEY,
            "secret": OWN_SECRET,
            "headers": {"X-Auth": HEADER, "Authorization": f"Bearer {HEADER}"},
        }
        watches: list[str] = []
        for task, other in zip(configured, others, strict=True):
            for receiver, options in ((one, {}), (one, {"headers": own["headers"]}), (two, own)):
                url = f"{receiver.url}/{len(watches)}?token={QUERY}"
                body = {
                    "task_id": other if receiver is two else task,
                    "callback_url": url,
                    "timeout_seconds": 3,
                    **options,
                }
                answer = await bridge.ask("POST", "/watch", json=body, headers=APP)
                assert answer.status == 201, answer
                watches.append(answer.json["id"])
        await bridge.ask("POST", "/ping", json={"callback_url": f"{one.url}?token={QUERY}"}, headers=APP)
        for watch in watches:
            await bridge.get(f"/watch/{watch}?wait_seconds=30", headers=APP)
        # Deliveries to receiver two, a third of all, use up their retries. Receiver one accepts the others later.
        await one.until(lambda: len(one.calls) >= 2 * len(watches) // 3)
        one.responder = accept
        await process.wait_for_log("dead")
        answers = await all_answers(bridge, watches)
        shown = {where: marks for where, text in answers.items() if (marks := found_in(text))}
        assert shown == {}
        on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("bridge.db"))
        assert urlsplit(database_url).scheme == "postgresql" or len(on_disk) > 10_000
        assert found_in(on_disk.decode(errors="replace")) == []
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0
        process.check_no_exceptions()
    logged = {line: marks for line in process.raw if (marks := found_in(line, (*SECRETS, PRIVATE_MARK, QUERY)))}
    assert logged == {}
    assert any(line["level"] == "debug" for line in process.lines if "level" in line)
    bodies = b"".join(call.body for receiver in (one, two) for call in receiver.arrived).decode()
    assert found_in(bodies, (*SECRETS, PRIVATE_MARK, QUERY)) == []
    assert not (one.unverified or two.unverified)
    assert all(call.headers["x-auth"] == HEADER for call in two.arrived)  # the one place where the header may appear


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amux_api_key", "sk-MARK with-spaces-0123456789"),
        ("tokens", "shop:MARK-app-token\u00e9"),
        ("signing_secrets", "whsec_MARK-not-base64!"),
        ("signing_key", "whsk_MARK"),
        ("encryption_keys", "MARK-no-fernet-key"),
        ("database_url", "postgresql://bridge:MARK-password@127.0.0.1:port/x"),
        ("database_url", "postgresql://bridge:MARK-password@127.0.0.1:9/nowhere"),
    ],
)
async def test_a_failing_start_shows_no_secret(name: str, value: str) -> None:
    texts = {"database_url": "sqlite:////nowhere/bridge.db", "database_wait_seconds": "0", name: value}
    async with launched(texts.pop("database_url"), "http://127.0.0.1:9", **texts) as process:
        assert await process.wait_for_exit() == 2
        assert "MARK" not in "\n".join(process.raw)
        [refusal] = [line for line in process.lines if line["event"] == "refused"]
        assert refusal["reason"]
