"""`watch`, `listen --task` and `retry`, with a running bridge and without one."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from bridge.cli.errors import CommandFailed
from bridge.cli.retry import parse_time
from bridge.core.ids import event_id
from bridge.core.model import EventType
from tests.cli.harness import SECRET, BridgeInThread, Command, bridge_in_thread
from tests.ports import free_port

CLOSED_PORT_URL = "http://127.0.0.1:9/"  # the discard port: nothing listens on it


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeInThread]:
    with bridge_in_thread(tmp_path_factory.mktemp("bridge")) as running:
        yield running


# --- watch --------------------------------------------------------------------------------------------------------


def test_watch_registers_and_prints_the_deadline(command: Command, bridge: BridgeInThread) -> None:
    result = command(
        "watch",
        "sandbox_0_0_completed_w1",
        "--callback",
        bridge.hook_url,
        "--timeout",
        "60",
        **bridge.client,
    )
    assert result.code == 0
    assert re.fullmatch(r"wat_\w{26} watches sandbox_0_0_completed_w1 until 20\S+Z\n", result.out)


def test_watch_sends_every_option(command: Command, bridge: BridgeInThread) -> None:
    result = command(
        "watch",
        "sandbox_0_0_completed_w2",
        *("--callback", bridge.hook_url, "--json", "--events", "video.failed, video.completed"),
        *("--context", '{"order": 17}', "--header", "X-App: one", "--timeout", "61.5"),
        *("--secret", "env:HOOK_SECRET", "--api-key", "env:OWN_KEY"),
        HOOK_SECRET=SECRET.text,
        OWN_KEY="own-key",
        **bridge.client,
    )
    watch = json.loads(result.out)
    assert watch["events"] == ["video.completed", "video.failed"]
    assert watch["context"] == {"order": 17}
    assert list(watch["headers"]) == ["X-App"]
    assert SECRET.text not in result.out
    assert "own-key" not in result.out


def test_watch_with_wait_follows_the_task_until_its_callback_is_delivered(
    command: Command, bridge: BridgeInThread
) -> None:
    result = command("watch", "sandbox_0_1600_completed_w3", "--callback", bridge.hook_url, "--wait", **bridge.client)
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert lines[-2:] == ["sandbox_0_1600_completed_w3 completed", "video.completed was delivered"]
    assert any("in_progress" in line for line in lines)


def test_watch_with_wait_fails_if_the_task_fails(command: Command, bridge: BridgeInThread) -> None:
    result = command("watch", "sandbox_0_0_failed_w4", "--callback", bridge.hook_url, "--wait", **bridge.client)
    assert result.code == 1
    assert result.err == "amux-bridge: the task failed: Upstream model rejected the prompt due to content policy.\n"


def test_watch_with_wait_fails_if_the_watch_times_out(command: Command, bridge: BridgeInThread) -> None:
    result = command(
        "watch",
        "sandbox_0_0_never_w5",
        *("--callback", bridge.hook_url, "--wait", "--timeout", "0.5", "--json"),
        **bridge.client,
    )
    assert result.code == 1
    assert (json.loads(result.out)["outcome"], result.err) == ("timed_out", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("task_1", "--callback", "http://10.0.0.1/"),
            "10.0.0.1 is private (10.0.0.0/8); to allow it, set BRIDGE_CALLBACK_ALLOW_NETWORKS where the bridge runs\n",
        ),
        (("task_1", "--callback", "ftp://app.example/"), "only http and https targets are allowed\n"),
        (("a/b", "--callback", CLOSED_PORT_URL), "task_id: must be 1 to 191 of the characters"),
        (("task_1", "--callback", CLOSED_PORT_URL, "--events", "video.lost"), "events"),
    ],
)
def test_watch_reports_an_error_in_one_sentence(
    command: Command, bridge: BridgeInThread, arguments: tuple[str, ...], sentence: str
) -> None:
    result = command("watch", *arguments, **bridge.client)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"amux-bridge: {sentence}")
    assert len(result.err.splitlines()) == 1


def test_a_wrong_token_is_reported_with_the_variable_to_set(command: Command, bridge: BridgeInThread) -> None:
    result = command("watch", "task_1", "--callback", CLOSED_PORT_URL, BRIDGE_URL=bridge.url, BRIDGE_TOKEN="wrong")
    assert result.code == 1
    assert result.err.startswith("amux-bridge: the bridge requires a token: set BRIDGE_TOKEN (")


def test_an_unreachable_bridge_is_reported_with_what_to_check(command: Command) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = command("retry", "evt_1", BRIDGE_URL=url)
    assert result.code == 1
    assert result.err == (
        f"amux-bridge: no connection to the bridge at {url}: connection refused; is `amux-bridge serve` running, "
        "and is BRIDGE_URL correct?\n"
    )


def test_another_server_is_not_taken_for_a_bridge(command: Command, bridge: BridgeInThread) -> None:
    result = command("retry", "evt_1", BRIDGE_URL=bridge.amux_url, BRIDGE_TOKEN="any")
    assert result.code == 1
    assert result.err == (
        f"amux-bridge: {bridge.amux_url} answered 404, but the answer is not from a bridge; check BRIDGE_URL\n"
    )


# --- listen -------------------------------------------------------------------------------------------------------


def test_listen_with_a_task_stops_when_it_ends_and_needs_no_secret(command: Command, bridge: BridgeInThread) -> None:
    result = command("listen", "--task", "sandbox_0_200_completed_l1", "--json", **bridge.client)
    assert result.code == 0
    message = json.loads(result.out)
    assert (message["verified"], message["times"], message["event"]["type"]) == (True, 1, "video.completed")
    assert result.err.startswith("listening on http://127.0.0.1:")


# --- retry --------------------------------------------------------------------------------------------------------


def test_retry_sends_one_or_all_dead_deliveries_again(command: Command, bridge: BridgeInThread) -> None:
    watch = json.loads(
        command("watch", "sandbox_0_0_completed_r1", "--callback", CLOSED_PORT_URL, "--json", **bridge.client).out
    )
    wait_for_one_dead(command, bridge)
    counted = command("retry", "--dead", "--since", "1h", "--host", "127.0.0.1", "--dry-run", **bridge.client)
    assert counted.out == "1 dead delivery would be sent again\n"
    delivery = event_id(watch["id"], EventType.COMPLETED)
    one = command("retry", delivery, **bridge.client)
    assert (one.code, one.out) == (0, f"{delivery} is due now\n")
    wait_for_one_dead(command, bridge)
    everything = command("retry", "--dead", **bridge.client)
    assert everything.out == "1 dead delivery will be sent again\n"


def wait_for_one_dead(command: Command, bridge: BridgeInThread) -> None:
    """Waits until one delivery is dead: its whole retry schedule takes 50 ms, and each request some milliseconds."""
    until = time.monotonic() + 30
    while json.loads(command("retry", "--dead", "--dry-run", "--json", **bridge.client).out)["count"] != 1:
        assert time.monotonic() < until


def test_retry_reports_an_unknown_delivery_in_one_sentence(command: Command, bridge: BridgeInThread) -> None:
    result = command("retry", "evt_unknown", **bridge.client)
    assert (result.code, result.out, result.err) == (1, "", "amux-bridge: there is no such delivery\n")


def test_an_age_becomes_a_time() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert parse_time("90m", "--since", now) == "2026-11-23T10:30:00.000Z"
    assert parse_time("3d", "--since", now) == "2026-11-20T12:00:00.000Z"
    assert parse_time("2026-11-23T15:04:05+01:00", "--since", now) == "2026-11-23T15:04:05+01:00"
    assert parse_time(None, "--since", now) is None
    with pytest.raises(CommandFailed):
        parse_time("3w", "--since", now)
