"""`watch`, `listen --task` and `retry` against a bridge that runs, and against places where none does."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp.test_utils import unused_port

from bridge.cli.errors import CommandFailed
from bridge.cli.retry import moment
from bridge.core.ids import event_id
from bridge.core.model import EventType
from tests.cli.command_line import SECRET, Command, Served, in_process, served_bridge

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens there


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served_bridge(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return in_process(monkeypatch, capsys, tmp_path)


# --- watch --------------------------------------------------------------------------------------------------------


def test_watch_registers_and_says_until_when(command: Command, served: Served) -> None:
    ended = command(
        "watch", "sandbox_0_0_completed_w1", "--callback", served.hook_url, "--timeout", "60", **served.client
    )
    assert ended.code == 0
    assert re.fullmatch(r"wat_\w{26} watches sandbox_0_0_completed_w1 until 20\S+Z\n", ended.out)


def test_watch_passes_every_option_on(command: Command, served: Served) -> None:
    ended = command(
        "watch",
        "sandbox_0_0_completed_w2",
        *("--callback", served.hook_url, "--json", "--events", "video.failed, video.completed"),
        *("--context", '{"order": 17}', "--header", "X-App: one", "--timeout", "61.5"),
        *("--secret", "env:HOOK_SECRET", "--api-key", "env:OWN_KEY"),
        HOOK_SECRET=SECRET.text,
        OWN_KEY="own-key",
        **served.client,
    )
    watch = json.loads(ended.out)
    assert watch["events"] == ["video.completed", "video.failed"]
    assert watch["context"] == {"order": 17}
    assert list(watch["headers"]) == ["X-App"]
    assert SECRET.text not in ended.out
    assert "own-key" not in ended.out


def test_watch_with_wait_follows_the_task_until_its_callback_was_taken(command: Command, served: Served) -> None:
    ended = command("watch", "sandbox_0_1600_completed_w3", "--callback", served.hook_url, "--wait", **served.client)
    lines = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert lines[-2:] == ["sandbox_0_1600_completed_w3 completed", "video.completed was delivered"]
    assert any("in_progress" in line for line in lines)


def test_watch_with_wait_fails_as_the_task_does(command: Command, served: Served) -> None:
    ended = command("watch", "sandbox_0_0_failed_w4", "--callback", served.hook_url, "--wait", **served.client)
    assert ended.code == 1
    assert ended.err == "amux-bridge: the task failed: Upstream model rejected the prompt due to content policy.\n"


def test_watch_with_wait_tells_of_a_watch_that_timed_out(command: Command, served: Served) -> None:
    ended = command(
        "watch",
        "sandbox_0_0_never_w5",
        *("--callback", served.hook_url, "--wait", "--timeout", "0.5", "--json"),
        **served.client,
    )
    assert ended.code == 1
    assert (json.loads(ended.out)["outcome"], ended.err) == ("timed_out", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("task_1", "--callback", "http://10.0.0.1/"), "10.0.0.1 is private (10.0.0.0/8); BRIDGE_CALLBACK_ALLOW"),
        (("a/b", "--callback", NOWHERE), "task_id: must be 1 to 191 of the characters"),
        (("task_1", "--callback", NOWHERE, "--context", "17"), "context: must be an object"),
        (("task_1", "--callback", NOWHERE, "--context", "{"), "--context must be a JSON object"),
        (("task_1", "--callback", NOWHERE, "--header", "X"), "--header must be NAME:VALUE"),
        (("task_1", "--callback", NOWHERE, "--secret", "env:NONE"), "the environment variable NONE is not set"),
        (("task_1", "--callback", NOWHERE, "--events", "video.lost"), "events"),
    ],
)
def test_watch_tells_in_one_sentence_why_not(
    command: Command, served: Served, arguments: tuple[str, ...], sentence: str
) -> None:
    ended = command("watch", *arguments, **served.client)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"amux-bridge: {sentence}")
    assert len(ended.err.splitlines()) == 1


def test_a_wrong_token_is_told_with_what_to_set(command: Command, served: Served) -> None:
    ended = command("watch", "task_1", "--callback", NOWHERE, BRIDGE_URL=served.url, BRIDGE_TOKEN="wrong")
    assert ended.code == 1
    assert ended.err.startswith("amux-bridge: the bridge wants a token: set BRIDGE_TOKEN (")


def test_a_bridge_that_is_not_there_is_told_with_what_to_look_at(command: Command) -> None:
    ended = command("retry", "evt_1", BRIDGE_URL=f"http://127.0.0.1:{unused_port()}")
    assert ended.code == 1
    assert "cannot be reached (connection refused); is `amux-bridge serve` running" in ended.err


def test_another_server_is_no_bridge(command: Command, served: Served) -> None:
    ended = command("retry", "evt_1", BRIDGE_URL=served.amux_url, BRIDGE_TOKEN="any")
    assert ended.code == 1
    assert ended.err == (
        f"amux-bridge: {served.amux_url} answered 404 with something that is no bridge's; check BRIDGE_URL\n"
    )


# --- listen -------------------------------------------------------------------------------------------------------


def test_listen_with_a_task_ends_with_it_and_needs_no_secret(command: Command, served: Served) -> None:
    ended = command("listen", "--task", "sandbox_0_200_completed_l1", "--json", **served.client)
    assert ended.code == 0
    message = json.loads(ended.out)
    assert (message["verified"], message["times"], message["event"]["type"]) == (True, 1, "video.completed")
    assert ended.err.startswith("listening on http://127.0.0.1:")


# --- retry --------------------------------------------------------------------------------------------------------


def test_retry_sends_dead_deliveries_again_one_or_all(command: Command, served: Served) -> None:
    watch = json.loads(
        command("watch", "sandbox_0_0_completed_r1", "--callback", NOWHERE, "--json", **served.client).out
    )
    dead(command, served)
    counted = command("retry", "--dead", "--since", "1h", "--host", "127.0.0.1", "--dry-run", **served.client)
    assert counted.out == "1 dead delivery would be sent again\n"
    delivery = event_id(watch["id"], EventType.COMPLETED)
    one = command("retry", delivery, **served.client)
    assert (one.code, one.out) == (0, f"{delivery} is due now\n")
    dead(command, served)
    everything = command("retry", "--dead", **served.client)
    assert everything.out == "1 dead delivery will be sent again\n"


def dead(command: Command, served: Served) -> None:
    """Ask until one delivery is dead: its whole schedule takes 50 ms, and each question some milliseconds."""
    until = time.monotonic() + 30
    while json.loads(command("retry", "--dead", "--dry-run", "--json", **served.client).out)["count"] != 1:
        assert time.monotonic() < until


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evt_unknown",), "there is no such delivery"),
        (("../watch",), "'../watch' is no delivery's id; they look like evt_..."),
        (("--dead", "--since", "yesterday"), "--since must be a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)"),
        (("--dead", "--until", "2026-11-23T15:04:05"), "--until must say its time zone: 2026-11-23T15:04:05Z is UTC"),
    ],
)
def test_retry_tells_in_one_sentence_why_not(
    command: Command, served: Served, arguments: tuple[str, ...], sentence: str
) -> None:
    ended = command("retry", *arguments, **served.client)
    assert (ended.code, ended.out, ended.err) == (1, "", f"amux-bridge: {sentence}\n")


def test_ages_become_times() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert moment("90m", "--since", now) == "2026-11-23T10:30:00.000Z"
    assert moment("3d", "--since", now) == "2026-11-20T12:00:00.000Z"
    assert moment("2026-11-23T15:04:05+01:00", "--since", now) == "2026-11-23T15:04:05+01:00"
    assert moment(None, "--since", now) is None
    with pytest.raises(CommandFailed):
        moment("3w", "--since", now)
