"""`listen`: what it prints of good and bad messages, and where its secret comes from."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import unused_port

from bridge.core.signing import Secret, Signer
from tests.cli.command_line import CALL_TIMEOUT_SECONDS, OTHER_SECRET, SECRET, Command, Ended, in_process

BODY = json.dumps({"type": "video.completed", "data": {"url": "https://videos.example/\u0007.mp4"}}).encode()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return in_process(monkeypatch, capsys, tmp_path)


def signed(secret: Secret, *, age: int = 0, name: str = "evt_1") -> dict[str, str]:
    return Signer([secret]).headers(name, int(time.time()) - age, BODY)


def listened(
    command: Command, *messages: Mapping[str, str], arguments: tuple[str, ...] = ()
) -> tuple[Ended, list[int]]:
    """Have `listen` run while these headers are posted with BODY; how it ended, and the statuses it answered."""
    port = unused_port()
    answers: list[int] = []

    async def post() -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(CALL_TIMEOUT_SECONDS):
            answers.extend([await _posted(session, port, headers) for headers in messages])

    poster = threading.Thread(target=lambda: asyncio.run(post()))
    poster.start()
    ended = command("listen", "--port", str(port), *arguments)
    poster.join(CALL_TIMEOUT_SECONDS)
    return ended, answers


async def _posted(session: aiohttp.ClientSession, port: int, headers: Mapping[str, str]) -> int:
    """Ask until the listener is there."""
    while True:
        try:
            async with session.post(f"http://127.0.0.1:{port}/any/path", data=BODY, headers=headers) as response:
                return response.status
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.01)


def test_good_messages_are_printed_and_repetitions_told(command: Command) -> None:
    good = signed(SECRET)
    ended, answers = listened(command, good, good, arguments=("--secret", SECRET.text, "--count", "2"))
    assert (ended.code, answers) == (0, [204, 204])
    lines = ended.out.splitlines()
    assert lines[0] == "verified  video.completed  evt_1"
    assert "verified  video.completed  evt_1  (for the second time)" in lines
    assert '    "url": "https://videos.example/\\u0007.mp4"' in lines


@pytest.mark.parametrize(
    ("secret", "age", "reason"),
    [
        (OTHER_SECRET, 0, "no signature matches: another secret signed this, or the body was changed on its way"),
        (SECRET, 900, "webhook-timestamp is too old: by 60"),
        (SECRET, -900, "webhook-timestamp is too new: by "),
        (None, 0, "webhook-id, webhook-timestamp, webhook-signature must all be given"),
    ],
)
def test_a_bad_message_is_refused_with_the_reason_and_a_hint(
    command: Command, secret: Secret | None, age: int, reason: str
) -> None:
    bad = {} if secret is None else signed(secret, age=age)
    ended, answers = listened(command, bad, signed(SECRET), arguments=("--secret", SECRET.text, "--count", "1"))
    assert answers == [401, 204]
    first, second = ended.out.splitlines()[:2]
    assert first.startswith("NOT VERIFIED  video.completed")
    assert second.startswith(f"  {reason}")
    assert "; " in second


def test_scripts_get_one_object_for_each_message(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET.text)
    ended, _ = listened(
        command,
        signed(OTHER_SECRET),
        signed(SECRET),
        arguments=("--secret", "env:MINE", "--count", "1", "--json"),
    )
    bad, good = map(json.loads, ended.out.splitlines())
    assert (bad["verified"], bad["times"], bad["event"]["type"]) == (False, 0, "video.completed")
    assert bad["hint"].startswith("compare the secret")
    assert (good["verified"], good["times"], good["reason"]) == (True, 1, None)
    assert good["headers"]["webhook-id"] == "evt_1"


def test_the_settings_secrets_are_taken_when_none_is_given(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SIGNING_SECRETS", SECRET.text)
    ended, answers = listened(command, signed(SECRET), arguments=("--count", "1"))
    assert (ended.code, answers) == (0, [204])


def test_without_any_secret_no_database_is_made(command: Command, tmp_path: Path) -> None:
    ended = command("listen", "--port", "0")
    assert ended.code == 1
    assert ended.err == (
        "amux-bridge: no signing secret is known here, for there is no database at bridge.db: give --secret, "
        "or start the bridge in this folder first\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_sentence(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = command("listen", "--port", str(port), "--secret", SECRET.text)
    assert (ended.code, ended.err) == (1, f"amux-bridge: cannot listen on 127.0.0.1:{port}: address already in use\n")


def test_what_is_no_secret_is_refused_without_repeating_it(command: Command) -> None:
    ended = command("listen", "--secret", "hunter2-hunter2")
    assert (ended.code, ended.err) == (1, "amux-bridge: --secret: a signing secret begins with whsec_\n")
