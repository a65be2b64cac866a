"""The parser of one command. An error of the parser is one sentence, with the word that the user may have meant."""

import argparse
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

from bridge.cli.errors import USAGE_ERROR, print_error
from bridge.cli.suggestions import unknown_choice, unknown_command, unknown_option

_NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")  # argparse's own rule: such a text is a value, not an option


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of one command.

    `uses_bridge`: the command sends requests to a running bridge. `reads_settings`: the command reads settings.
    """

    def __init__(self, *, uses_bridge: bool = False, reads_settings: bool = True, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)
        self._uses_bridge = uses_bridge
        self._settings = _names_for_clients if uses_bridge else _names_for_bridges if reads_settings else _no_names

    def error(self, message: str) -> NoReturn:
        """Prints the message on stderr and exits with the code of wrong usage, 2."""
        sys.exit(print_error(f"{message}; see {self.prog} --help", USAGE_ERROR, self.command))

    @property
    def command(self) -> str:
        """The command's name: the last word of `amux-bridge serve`."""
        return self.prog.rpartition(" ")[2]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Does the same as argparse, but refuses an unknown option first.

        argparse could otherwise report another argument as missing because of the unknown option.
        """
        given = sys.argv[1:] if args is None else list(args)
        if (option := self._unknown_option(given)) is not None:
            options, command = list(self._option_string_actions), self.command
            sentence = unknown_option(
                option, command, options, uses_bridge=self._uses_bridge, setting_names=self._settings
            )
            self.error(sentence)
        return super().parse_known_args(given, namespace)

    def _unknown_option(self, arguments: Sequence[str]) -> str | None:
        """Returns the first argument that argparse reads as an option and does not know."""
        for argument in arguments:
            if argument == "--" or (not argument.startswith("-") and self._has_commands):
                return None
            name = argument.partition("=")[0]
            is_option = len(argument) > 1 and argument.startswith("-") and " " not in argument
            known = name in self._option_string_actions or (
                name[:2] != "--" and name[:2] in self._option_string_actions
            )
            if is_option and not known and not _NEGATIVE_NUMBER.fullmatch(argument):
                return name
        return None

    @property
    def _has_commands(self) -> bool:
        return self._subparsers is not None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuses a value that is not one of an argument's choices. argparse's own text depends on Python's version."""
        choices: Collection[str] | None = action.choices  # type: ignore[assignment]  # all of ours are strings
        if choices is None or value in choices:
            return
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  it has no public name
            self.error(unknown_command(value, choices))
        raise argparse.ArgumentError(action, unknown_choice(value, choices))


def _names_for_bridges() -> Collection[str]:
    from bridge.settings.settings import CLIENT_NAMES, known_names  # it takes 0.3 s, which only an error needs

    return [name for name in known_names() if name not in CLIENT_NAMES]


def _names_for_clients() -> Collection[str]:
    from bridge.settings.settings import CLIENT_NAMES

    return CLIENT_NAMES


def _no_names() -> Collection[str]:
    return ()


AddCommand = Callable[..., CommandParser]
"""Adds a command by name, summary and example, and by the keyword arguments of `CommandParser`."""


def add_json_option(command: argparse.ArgumentParser, output: str = "one JSON object") -> None:
    """Adds the option `--json` to a command. `output` is what the command then prints."""
    command.add_argument("--json", action="store_true", help=f"print {output}, for scripts")


def port(text: str) -> int:
    """Returns a port to listen on, from 0 to 65535. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def count(text: str) -> int:
    """Returns a whole number of 1 or more. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
