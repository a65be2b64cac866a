"""`watch`: registers a watch at a running bridge and, with `--wait`, follows it until it is final."""

import asyncio
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import orjson

from bridge.cli.client import BridgeClient, BridgeRefused, BridgeUnreachable, connect_to_bridge
from bridge.cli.errors import FAILED, CommandFailed, WrongUsage
from bridge.cli.terminal import Line, Terminal, bar, printable
from bridge.cli.views import status

WAIT_SECONDS = 1  # the bridge holds each answer this long, and answers at once when the watch is final
GIVE_UP_SECONDS = 60.0  # for a bridge that does not answer: longer than a restart takes
FIRST_ATTEMPT_SECONDS = 20.0  # a first attempt takes up to 15 s
BAR_CELLS = 24


def run(args: Namespace) -> int:
    """Registers a watch. Returns 0 if it is registered or, with `--wait`, if the video is completed.

    With `--wait`, any other outcome raises CommandFailed, or with `--json` returns 1.
    """
    try:
        return asyncio.run(_watch(args))
    except KeyboardInterrupt:
        if args.wait:
            sys.stderr.write("amux-bridge: the watch stays registered; the bridge continues it\n")
        raise


async def _watch(args: Namespace) -> int:
    body = request_body(args)
    async with connect_to_bridge() as bridge:
        watch = await bridge.request("POST", "/watch", body=body)
        if not args.wait:
            _print(args, watch, f"{watch['id']} watches {watch['task_id']} until {watch['deadline_at']}")
            return 0
        watch = await _follow(bridge, watch, None if args.json else Terminal())
    if args.json:
        _print(args, watch, "")
    if watch["outcome"] == "completed":
        return 0
    if not args.json:
        raise CommandFailed(_failure_sentence(watch))
    return FAILED


def request_body(args: Namespace) -> dict[str, Any]:
    """Returns the body of `POST /watch`. Raises WrongUsage for an option that cannot be parsed."""
    body: dict[str, Any] = {"task_id": args.task_id, "callback_url": args.callback}
    if args.events is not None:
        body["events"] = [name.strip() for name in args.events.split(",")]
    if args.context is not None:
        body["context"] = _parse_context(args.context)
    if args.timeout is not None:
        body["timeout_seconds"] = args.timeout
    if args.header:
        body["headers"] = dict(map(_parse_header, args.header))
    for name in ("secret", "api_key"):
        if (text := getattr(args, name)) is not None:
            body[name] = resolve_env_reference(text)
    return body


def resolve_env_reference(text: str) -> str:
    """Returns the value of the environment variable for `env:NAME`, and any other text unchanged.

    With `env:NAME` a secret is not in the process's arguments, which other users of the machine can see. Raises
    WrongUsage if the variable is not set.
    """
    name = text.removeprefix("env:")
    if name == text:
        return text
    if not (value := os.environ.get(name)):
        raise WrongUsage(f"the environment variable {name} is not set")
    return value


def _parse_context(text: str) -> Any:
    try:
        context = orjson.loads(text)
    except orjson.JSONDecodeError:
        context = None
    if not isinstance(context, dict):
        raise WrongUsage("--context must be a JSON object, such as '{\"order\": 17}'")
    return context


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise WrongUsage("--header must be NAME:VALUE")
    return name.strip(), value.strip()


# --- following a watch --------------------------------------------------------------------------------------------


async def _follow(bridge: BridgeClient, watch: Mapping[str, Any], terminal: Terminal | None) -> Mapping[str, Any]:
    """Returns the watch once it is final and each delivery was attempted, or 20 s after it became final."""
    view = _WatchView(terminal)
    final_at: float | None = None
    try:
        while True:
            view.show(watch)
            if watch["state"] != "active":
                final_at = final_at or time.monotonic()
                unattempted = [
                    delivery
                    for delivery in watch["deliveries"]
                    if delivery["state"] == "pending" and not delivery["attempts"]
                ]
                if not unattempted or time.monotonic() - final_at > FIRST_ATTEMPT_SECONDS:
                    break
                await asyncio.sleep(0.2)
            watch = await _fetch(bridge, watch["id"], view)
    finally:
        view.release()
    view.show_deliveries(watch)
    return watch


async def _fetch(bridge: BridgeClient, watch_id: str, view: "_WatchView") -> Mapping[str, Any]:
    """Returns the watch after up to 1 s, or as soon as it is final. Retries for 60 s if the bridge does not answer."""
    started = time.monotonic()
    while True:
        try:
            watch: Mapping[str, Any] = await bridge.request(
                "GET", f"/watch/{watch_id}", query={"wait_seconds": str(WAIT_SECONDS)}, wait_seconds=WAIT_SECONDS
            )
        except (BridgeUnreachable, BridgeRefused) as error:
            permanent = isinstance(error, BridgeRefused) and error.code != "store_unavailable"
            if permanent or time.monotonic() - started > GIVE_UP_SECONDS:
                raise
            view.show_error(str(error))
            await asyncio.sleep(1)
        else:
            return watch


class _WatchView:
    """Shows a watch: on a terminal as one line that is redrawn, in a pipe as a new line for each change.

    Shows nothing if `terminal` is None.
    """

    def __init__(self, terminal: Terminal | None) -> None:
        self._terminal = terminal
        self._last_line = ""

    def show(self, watch: Mapping[str, Any]) -> None:
        """Shows the watch's current state."""
        if self._terminal is None:
            return
        if self._terminal.live:
            self._terminal.draw([self._live_line(watch)])
        else:
            self._print_if_new(_plain_line(watch))

    def show_error(self, sentence: str) -> None:
        """Shows why the bridge does not answer now."""
        if self._terminal is not None:
            self._print_if_new(f"{sentence}; retrying")

    def show_deliveries(self, watch: Mapping[str, Any]) -> None:
        """Shows each delivery of a final watch."""
        for delivery in watch["deliveries"] if self._terminal is not None else ():
            self._print_if_new(_delivery_line(delivery))

    def release(self) -> None:
        """Keeps the last line on the screen and shows the cursor again."""
        if self._terminal is not None:
            self._terminal.release()

    def _print_if_new(self, line: str) -> None:
        if line != self._last_line and self._terminal is not None:
            self._last_line = line
            self._terminal.print_line(line)

    def _live_line(self, watch: Mapping[str, Any]) -> Line:
        terminal = self._terminal
        task = watch["task"]
        completed = watch["outcome"] == "completed"
        progress = 100 if completed else task["progress"] or 0
        style = "good" if completed else "accent" if watch["state"] == "active" else "bad"
        cells = BAR_CELLS if terminal is not None and terminal.width > 70 else 8
        progress_bar = bar(progress, cells, unicode=terminal is not None and terminal.unicode)
        return [(progress_bar, style), f" {progress:3d} %  ", (status(watch), "bold"), f"  {_polls_and_error(watch)}"]


def _polls_and_error(watch: Mapping[str, Any]) -> str:
    polls = f"{watch['polls']} poll{'' if watch['polls'] == 1 else 's'}"
    if watch["state"] == "active" and watch["last_error"]:
        return f"{polls}; {printable(str(watch['last_error']['message']))}"
    return polls


def _plain_line(watch: Mapping[str, Any]) -> str:
    progress = watch["task"]["progress"]
    percent = "" if progress is None or watch["state"] != "active" else f" {progress} %"
    error = watch["last_error"] if watch["state"] == "active" else None
    reason = f" ({printable(str(error['message']))})" if error else ""
    return f"{watch['task_id']} {status(watch)}{percent}{reason}"


def _delivery_line(delivery: Mapping[str, Any]) -> str:
    error = delivery["last_error"]
    match delivery["state"]:
        case "delivered":
            return f"{delivery['type']} was delivered"
        case "dead":
            return f"{delivery['type']} could not be delivered: {printable(str(error and error['message']))}"
        case _:
            reason = f" ({printable(str(error['message']))})" if error else ""
            return f"{delivery['type']} is not delivered yet{reason}; next attempt at {delivery['next_attempt_at']}"


def _failure_sentence(watch: Mapping[str, Any]) -> str:
    error = watch["task"]["error"] or watch["last_error"] or {}
    reason = f": {printable(str(error['message']))}" if error.get("message") else ""
    match watch["outcome"]:
        case "failed":
            return f"the task failed{reason}"
        case "timed_out":
            return "the watch timed out before the task ended"
        case "unavailable":
            return f"amux does not return the task's status{reason}"
        case _:
            return "the watch was cancelled"


def _print(args: Namespace, watch: Mapping[str, Any], line: str) -> None:
    sys.stdout.write((orjson.dumps(watch).decode() if args.json else line) + "\n")
