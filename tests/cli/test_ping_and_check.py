"""`ping` and `check`: their output and exit codes, without a running bridge."""

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.cli.receiver import ReceivedCallback, Receiver, status_for
from bridge.sandbox import Fault, FaultKind, Sandbox
from bridge.service.runtime import Runtime
from bridge.service.targets import target_policy
from bridge.settings.settings import load
from tests.cli.harness import CALL_TIMEOUT_SECONDS, OTHER_SECRET, SECRET, Command

ALLOWED = {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.1/32", "BRIDGE_SIGNING_SECRETS": SECRET.text}


@contextmanager
def stand_in_and_receiver(sandbox: Sandbox | None = None) -> Iterator[tuple[str, str, list[ReceivedCallback]]]:
    """Runs a stand-in and a receiver on an event loop in another thread; yields their URLs and the callbacks."""
    callbacks: list[ReceivedCallback] = []
    ready: Future[tuple[str, str]] = Future()
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def on_callback(callback: ReceivedCallback) -> int:
        callbacks.append(callback)
        return status_for(callback)

    async def serve() -> None:
        stop = asyncio.Event()
        started.append((asyncio.get_running_loop(), stop))
        amux, receiver = sandbox or Sandbox(), Receiver([SECRET], on_callback)
        ready.set_result((await amux.start(), await receiver.start("127.0.0.1", 0)))
        await stop.wait()
        await receiver.stop()
        await amux.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield *ready.result(CALL_TIMEOUT_SECONDS), callbacks
    finally:
        loop, stop = started[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(CALL_TIMEOUT_SECONDS)


# --- ping ---------------------------------------------------------------------------------------------------------


def test_ping_sends_one_signed_event_and_needs_no_database(command: Command, tmp_path: Path) -> None:
    with stand_in_and_receiver() as (_, hook_url, callbacks):
        result = command("ping", hook_url, **ALLOWED)
    assert result.code == 0
    assert result.out.startswith("204 in 0.")
    [received] = callbacks
    assert received.verified
    assert received.event is not None
    assert received.event["type"] == "bridge.ping"
    assert list(tmp_path.iterdir()) == []


def test_ping_signs_with_the_databases_secret_if_none_is_configured(command: Command, sqlite_url: str) -> None:
    with stand_in_and_receiver() as (_, hook_url, callbacks):
        result = command(
            "ping", hook_url, BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_CALLBACK_ALLOW_NETWORKS="127.0.0.1/32"
        )
    assert result.code == 1
    assert result.err == (
        "amux-bridge: the receiver answered 401; the receiver may not have the signing secret "
        "(`amux-bridge secret show`)\n"
    )
    assert callbacks[0].reason is not None
    assert "no signature matches" in callbacks[0].reason


def test_ping_prints_its_result_as_json(command: Command) -> None:
    with stand_in_and_receiver() as (_, hook_url, _callbacks):
        good = command("ping", hook_url, "--json", **ALLOWED)
        bad = command("ping", hook_url, "--json", **ALLOWED | {"BRIDGE_SIGNING_SECRETS": OTHER_SECRET.text})
    assert good.code == 0
    assert json.loads(good.out)["status_code"] == 204
    assert bad.code == 1
    assert json.loads(bad.out)["error"] == {"code": "http_401", "message": "the receiver answered 401"}


@pytest.mark.parametrize(
    ("url", "sentence", "fix", "settings"),
    [
        ("http://127.0.0.1:9/", "127.0.0.1 is loopback (127.0.0.0/8)", "BRIDGE_CALLBACK_ALLOW_NETWORKS", {}),
        ("http://10.1.2.3/", "10.1.2.3 is private (10.0.0.0/8)", "BRIDGE_CALLBACK_ALLOW_NETWORKS", {}),
        ("ftp://example.com/", "only http and https targets are allowed", "", {}),
        ("http://0x7f.1/", "IPv4 addresses are accepted in their usual spelling only: 127.0.0.1", "", {}),
        (
            "https://1.1.1.1:8443/",
            "port 8443 is not among the allowed ports (BRIDGE_CALLBACK_PORTS)",
            "BRIDGE_CALLBACK_PORTS",
            {"BRIDGE_CALLBACK_PORTS": "443"},
        ),
        (
            "https://1.1.1.1/",
            "1.1.1.1 is not among the allowed hosts (BRIDGE_CALLBACK_ALLOW_HOSTS)",
            "BRIDGE_CALLBACK_ALLOW_HOSTS",
            {"BRIDGE_CALLBACK_ALLOW_HOSTS": "app.example"},
        ),
        (
            "http://1.1.1.1/",
            "1.1.1.1 may be called over https only (BRIDGE_CALLBACK_HTTPS_ONLY)",
            "BRIDGE_CALLBACK_HTTPS_ONLY=false",
            {"BRIDGE_CALLBACK_HTTPS_ONLY": "true"},
        ),
        (
            "http://127.0.0.1:8080/",
            "127.0.0.1 is local, and port 8080 is the bridge's own",
            "",
            {"BRIDGE_CALLBACK_ALLOW_NETWORKS": "127.0.0.0/8"},
        ),
    ],
)
def test_ping_refuses_a_forbidden_target_without_sending_and_names_what_would_allow_it(
    command: Command, url: str, sentence: str, fix: str, settings: dict[str, str]
) -> None:
    hint = f"; to allow it, set {fix} for this command and for the bridge" if fix else ""
    for options in ((), ("--dry-run",)):
        result = command("ping", url, *options, **settings)
        assert (result.code, result.out, result.err) == (1, "", f"amux-bridge: {sentence}{hint}\n")


def test_ping_names_no_setting_for_credentials_in_the_url(command: Command) -> None:
    result = command("ping", "http://user:password@10.0.0.1/")
    assert (result.code, result.out) == (2, "")
    assert "must not contain a user or a password" in result.err
    assert "BRIDGE_" not in result.err


def test_a_dry_ping_sends_nothing(command: Command) -> None:
    with stand_in_and_receiver() as (_, hook_url, callbacks):
        result = command("ping", hook_url, "--dry-run", **ALLOWED)
    assert (result.code, result.out) == (0, f"{hook_url} is allowed\n")
    assert callbacks == []


def test_ping_before_the_first_start_makes_no_file(command: Command, tmp_path: Path) -> None:
    with stand_in_and_receiver() as (_, hook_url, _callbacks):
        result = command("ping", hook_url, BRIDGE_CALLBACK_ALLOW_NETWORKS="127.0.0.1/32")
    assert "there is no signing secret yet" in result.err
    assert list(tmp_path.iterdir()) == []


async def test_the_service_has_the_target_policy_of_ping(tmp_path: Path) -> None:
    settings = load(
        env_file=None,
        port=0,
        database_url=f"sqlite:///{tmp_path / 'bridge.db'}",
        callback_allow_networks="127.0.0.0/8",
        callback_allow_hosts="example.com,127.0.0.1",
        callback_ports="443,8443",
        callback_https_only=True,
    )
    guard = Runtime(settings)._make_guard(frozenset({8080}))
    assert guard._policy == target_policy(settings, frozenset({8080}))


# --- check --------------------------------------------------------------------------------------------------------


def test_check_says_which_of_two_databases_counts(command: Command, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_DATABASE_URL=postgresql://bridge@db/bridge\n")
    result = command("check", BRIDGE_DATABASE_URL="sqlite:///here.db")
    assert "the environment and .env set different values of BRIDGE_DATABASE_URL: the environment is used" in result.out


def test_check_refuses_what_stops_a_start(command: Command) -> None:
    result = command("check", BRIDGE_SIGNING_SECRET="x")
    assert result.code == 1
    assert "BRIDGE_SIGNING_SECRET: is not a setting of this bridge" in result.out


def test_check_says_yes_if_all_is_well_and_creates_no_file(command: Command, tmp_path: Path) -> None:
    with stand_in_and_receiver() as (amux_url, _, _callbacks):
        result = command("check", AMUX_BASE_URL=amux_url, AMUX_API_KEY="any")
    assert result.code == 0
    words = [line.split()[:3] for line in result.out.splitlines()]
    assert [word[1] if word[0] != "amux" else word[2] for word in words] == ["yes", "yes", "yes", "no"]
    assert "amux accepts the key" in result.out
    assert "no token is configured" in result.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (FaultKind.UNAUTHORIZED, "amux refused the key: Invalid token"),
        (FaultKind.QUOTA, "amux refused the key: The token's quota is used up"),
        (FaultKind.RATE_LIMITED, "amux asks for fewer requests: Too many requests; so the key could not be checked"),
        (FaultKind.REJECTED, "The request cannot be served"),
        (FaultKind.HTML_200, "amux answered"),
    ],
)
def test_check_says_no_and_why_if_amux_refuses(command: Command, sqlite_url: str, fault: FaultKind, why: str) -> None:
    sandbox = Sandbox()
    sandbox.outage = Fault(fault, times=None)
    with stand_in_and_receiver(sandbox) as (amux_url, _, _callbacks):
        result = command(
            "check",
            "--json",
            AMUX_BASE_URL=amux_url,
            AMUX_API_KEY="any",
            BRIDGE_DATABASE_URL=sqlite_url,
            BRIDGE_PROT="1",
            HTTPS_PROXY="http://user:hidden@proxy:1",
        )
    assert result.code == 1
    assert "hidden" not in result.out
    assert "HTTPS_PROXY: proxies of the environment are not used" in result.out
    report = json.loads(result.out)
    assert [finding["ok"] for finding in report["checks"]] == [True, True, False]
    assert why in report["checks"][2]["why"]
    typo = "BRIDGE_PROT is not a setting of this bridge; is it a typo? The nearest name is BRIDGE_PORT"
    assert typo in report["cautions"]


def test_a_missing_key_is_a_no_that_needs_no_fix(command: Command, sqlite_url: str) -> None:
    result = command("check", BRIDGE_DATABASE_URL=sqlite_url)
    assert result.code == 0
    why = "AMUX_API_KEY is not set, so each watch must have its own api_key; if each one has, nothing needs a fix"
    assert f"amux key  no   {why}" in result.out.splitlines()


def test_check_reports_every_bad_setting_and_checks_nothing_else(command: Command) -> None:
    result = command("check", BRIDGE_PORT="x", BRIDGE_TOKENS="y")
    assert result.code == 1
    assert result.out.count("settings  no ") == 2
    assert result.out.count("not checked, because the settings are not valid") == 2


def test_check_reports_a_wrong_key_and_a_missing_folder(command: Command, sqlite_url: str, tmp_path: Path) -> None:
    command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url)
    (tmp_path / "bridge.key").unlink()
    assert "the key file" in command("check", BRIDGE_DATABASE_URL=sqlite_url).out
    result = command("check", BRIDGE_DATABASE_URL="sqlite:///nowhere/bridge.db")
    assert result.code == 1
    assert "store     no   BRIDGE_DATABASE_URL: the folder nowhere does not exist" in result.out


def test_check_reads_the_certificates_for_receivers(command: Command, sqlite_url: str) -> None:
    result = command("check", "--json", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_CALLBACK_CA_FILE="/no/such.pem")
    assert result.code == 1
    [finding] = [one for one in json.loads(result.out)["checks"] if one["name"] == "certificates"]
    assert finding["why"] == "BRIDGE_CALLBACK_CA_FILE: /no/such.pem cannot be read: no such file or directory"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("BRIDGE_OPERATIONS_CALLBACK_URL", "http://10.0.0.1/?planted", "10.0.0.1 is private"),
        ("BRIDGE_NOTIFY_URLS", "no-such-service://planted", "apprise does not know entry 1"),
    ],
)
def test_check_finds_what_a_start_refuses_of_operations(
    command: Command, sqlite_url: str, name: str, value: str, why: str
) -> None:
    result = command("check", "--json", BRIDGE_DATABASE_URL=sqlite_url, **{name: value})
    assert result.code == 1
    assert "planted" not in result.out
    [finding] = [one for one in json.loads(result.out)["checks"] if one["name"] == "operations"]
    assert finding["ok"] is False
    assert finding["why"].startswith(f"{name}: {why}")
