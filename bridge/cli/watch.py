"""`watch`: register a watch at a running bridge and, if asked to, follow it to its end."""

import asyncio
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import orjson

from bridge.cli.client import BridgeApi, BridgeRefused, BridgeUnreachable, bridge_api
from bridge.cli.errors import FAILED, CommandFailed
from bridge.cli.terminal import Line, Terminal, bar, printable

LOOK_EVERY_SECONDS = 1  # the bridge holds each answer that long, and answers at once when the watch is final
GIVE_UP_SECONDS = 60.0  # of a bridge that does not answer: longer than a restart takes
CALLBACK_SECONDS = 20.0  # a first attempt takes up to 15 s
BAR_CELLS = 24


def run(given: Namespace) -> int:
    """Register, and follow with `--wait`; 0 when the video is there, or the watch is registered."""
    try:
        return asyncio.run(_watch(given))
    except KeyboardInterrupt:
        if given.wait:
            sys.stderr.write("amux-bridge: the watch goes on without this command\n")
        raise


async def _watch(given: Namespace) -> int:
    body = wanted(given)
    async with bridge_api() as api:
        watch = await api.ask("POST", "/watch", body=body)
        if not given.wait:
            _told(given, watch, f"{watch['id']} watches {watch['task_id']} until {watch['deadline_at']}")
            return 0
        watch = await _followed(api, watch, None if given.json else Terminal())
    if given.json:
        _told(given, watch, "")
    if watch["outcome"] == "completed":
        return 0
    if not given.json:
        raise CommandFailed(_why_not(watch))
    return FAILED


def wanted(given: Namespace) -> dict[str, Any]:
    """The body of `POST /watch`. Raises CommandFailed for what cannot be read as it was meant."""
    body: dict[str, Any] = {"task_id": given.task_id, "callback_url": given.callback}
    if given.events is not None:
        body["events"] = [name.strip() for name in given.events.split(",")]
    if given.context is not None:
        body["context"] = _context(given.context)
    if given.timeout is not None:
        body["timeout_seconds"] = given.timeout
    if given.header:
        body["headers"] = dict(map(_header, given.header))
    for name in ("secret", "api_key"):
        if (text := getattr(given, name)) is not None:
            body[name] = from_environment(text)
    return body


def from_environment(text: str) -> str:
    """What `env:NAME` stands for, so that a secret need not be among a process's arguments; other text as it is."""
    name = text.removeprefix("env:")
    if name == text:
        return text
    if not (found := os.environ.get(name)):
        raise CommandFailed(f"the environment variable {name} is not set")
    return found


def _context(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise CommandFailed("--context must be a JSON object, such as '{\"order\": 17}'") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise CommandFailed("--header must be NAME:VALUE")
    return name.strip(), value.strip()


# --- following ----------------------------------------------------------------------------------------------------


async def _followed(api: BridgeApi, watch: Mapping[str, Any], terminal: Terminal | None) -> Mapping[str, Any]:
    """The watch once it is final and its callback was tried, or 20 s have passed since."""
    view = _View(terminal)
    final_at: float | None = None
    try:
        while True:
            view.show(watch)
            if watch["state"] != "active":
                final_at = final_at or time.monotonic()
                untried = [owed for owed in watch["deliveries"] if owed["state"] == "pending" and not owed["attempts"]]
                if not untried or time.monotonic() - final_at > CALLBACK_SECONDS:
                    break
                await asyncio.sleep(0.2)
            watch = await _look(api, watch["id"], view)
    finally:
        view.leave()
    view.end(watch)
    return watch


async def _look(api: BridgeApi, watch_id: str, view: "_View") -> Mapping[str, Any]:
    """The watch now, or when it is final; a bridge that is away is waited for."""
    since = time.monotonic()
    while True:
        try:
            found: Mapping[str, Any] = await api.ask(
                "GET", f"/watch/{watch_id}", query={"wait_seconds": str(LOOK_EVERY_SECONDS)}, holds=LOOK_EVERY_SECONDS
            )
        except (BridgeUnreachable, BridgeRefused) as error:
            lasting = isinstance(error, BridgeRefused) and error.code != "store_unavailable"
            if lasting or time.monotonic() - since > GIVE_UP_SECONDS:
                raise
            view.trouble(str(error))
            await asyncio.sleep(1)
        else:
            return found


class _View:
    """What the command shows while it waits: a live line, or a line for each change in a pipe; None shows nothing."""

    def __init__(self, terminal: Terminal | None) -> None:
        self._terminal = terminal
        self._last = ""

    def show(self, watch: Mapping[str, Any]) -> None:
        """The watch as it is now."""
        if self._terminal is None:
            return
        if self._terminal.live:
            self._terminal.draw([self._live_line(watch)])
        else:
            self._once(_plain_line(watch))

    def trouble(self, sentence: str) -> None:
        """Why nothing new is known."""
        if self._terminal is not None:
            self._once(f"{sentence}; trying again")

    def end(self, watch: Mapping[str, Any]) -> None:
        """The last word."""
        for owed in watch["deliveries"] if self._terminal is not None else ():
            self._once(_delivery_line(owed))

    def leave(self) -> None:
        """Let the live line stand, and give the cursor back."""
        if self._terminal is not None:
            self._terminal.leave()

    def _once(self, line: str) -> None:
        if line != self._last and self._terminal is not None:
            self._last = line
            self._terminal.say(line)

    def _live_line(self, watch: Mapping[str, Any]) -> Line:
        terminal = self._terminal
        task = watch["task"]
        completed = watch["outcome"] == "completed"
        progress = 100 if completed else task["progress"] or 0
        style = "good" if completed else "accent" if watch["state"] == "active" else "bad"
        cells = BAR_CELLS if terminal is not None and terminal.width > 70 else 8
        drawn = bar(progress, cells, unicode=terminal is not None and terminal.unicode)
        return [(drawn, style), f" {progress:3d} %  ", (_status(watch), "bold"), f"  {_tail(watch)}"]


def _status(watch: Mapping[str, Any]) -> str:
    return str(watch["outcome"] or (watch["state"] if watch["state"] == "cancelled" else watch["task"]["status"]))


def _tail(watch: Mapping[str, Any]) -> str:
    polls = f"{watch['polls']} poll{'' if watch['polls'] == 1 else 's'}"
    if watch["state"] == "active" and watch["last_error"]:
        return f"{polls}; {printable(str(watch['last_error']['message']))}"
    return polls


def _plain_line(watch: Mapping[str, Any]) -> str:
    progress = watch["task"]["progress"]
    shown = "" if progress is None or watch["state"] != "active" else f" {progress} %"
    error = watch["last_error"] if watch["state"] == "active" else None
    trouble = f" ({printable(str(error['message']))})" if error else ""
    return f"{watch['task_id']} {_status(watch)}{shown}{trouble}"


def _delivery_line(owed: Mapping[str, Any]) -> str:
    error = owed["last_error"]
    match owed["state"]:
        case "delivered":
            return f"{owed['type']} was delivered"
        case "dead":
            return f"{owed['type']} could not be delivered: {printable(str(error and error['message']))}"
        case _:
            why = f" ({printable(str(error['message']))})" if error else ""
            return f"{owed['type']} is not delivered yet{why}; next attempt at {owed['next_attempt_at']}"


def _why_not(watch: Mapping[str, Any]) -> str:
    error = watch["task"]["error"] or watch["last_error"] or {}
    said = f": {printable(str(error['message']))}" if error.get("message") else ""
    match watch["outcome"]:
        case "failed":
            return f"the task failed{said}"
        case "timed_out":
            return "the watch timed out before the task ended"
        case "unavailable":
            return f"amux does not tell about the task{said}"
        case _:
            return "the watch was cancelled"


def _told(given: Namespace, watch: Mapping[str, Any], line: str) -> None:
    sys.stdout.write((orjson.dumps(watch).decode() if given.json else line) + "\n")
