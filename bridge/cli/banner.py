"""The banner of `serve`: for people who start it on a terminal."""

import logging
from typing import TextIO

from bridge.cli.terminal import Terminal
from bridge.cli.typed_command import typed_command
from bridge.settings.settings import Settings
from bridge.telemetry.logs import chosen_format


def show_banner(settings: Settings, url: str, stream: TextIO, *, task: str = "TASK_ID") -> None:
    """Writes four lines: the page, the API's documentation, the secret, and a first command for a task.

    A line that would be longer than the terminal's width is written without its note. Nothing is written if the stream
    is not a terminal, or if the log has JSON lines.
    """
    if not stream.isatty() or chosen_format(settings.log_format, stream) == "json":
        return
    for handler in logging.getLogger().handlers:
        handler.flush()
    terminal = Terminal(stream)
    for name, text, note in _lines(settings, url, task):
        fits = note and 13 + len(text) + len(note) <= terminal.width
        terminal.print_line((f"  {name:<8}", "bold"), text, (f"   {note}" if fits else "", "dim"))


def _lines(settings: Settings, url: str, task: str) -> list[tuple[str, str, str]]:
    page, command = "", typed_command()
    # A command in another terminal uses the default port, unless BRIDGE_URL is set.
    address = "" if settings.port == Settings.model_fields["port"].default else f"BRIDGE_URL={url} "
    if settings.operator_tokens:
        page = "sign in with a token of BRIDGE_OPERATOR_TOKENS"
    elif settings.tokens:
        page = "sign-in needs BRIDGE_OPERATOR_TOKENS, which is not set"
    return [
        ("page", f"{url}/", page),
        ("docs", f"{url}/docs", "the API"),
        ("secret", f"{command} secret show", "the secret that signs callbacks"),
        ("try", f"{address}{command} listen --task {task}", "a receiver on this machine that watches a task"),
    ]
