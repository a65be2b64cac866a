"""`listen`: a local receiver that verifies what comes and prints it."""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_bytes
from typing import Any

import orjson

from bridge.cli.errors import CommandFailed
from bridge.cli.receiver import Received, Receiver, taken_if_verified
from bridge.cli.terminal import Terminal, printable
from bridge.cli.watch import from_environment
from bridge.core.errors import BridgeError
from bridge.core.model import TERMINAL_EVENTS
from bridge.core.signing import Secret, new_secret, parse_secret

DEFAULT_PORT = 9000


def run(given: Namespace) -> int:
    """Listen until interrupted, until so many verified events came, or until the task's end came."""
    return asyncio.run(_for_task(given) if given.task else _listen(given))


async def _listen(given: Namespace) -> int:
    post = _Letterbox(given, wanted=given.count)
    receiver = Receiver(_secrets(given), post.take)
    url = await receiver.start(given.host, DEFAULT_PORT if given.port is None else given.port)
    try:
        post.note(f"listening on {url}; Ctrl-C ends it")
        await post.filled.wait()
    finally:
        await receiver.stop()
    return 0


async def _for_task(given: Namespace) -> int:
    """Watch a task with this receiver as its callback. Its secret is made for this one watch, unless one is given."""
    from bridge.cli.client import bridge_api

    post = _Letterbox(given, wanted=given.count)
    own = None if given.secret else new_secret(token_bytes(32))
    receiver = Receiver(_given_secrets(given) if own is None else [own], post.take)
    url = await receiver.start(given.host, given.port or 0)
    try:
        async with bridge_api() as api:
            body = {"task_id": given.task, "callback_url": url} | ({} if own is None else {"secret": own.text})
            watch = await api.ask("POST", "/watch", body=body)
            post.note(f"listening on {url} for {given.task} ({watch['id']}); Ctrl-C cancels the watch")
            try:
                await post.ended.wait()
            except asyncio.CancelledError:
                with suppress(BridgeError):  # it ended just now, or the bridge did
                    await api.ask("DELETE", f"/watch/{watch['id']}")
                raise
    finally:
        await receiver.stop()
    return 0


def _secrets(given: Namespace) -> Sequence[Secret]:
    if given.secret:
        return _given_secrets(given)
    from bridge.cli.signing_secrets import secrets_known_here
    from bridge.settings.settings import load

    return secrets_known_here(load())


def _given_secrets(given: Namespace) -> Sequence[Secret]:
    try:
        return [parse_secret(from_environment(text)) for text in given.secret]
    except ValueError as error:
        raise CommandFailed(f"--secret: {error}") from None


class _Letterbox:
    """Prints what comes, and notes when it is enough."""

    def __init__(self, given: Namespace, wanted: int | None) -> None:
        self._json = given.json
        self._left = wanted
        self._terminal = Terminal()
        self.filled = asyncio.Event()
        self.ended = asyncio.Event()

    def note(self, line: str) -> None:
        """What is no event: on stderr, where --json keeps stdout for events."""
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def take(self, received: Received) -> int:
        """Print one message; the status to answer."""
        if self._json:
            self._terminal.say(orjson.dumps(_as_json(received)).decode())
        else:
            self._print(received)
        if received.verified:
            if self._left is not None:
                self._left -= 1
            if self._left == 0:
                self.filled.set()
            if received.event is not None and received.event.get("type") in TERMINAL_EVENTS:
                self.ended.set()
        return taken_if_verified(received)

    def _print(self, received: Received) -> None:
        say = self._terminal.say
        event = received.event or {}
        kind = printable(str(event.get("type", "no event")))
        name = printable(received.headers.get("webhook-id", "no webhook-id"))
        if received.verified:
            again = f"  (for the {_ordinal(received.times)} time)" if received.times > 1 else ""
            say(("verified", "good"), "  ", (kind, "bold"), f"  {name}{again}")
        else:
            say(("NOT VERIFIED", "bad"), "  ", (kind, "bold"), f"  {name}")
            say(f"  {received.reason}", ("" if not received.hint else f"; {received.hint}", "plain"))
        shown = orjson.dumps(event.get("data"), option=orjson.OPT_INDENT_2).decode() if event else ""
        for line in shown.splitlines():
            say(("  " + printable(line), "dim"))


def _as_json(received: Received) -> dict[str, Any]:
    return {
        "verified": received.verified,
        "reason": received.reason,
        "hint": received.hint or None,
        "times": received.times,
        "headers": {name: value for name, value in received.headers.items() if name.startswith("webhook-")},
        "event": received.event,
    }


def _ordinal(number: int) -> str:
    words = {2: "second", 3: "third"}
    return words.get(number, f"{number}th")
