"""`events`: its output, its first and last event, and how `--follow` waits for new events."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import BridgeInThread, Command, bridge_in_thread, process


@pytest.fixture
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeInThread]:
    with bridge_in_thread(tmp_path_factory.mktemp("bridge")) as running:
        yield running


def complete(command: Command, bridge: BridgeInThread, name: str) -> str:
    """Watches a task until it is completed; returns the watch's id."""
    result = command(
        *("watch", f"sandbox_0_0_completed_{name}", "--callback", bridge.hook_url, "--wait", "--json"),
        *("--context", '{"n": 12345678901234567890, "x": 1.50}'),
        **bridge.client,
    )
    assert result.code == 0, result.err
    watch_id: str = json.loads(result.out)["id"]
    return watch_id


def test_the_events_are_printed_in_order_and_the_command_says_how_to_continue(
    command: Command, bridge: BridgeInThread
) -> None:
    made = [complete(command, bridge, str(number)) for number in range(3)]
    result = command("events", "--json", **bridge.client)
    assert result.code == 0
    assert [json.loads(line)["data"]["watch_id"] for line in result.out.splitlines()] == made
    assert result.err.startswith("continue with --after cursor_")
    cursor = result.err.split()[-1]
    assert command("events", "--after", cursor, **bridge.client).out == ""
    for_people = command("events", "--limit", "1", **bridge.client).out.splitlines()
    assert len(for_people) == 1
    assert "video.completed" in for_people[0]
    assert "sandbox_0_0_completed_0" in for_people[0]


def test_each_json_line_has_the_bytes_that_a_receiver_gets(command: Command, bridge: BridgeInThread) -> None:
    complete(command, bridge, "bytes")
    [line] = command("events", "--json", **bridge.client).out.splitlines()
    assert bridge.callbacks
    assert json.loads(line) == bridge.callbacks[0].event
    assert '"x":1.5' in line


def test_events_are_filtered_by_type(command: Command, bridge: BridgeInThread) -> None:
    complete(command, bridge, "one")
    assert command("events", "--type", "video.failed", "--type", "video.timed_out", **bridge.client).out == ""
    assert len(command("events", "--type", "video.completed", **bridge.client).out.splitlines()) == 1
    assert command("events", "--type", "video.done", **bridge.client).code == 2


def test_follow_waits_for_new_events_and_ends_cleanly(command: Command, bridge: BridgeInThread, tmp_path: Path) -> None:
    complete(command, bridge, "old")
    with process("events", "--follow", "--json", folder=tmp_path, **bridge.client) as following:
        assert following.stdout is not None
        old = json.loads(following.stdout.readline())
        new_watch = complete(command, bridge, "new")
        new = json.loads(following.stdout.readline())
        following.send_signal(signal.SIGINT)
        rest = following.communicate()
    assert old["data"]["task_id"] == "sandbox_0_0_completed_old"
    assert new["data"]["watch_id"] == new_watch
    assert (following.returncode, rest) == (130, ("", ""))
    assert list(tmp_path.iterdir()) == []


def test_a_bad_cursor_and_a_wrong_token_are_one_sentence(command: Command, bridge: BridgeInThread) -> None:
    result = command("events", "--after", "cursor_x", **bridge.client)
    assert (result.code, result.out) == (1, "")
    assert result.err == "amux-bridge: after: must be a next_cursor of this route, or latest\n"
    result = command("events", "--follow", BRIDGE_URL=bridge.url, BRIDGE_TOKEN="wrong")
    assert result.code == 1
    assert "BRIDGE_TOKEN" in result.err
