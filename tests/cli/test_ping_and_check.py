"""`ping` and `check`: what they find without a bridge, and their exit codes."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from bridge.cli.ping import policy_of
from bridge.cli.receiver import Received, Receiver, taken_if_verified
from bridge.core.targets import TargetPolicy
from bridge.sandbox import Fault, FaultKind, Sandbox
from bridge.service.runtime import Runtime
from bridge.settings.settings import load
from tests.cli.command_line import CALL_TIMEOUT_SECONDS, OTHER_SECRET, SECRET, Command, in_process

OPEN = {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.1/32", "BRIDGE_SIGNING_SECRETS": SECRET.text}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return in_process(monkeypatch, capsys, tmp_path)


@contextmanager
def places(sandbox: Sandbox | None = None) -> Iterator[tuple[str, str, list[Received]]]:
    """A stand-in and a receiver in a loop of their own: their URLs, and what the receiver heard."""
    heard: list[Received] = []
    ready: Future[tuple[str, str]] = Future()
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def hear(received: Received) -> int:
        heard.append(received)
        return taken_if_verified(received)

    async def serve() -> None:
        stop = asyncio.Event()
        ends.append((asyncio.get_running_loop(), stop))
        amux, receiver = sandbox or Sandbox(), Receiver([SECRET], hear)
        ready.set_result((await amux.start(), await receiver.start("127.0.0.1", 0)))
        await stop.wait()
        await receiver.stop()
        await amux.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield *ready.result(CALL_TIMEOUT_SECONDS), heard
    finally:
        loop, stop = ends[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(CALL_TIMEOUT_SECONDS)


# --- ping ---------------------------------------------------------------------------------------------------------


def test_ping_sends_one_signed_event_and_needs_no_database(command: Command, tmp_path: Path) -> None:
    with places() as (_, hook_url, heard):
        ended = command("ping", hook_url, **OPEN)
    assert ended.code == 0
    assert ended.out.startswith("204 in 0.")
    [received] = heard
    assert received.verified
    assert received.event is not None
    assert received.event["type"] == "bridge.ping"
    assert list(tmp_path.iterdir()) == []


def test_ping_signs_with_the_databases_own_secret_when_none_is_configured(command: Command, sqlite_url: str) -> None:
    with places() as (_, hook_url, heard):
        ended = command("ping", hook_url, BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_CALLBACK_ALLOW_NETWORKS="127.0.0.1/32")
    assert ended.code == 1
    assert ended.err == (
        "amux-bridge: the receiver answered 401; it may not know the secret that signs here "
        "(`amux-bridge secret show`)\n"
    )
    assert heard[0].reason is not None
    assert "no signature matches" in heard[0].reason


def test_ping_tells_scripts_what_came_of_it(command: Command) -> None:
    with places() as (_, hook_url, _heard):
        good = command("ping", hook_url, "--json", **OPEN)
        bad = command("ping", hook_url, "--json", **OPEN | {"BRIDGE_SIGNING_SECRETS": OTHER_SECRET.text})
    assert good.code == 0
    assert json.loads(good.out)["status_code"] == 204
    assert bad.code == 1
    assert json.loads(bad.out)["error"] == {"code": "http_401", "message": "the receiver answered 401"}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://127.0.0.1:9/", "127.0.0.1 is loopback"),
        ("http://10.1.2.3/", "10.1.2.3 is private"),
        ("ftp://example.com/", "only http and https targets are reached"),
    ],
)
def test_ping_judges_before_it_sends(command: Command, url: str, sentence: str) -> None:
    for more in ((), ("--dry-run",)):
        ended = command("ping", url, *more)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"amux-bridge: {sentence}")


def test_a_dry_ping_sends_nothing(command: Command) -> None:
    with places() as (_, hook_url, heard):
        ended = command("ping", hook_url, "--dry-run", **OPEN)
    assert (ended.code, ended.out) == (0, f"{hook_url} may be sent to\n")
    assert heard == []


async def test_pings_policy_is_the_services(tmp_path: Path) -> None:
    settings = load(
        env_file=None,
        port=0,
        database_url=f"sqlite:///{tmp_path / 'bridge.db'}",
        callback_allow_networks="127.0.0.0/8",
        callback_allow_hosts="example.com,127.0.0.1",
        callback_ports="443,8443",
        callback_https_only=True,
    )
    guard = Runtime(settings)._make_guard(8080)
    theirs, ours = guard._policy, policy_of(settings)
    for part in fields(TargetPolicy):
        if part.name != "own_port":  # the service knows it once it has bound it
            assert getattr(ours, part.name) == getattr(theirs, part.name)


# --- check --------------------------------------------------------------------------------------------------------


def test_check_says_yes_to_what_is_well_and_makes_no_file(command: Command, tmp_path: Path) -> None:
    with places() as (amux_url, _, _heard):
        ended = command("check", AMUX_BASE_URL=amux_url, AMUX_API_KEY="any")
    assert ended.code == 0
    words = [line.split()[:3] for line in ended.out.splitlines()]
    assert [word[1] if word[0] != "amux" else word[2] for word in words] == ["yes", "yes", "yes", "no"]
    assert "amux takes it" in ended.out
    assert "no token is configured" in ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (FaultKind.UNAUTHORIZED, "amux refused the key: Invalid token"),
        (FaultKind.QUOTA, "amux refused the key: The token's quota is used up"),
        (FaultKind.RATE_LIMITED, "amux asks for fewer requests: Too many requests; so nothing is known"),
        (FaultKind.REJECTED, "The request cannot be served"),
        (FaultKind.HTML_200, "amux answered"),
    ],
)
def test_check_says_no_and_why(command: Command, sqlite_url: str, fault: FaultKind, why: str) -> None:
    sandbox = Sandbox()
    sandbox.outage = Fault(fault, times=None)
    with places(sandbox) as (amux_url, _, _heard):
        ended = command(
            "check",
            "--json",
            AMUX_BASE_URL=amux_url,
            AMUX_API_KEY="any",
            BRIDGE_DATABASE_URL=sqlite_url,
            BRIDGE_PROT="1",
        )
    assert ended.code == 1
    told = json.loads(ended.out)
    assert [finding["ok"] for finding in told["checks"]] == [True, True, False]
    assert why in told["checks"][2]["why"]
    assert "BRIDGE_PROT is no setting of this bridge; is it a typo?" in told["cautions"]


def test_check_without_a_key_is_a_no_that_mends_nothing(command: Command, sqlite_url: str) -> None:
    ended = command("check", BRIDGE_DATABASE_URL=sqlite_url)
    assert ended.code == 0
    assert "amux key  no   AMUX_API_KEY is not set, so each watch must bring its own api_key" in ended.out


def test_check_tells_every_bad_setting_and_asks_no_further(command: Command) -> None:
    ended = command("check", BRIDGE_PORT="x", BRIDGE_TOKENS="y")
    assert ended.code == 1
    assert ended.out.count("settings  no ") == 2
    assert ended.out.count("cannot be asked before the settings are right") == 2


def test_check_tells_of_a_wrong_key_and_of_a_missing_folder(command: Command, sqlite_url: str, tmp_path: Path) -> None:
    command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url)
    (tmp_path / "bridge.key").unlink()
    assert "the key file" in command("check", BRIDGE_DATABASE_URL=sqlite_url).out
    ended = command("check", BRIDGE_DATABASE_URL="sqlite:///nowhere/bridge.db")
    assert ended.code == 1
    assert "store     no   BRIDGE_DATABASE_URL: the folder nowhere does not exist" in ended.out
