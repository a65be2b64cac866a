"""`listen`: runs a local receiver that verifies callbacks and prints them."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_bytes
from typing import Any

import orjson

from bridge.cli.errors import WrongUsage
from bridge.cli.receiver import ReceivedCallback, Receiver, status_for
from bridge.cli.terminal import Terminal, note, printable
from bridge.cli.watch import resolve_env_reference
from bridge.core.errors import BridgeError
from bridge.core.model import TERMINAL_EVENTS
from bridge.core.signing import Secret, new_secret, parse_secret

DEFAULT_PORT = 9000


def run(args: Namespace) -> int:
    """Listens until it is interrupted, `--count` events are verified, or the terminal event of `--task` arrives."""
    if args.pull:
        from bridge.cli import pull

        if args.forward is not None:
            pull.check_forward_url(args.forward)
        return asyncio.run(pull.pull(args, _secrets_for_status_events(args)))
    return asyncio.run(_listen_for_task(args) if args.task else _listen(args))


async def _listen(args: Namespace) -> int:
    printer = _CallbackPrinter(args)
    receiver = Receiver(_load_secrets(args), printer.handle)
    url = await receiver.start(args.host, DEFAULT_PORT if args.port is None else args.port)
    try:
        note(f"listening on {url}; Ctrl-C stops")
        await printer.count_reached.wait()
    finally:
        await receiver.stop()
    return 0


async def _listen_for_task(args: Namespace) -> int:
    """Watches a task with this receiver as the callback. Without `--secret`, makes a secret for this one watch."""
    from bridge.cli.client import connect_to_bridge

    printer = _CallbackPrinter(args)
    new = None if args.secret else new_secret(token_bytes(32))
    receiver = Receiver(_parse_secrets(args) if new is None else [new], printer.handle)
    url = await receiver.start(args.host, args.port or 0)
    try:
        async with connect_to_bridge() as bridge:
            body = {"task_id": args.task, "callback_url": url} | ({} if new is None else {"secret": new.text})
            watch = await bridge.request("POST", "/watch", body=body)
            note(f"listening on {url} for {args.task} ({watch['id']}); Ctrl-C cancels the watch")
            try:
                await printer.terminal_event_arrived.wait()
            except asyncio.CancelledError:
                with suppress(BridgeError):  # the watch settled a moment ago, or the bridge has stopped
                    await bridge.request("DELETE", f"/watch/{watch['id']}")
                raise
    finally:
        await receiver.stop()
    return 0


def _load_secrets(args: Namespace) -> Sequence[Secret]:
    if args.secret:
        return _parse_secrets(args)
    from bridge.cli.signing_secrets import load_existing_signing_secrets
    from bridge.settings.settings import load

    return load_existing_signing_secrets(load(), "use --secret, ")


def _secrets_for_status_events(args: Namespace) -> Sequence[Secret]:
    """Returns the secrets of `--secret`; else those of the settings if events are forwarded; else none.

    They sign status events. The bridge signs terminal events.
    """
    if args.secret:
        return _parse_secrets(args)
    from bridge.settings.settings import load

    return load().signing_secrets if args.forward is not None else ()


def _parse_secrets(args: Namespace) -> Sequence[Secret]:
    try:
        return [parse_secret(resolve_env_reference(text)) for text in args.secret]
    except ValueError as error:
        raise WrongUsage(f"--secret: {error}") from None


class _CallbackPrinter:
    """Prints each callback. Sets an event when `--count` callbacks are verified, and when a terminal event arrives."""

    def __init__(self, args: Namespace) -> None:
        self._json = args.json
        self._remaining: int | None = args.count
        self._terminal = Terminal()
        self.count_reached = asyncio.Event()
        self.terminal_event_arrived = asyncio.Event()

    def handle(self, callback: ReceivedCallback) -> int:
        """Prints one callback and returns the status to answer with."""
        if self._json:
            self._terminal.print_line(orjson.dumps(_as_json(callback)).decode())
        else:
            self._print(callback)
        if callback.verified:
            if self._remaining is not None:
                self._remaining -= 1
            if self._remaining == 0:
                self.count_reached.set()
            if callback.event is not None and callback.event.get("type") in TERMINAL_EVENTS:
                self.terminal_event_arrived.set()
        return status_for(callback)

    def _print(self, callback: ReceivedCallback) -> None:
        print_line = self._terminal.print_line
        event = callback.event or {}
        event_type = printable(str(event.get("type", "not an event")))
        webhook_id = printable(callback.headers.get("webhook-id", "no webhook-id"))
        if callback.verified:
            repetition = f"  (received {callback.times} times)" if callback.times > 1 else ""
            print_line(("verified", "good"), "  ", (event_type, "bold"), f"  {webhook_id}{repetition}")
        else:
            print_line(("NOT VERIFIED", "bad"), "  ", (event_type, "bold"), f"  {webhook_id}")
            print_line(f"  {callback.reason}; {callback.hint}")
        data = orjson.dumps(event.get("data"), option=orjson.OPT_INDENT_2).decode() if event else ""
        for line in data.splitlines():
            print_line(("  " + printable(line), "dim"))


def _as_json(callback: ReceivedCallback) -> dict[str, Any]:
    return {
        "verified": callback.verified,
        "reason": callback.reason,
        "hint": callback.hint,
        "times": callback.times,
        "headers": {name: value for name, value in callback.headers.items() if name.startswith("webhook-")},
        "event": callback.event,
    }
