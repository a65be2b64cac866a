"""`listen`: what it prints for valid and invalid messages, and which secret it verifies with."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest

from bridge.core.signing import Secret, Signer
from tests.cli.harness import CALL_TIMEOUT_SECONDS, OTHER_SECRET, SECRET, Command, CommandResult
from tests.ports import free_port

BODY = json.dumps({"type": "video.completed", "data": {"url": "https://videos.example/\u0007.mp4"}}).encode()


def signed(secret: Secret, *, age: int = 0, name: str = "evt_1") -> dict[str, str]:
    return Signer([secret]).headers(name, int(time.time()) - age, BODY)


def run_listen(
    command: Command, *messages: Mapping[str, str], arguments: tuple[str, ...] = ()
) -> tuple[CommandResult, list[int]]:
    """Runs `listen` and posts BODY with each of these headers. Returns the result and the answers' statuses."""
    port = free_port()
    answers: list[int] = []

    async def post() -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(CALL_TIMEOUT_SECONDS):
            answers.extend([await _post(session, port, headers) for headers in messages])

    poster = threading.Thread(target=lambda: asyncio.run(post()))
    poster.start()
    result = command("listen", "--port", str(port), *arguments)
    poster.join(CALL_TIMEOUT_SECONDS)
    return result, answers


async def _post(session: aiohttp.ClientSession, port: int, headers: Mapping[str, str]) -> int:
    """Posts as soon as the listener accepts connections; returns the status."""
    while True:
        try:
            async with session.post(f"http://127.0.0.1:{port}/any/path", data=BODY, headers=headers) as response:
                return response.status
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.01)


def test_verified_messages_are_printed_with_the_number_of_repetitions(command: Command) -> None:
    good = signed(SECRET)
    result, answers = run_listen(command, good, good, arguments=("--secret", SECRET.text, "--count", "2"))
    assert (result.code, answers) == (0, [204, 204])
    lines = result.out.splitlines()
    assert lines[0] == "verified  video.completed  evt_1"
    assert "verified  video.completed  evt_1  (received 2 times)" in lines
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
def test_an_invalid_message_is_refused_with_the_reason_and_a_hint(
    command: Command, secret: Secret | None, age: int, reason: str
) -> None:
    bad = {} if secret is None else signed(secret, age=age)
    result, answers = run_listen(command, bad, signed(SECRET), arguments=("--secret", SECRET.text, "--count", "1"))
    assert answers == [401, 204]
    first, second = result.out.splitlines()[:2]
    assert first.startswith("NOT VERIFIED  video.completed")
    assert second.startswith(f"  {reason}")
    assert "; " in second


def test_json_output_is_one_object_per_message(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET.text)
    result, _ = run_listen(
        command,
        signed(OTHER_SECRET),
        signed(SECRET),
        arguments=("--secret", "env:MINE", "--count", "1", "--json"),
    )
    bad, good = map(json.loads, result.out.splitlines())
    assert (bad["verified"], bad["times"], bad["event"]["type"]) == (False, 0, "video.completed")
    assert bad["hint"].startswith("compare the secret")
    assert (good["verified"], good["times"], good["reason"]) == (True, 1, None)
    assert good["headers"]["webhook-id"] == "evt_1"


def test_the_configured_secrets_are_used_without_the_option(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SIGNING_SECRETS", SECRET.text)
    result, answers = run_listen(command, signed(SECRET), arguments=("--count", "1"))
    assert (result.code, answers) == (0, [204])


def test_without_any_secret_no_database_is_created(command: Command, tmp_path: Path) -> None:
    result = command("listen", "--port", "0")
    assert result.code == 1
    assert result.err == (
        "amux-bridge: there is no signing secret, because there is no database at bridge.db: use --secret, "
        "start the bridge in this folder first, or set BRIDGE_SIGNING_SECRETS\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_reported_in_one_sentence(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        result = command("listen", "--port", str(port), "--secret", SECRET.text)
    assert (result.code, result.err) == (1, f"amux-bridge: cannot listen on 127.0.0.1:{port}: address already in use\n")


def test_an_invalid_secret_is_refused_without_repeating_it(command: Command) -> None:
    result = command("listen", "--secret", "hunter2-hunter2")
    assert (result.code, result.err) == (2, "amux-bridge: --secret: a signing secret must begin with whsec_\n")
