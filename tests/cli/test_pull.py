"""`listen --pull` reads the event feed and forwards the events, signed and in order. No event is lost between runs."""

import json
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.cli import feed
from bridge.core.signing import SignatureMismatch
from bridge.store.open import open_database
from bridge.store.replicas import LOCAL, Replica
from bridge.store.retention import delete_ended
from tests.cli.harness import OTHER_SECRET, SECRET, BridgeInThread, Command, bridge_in_thread, process
from tests.cli.local_receiver import local_receiver
from tests.ports import free_port

NEVER_SENT = ("--events", "video.failed")  # so the terminal event of a completed task is only in the feed
WITH_STATUS = ("--events", "video.queued,video.in_progress,video.failed")
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeInThread]:
    with bridge_in_thread(tmp_path_factory.mktemp("bridge")) as running:
        yield running


@pytest.fixture(autouse=True)
def quick_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Returns the folder of the cursors. A failed request is repeated after 0.01 s."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(feed, "RETRY_SECONDS", (0.01,))
    return tmp_path / "state" / "amux-bridge"


def complete(command: Command, bridge: BridgeInThread, name: str, *options: str, milliseconds: int = 0) -> str:
    """Watches a task until it is completed; returns the watch's id. The task runs for `milliseconds`."""
    arguments = ("--callback", NOWHERE, "--wait", "--json", *(options or NEVER_SENT))
    result = command("watch", f"sandbox_0_{milliseconds}_completed_{name}", *arguments, **bridge.client)
    assert result.code == 0, result.err
    watch_id: str = json.loads(result.out)["id"]
    return watch_id


def watch_ids(events: list[dict[str, dict[str, str]]]) -> list[str]:
    return [event["data"]["watch_id"] for event in events]


def test_terminal_events_are_forwarded_once_in_order_with_valid_signatures(
    command: Command, bridge: BridgeInThread
) -> None:
    made = [complete(command, bridge, str(number)) for number in range(3)]
    with local_receiver() as receiver:
        result = command("listen", "--pull", "--forward", receiver.url, "--count", "3", **bridge.client)
    assert result.code == 0, result.err
    assert watch_ids(list(receiver.events)) == made
    receiver.verify_all(SECRET, time.time())
    assert receiver.ids == [event["id"] for event in receiver.events]
    headers, body = receiver.requests[0]
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("amux-bridge/")
    [first, *_] = command("events", "--json", **bridge.client).out.splitlines()
    assert body.decode() == first
    assert result.out.count("forwarded: 204") == 3


def test_the_next_run_goes_on_where_the_last_one_ended(
    command: Command, bridge: BridgeInThread, quick_state: Path
) -> None:
    first, second = complete(command, bridge, "a"), complete(command, bridge, "b")
    with local_receiver() as receiver:
        pull = ("listen", "--pull", "--forward", receiver.url, "--count", "1", "--json")
        one = json.loads(command(*pull, **bridge.client).out)
        two = json.loads(command(*pull, **bridge.client).out)
        third = complete(command, bridge, "c")  # between two runs
        three = json.loads(command(*pull, **bridge.client).out)
    assert watch_ids([one["event"], two["event"], three["event"]]) == [first, second, third]
    assert watch_ids(list(receiver.events)) == [first, second, third]
    assert one["forwarded"] == {"status_code": 204, "attempts": 1}
    [file] = quick_state.glob("*.cursor")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(quick_state.stat().st_mode) == 0o700


def test_an_event_is_repeated_until_the_local_address_accepts_it(command: Command, bridge: BridgeInThread) -> None:
    made = [complete(command, bridge, name) for name in ("a", "b")]
    port = free_port()

    def come_up() -> None:
        down.wait(30)
        with local_receiver(port, answers=[500, 302, 204]) as receiver:
            up.append(receiver)
            done.wait(30)

    down, done = threading.Event(), threading.Event()
    up: list[object] = []
    thread = threading.Thread(target=come_up)
    thread.start()
    threading.Timer(0.3, down.set).start()  # the pull begins while nothing listens
    url = f"http://127.0.0.1:{port}/hook"
    result = command("listen", "--pull", "--forward", url, "--count", "2", "--json", **bridge.client)
    done.set()
    thread.join()
    receiver = up[0]
    events = [json.loads(line) for line in result.out.splitlines()]
    assert watch_ids([one["event"] for one in events]) == made
    assert len(set(receiver.ids[:3])) == 1  # type: ignore[attr-defined]
    assert receiver.ids[3] == events[1]["event"]["id"]  # type: ignore[attr-defined]
    assert "connection refused; trying again" in result.err
    assert f"127.0.0.1:{port} answered 500; trying again" in result.err
    assert f"127.0.0.1:{port} accepts events again" in result.err


def test_a_receiver_that_answers_410_does_not_get_the_event_again(command: Command, bridge: BridgeInThread) -> None:
    for name in ("a", "b"):
        complete(command, bridge, name)
    with local_receiver(answers=[410]) as receiver:
        result = command("listen", "--pull", "--forward", receiver.url, "--count", "2", **bridge.client)
    assert (result.code, len(receiver.requests)) == (0, 2)


def test_status_events_are_signed_with_the_local_secrets(command: Command, bridge: BridgeInThread) -> None:
    complete(command, bridge, "a", *WITH_STATUS, milliseconds=300)
    count = len(command("events", **bridge.client).out.splitlines())
    assert count > 1
    with local_receiver() as receiver:
        pull = ("listen", "--pull", "--forward", receiver.url, "--count", str(count))
        result = command(*pull, BRIDGE_SIGNING_SECRETS=SECRET.text, **bridge.client)
        assert result.code == 0
        receiver.verify_all(SECRET, time.time())
        receiver.requests.clear()
        command(*pull, "--after", "oldest", "--secret", OTHER_SECRET.text, **bridge.client)
        with pytest.raises(SignatureMismatch):
            receiver.verify_all(SECRET, time.time())
        assert receiver.events.pop()["type"] == "video.completed"  # the bridge signs the terminal event
        receiver.requests.pop()
        receiver.verify_all(OTHER_SECRET, time.time())


def test_a_status_event_without_a_local_secret_is_not_signed_and_holds_nothing_up(
    command: Command, bridge: BridgeInThread
) -> None:
    complete(command, bridge, "a", *WITH_STATUS, milliseconds=300)
    count = len(command("events", **bridge.client).out.splitlines())
    with local_receiver(answers=[401] * (count - 1)) as receiver:
        result = command("listen", "--pull", "--forward", receiver.url, "--count", str(count), **bridge.client)
    assert result.code == 0
    assert "webhook-signature" not in receiver.requests[0][0]
    assert "webhook-signature" in receiver.requests[-1][0]
    assert result.err.count("BRIDGE_SIGNING_SECRETS") == 1
    assert "is skipped" in result.err


def test_without_an_address_the_events_are_printed(command: Command, bridge: BridgeInThread) -> None:
    made = complete(command, bridge, "a")
    result = command("listen", "--pull", "--count", "1", "--json", **bridge.client)
    [line] = result.out.splitlines()
    assert json.loads(line)["forwarded"] is None
    assert watch_ids([json.loads(line)["event"]]) == [made]


def test_an_interrupted_run_ends_cleanly_and_has_kept_its_place(
    command: Command, bridge: BridgeInThread, tmp_path: Path
) -> None:
    cursor_file = tmp_path / "place"
    cursor_file.touch()  # with an empty or missing file, the run starts from the beginning
    with local_receiver() as receiver:
        arguments = ("listen", "--pull", "--forward", receiver.url, "--json", "--cursor-file", str(cursor_file))
        for name in ("a", "b"):
            expected = complete(command, bridge, name)
            with process(*arguments, folder=tmp_path, **bridge.client) as running:
                assert running.stdout is not None
                assert watch_ids([json.loads(running.stdout.readline())["event"]]) == [expected]
                running.send_signal(signal.SIGINT)
                out, err = running.communicate()
            assert (running.returncode, out) == (130, "")
            assert "Traceback" not in err
    assert len(receiver.ids) == 2
    assert stat.S_IMODE(cursor_file.stat().st_mode) == 0o600


def test_latest_begins_with_the_events_from_now_on(command: Command, bridge: BridgeInThread, quick_state: Path) -> None:
    complete(command, bridge, "old")
    with process(
        "listen", "--pull", "--after", "latest", "--json", folder=quick_state.parent.parent, **bridge.client
    ) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        assert running.stderr.readline().startswith("reading the events of http://127.0.0.1:")
        new = complete(command, bridge, "new")
        assert watch_ids([json.loads(running.stdout.readline())["event"]]) == [new]
        running.send_signal(signal.SIGINT)
        running.communicate()


def test_removed_events_are_reported_and_the_oldest_that_is_kept_is_next(
    command: Command, bridge: BridgeInThread, quick_state: Path
) -> None:
    complete(command, bridge, "a")
    command("listen", "--pull", "--count", "1", **bridge.client)
    complete(command, bridge, "b")
    _delete_all(bridge)
    new = complete(command, bridge, "c")
    result = command("listen", "--pull", "--count", "1", "--json", **bridge.client)
    assert watch_ids([json.loads(result.out)["event"]]) == [new]
    assert "events were removed before this run could read them" in result.err


def _delete_all(bridge: BridgeInThread) -> None:
    database, _ = open_database(bridge.database_url, [])
    replica = Replica(LOCAL, 1, shared=False, now=time.time, new_lease=lambda: "", joined_at=0.0)
    assert database.transaction(lambda connection: delete_ended(connection, time.time() + 10, 10, replica)) == 2
    database.close()


def test_apps_and_urls_have_files_of_their_own(command: Command, bridge: BridgeInThread, quick_state: Path) -> None:
    complete(command, bridge, "a")
    localhost = bridge.url.replace("127.0.0.1", "localhost")
    for client in (bridge.client, bridge.client | {"BRIDGE_URL": localhost}):
        assert command("listen", "--pull", "--count", "1", **client).code == 0
    names = sorted(file.name for file in quick_state.glob("*.cursor"))
    assert len(names) == 2
    assert all("shop" in name for name in names)


def test_a_second_pull_with_the_same_file_is_refused(command: Command, bridge: BridgeInThread, tmp_path: Path) -> None:
    with process("listen", "--pull", folder=tmp_path, **bridge.client) as running:
        assert running.stderr is not None
        running.stderr.readline()
        result = command("listen", "--pull", **bridge.client)
        running.send_signal(signal.SIGINT)
        running.communicate()
    assert result.code == 1
    assert result.err.startswith("amux-bridge: another `listen --pull` uses ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--pull", "--task", "t"), "--pull receives no callbacks: use it without --task and --port"),
        (("--pull", "--port", "9000"), "--pull receives no callbacks: use it without --task and --port"),
        (("--forward", "http://127.0.0.1/"), "and --app require --pull; see amux-bridge listen --help"),
        (("--pull", "--forward", "localhost:3000"), "--forward must be an http(s) URL, such as"),
        (("--pull", "--forward", "http://"), "--forward must be an http(s) URL, such as"),
        (("--pull", "--forward", "http://h:99999/"), "--forward must be an http(s) URL, such as"),
    ],
)
def test_options_that_do_not_fit_are_wrong_usage(command: Command, arguments: tuple[str, ...], sentence: str) -> None:
    result = command("listen", *arguments)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err


def test_a_file_that_holds_no_cursor_or_cannot_be_written_is_one_sentence(
    command: Command, bridge: BridgeInThread, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.write_text("cursor_x\n")
    for path, sentence in (
        (bad, f"{bad} contains no cursor; remove it to begin with the oldest event that is kept"),
        (tmp_path / "none" / "file", f"{tmp_path / 'none' / 'file'} cannot be used: No such file or directory"),
        (Path(), ". is a folder; use another --cursor-file"),
        (tmp_path, f"{tmp_path} is a folder; use another --cursor-file"),
        (Path("/"), "/ is a folder; use another --cursor-file"),
    ):
        result = command("listen", "--pull", "--cursor-file", str(path), **bridge.client)
        assert result.code == 1
        assert result.err.splitlines()[-1].startswith(f"amux-bridge: {sentence}")


def test_without_a_bridge_the_command_fails_at_once(command: Command) -> None:
    result = command("listen", "--pull", BRIDGE_URL=f"http://127.0.0.1:{free_port()}", BRIDGE_TOKEN="t")
    assert result.code == 1
    assert "is `amux-bridge serve` running" in result.err
