"""The command line: every command's options, and the exit code and message of each error.

Each command's own module is in `bridge/cli/`. Only `argparse` and the errors are imported here: a command's module is
imported when the command is run, which keeps `--help` fast.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, NoReturn

from bridge import __version__
from bridge.cli.errors import FAILED, INTERRUPTED, TERMINATED, USAGE_ERROR, WrongUsage
from bridge.core.errors import BadSetting, BridgeError

PROGRAM: Final = "amux-bridge"

HELP: Final = """\
amux-bridge turns amux video tasks, which must be polled, into signed webhooks.

  amux-bridge COMMAND [...]            amux-bridge COMMAND --help describes one command

Try it, without a key and without any set-up
  demo       run an amux stand-in, a bridge and a receiver in one process: seven tasks, every callback verified
  sandbox    run the amux stand-in alone, to develop against

Run it
  serve      run the bridge until SIGTERM or Ctrl-C; --sandbox uses the stand-in instead of amux
  check      check the settings, the store and the amux key; print yes or no and why for each
  healthy    for probes: exit code 0 while the running bridge is ready, else 1

Use a running bridge
  watch      register a watch on a task; --wait follows the task until it ends
  listen     run a local receiver that verifies callbacks and prints them
  ping       check a callback URL and send it one signed bridge.ping from this machine
  retry      send deliveries again

Secrets
  secret     new (make one), show (print the signing secrets), rotate (encrypt stored values with the newest key)

Settings are environment variables, or lines of .env in this folder; the documentation has a table of them.
healthy, watch, listen --task and retry find the bridge by BRIDGE_URL and BRIDGE_TOKEN, or else by BRIDGE_HOST,
BRIDGE_PORT and the first token.
Exit codes: 0 success, 1 failure (one sentence on stderr says why), 2 wrong usage or a bad setting, 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one sentence, like every other error."""

    def __init__(self, **options: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]  # argparse's own
        )

    def error(self, message: str) -> NoReturn:
        command = self.prog.rpartition(" ")[2]
        sys.exit(_print_error(f"{message}; see {self.prog} --help", USAGE_ERROR, command))


class _RootParser(_Parser):
    """Prints `HELP` for the whole program."""

    def format_help(self) -> str:
        return HELP


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of every command; `module` is the name of the command's module in `bridge/cli/`."""
    parser = _RootParser(prog=PROGRAM)
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(name, description=summary, epilog=f"Example:\n{example}")
        command.set_defaults(module=name)
        return command

    for add_command in (_demo, _sandbox, _serve, _check, _healthy, _watch, _listen, _ping, _retry, _secret):
        add_command(add)
    return parser


AddCommand = Callable[[str, str, str], argparse.ArgumentParser]
"""Adds a command by name, summary and example."""


def _demo(add: AddCommand) -> None:
    command = add(
        "demo",
        "Run the amux stand-in, a bridge and a receiver in this process, on free loopback ports, with a temporary\n"
        "database. The demo registers tasks that complete, fail and never end, and shows each callback with its\n"
        "verified signature. It needs no key and no network, ignores AMUX_* and BRIDGE_*, and takes some five seconds.",
        "  amux-bridge demo",
    )
    command.add_argument("--logs", action="store_true", help="write the bridge's log lines to stderr")
    command.set_defaults(module="demo.command")


def _sandbox(add: AddCommand) -> None:
    command = add(
        "sandbox",
        "Run the amux stand-in alone: it serves amux's routes for tasks in memory, in every answer form of amux, with\n"
        "the records of eight vendors and faults on request. It prints its base URL; set AMUX_BASE_URL to it.",
        "  amux-bridge sandbox --port 8081",
    )
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=_port, default=0, help="the port to listen on (default: any free one)")


def _serve(add: AddCommand) -> None:
    command = add(
        "serve",
        "Run the bridge until SIGTERM or Ctrl-C. It then finishes the work in progress and stops. Logs are\n"
        "lines on stdout: for people on a terminal, else JSON (BRIDGE_LOG_FORMAT).",
        "  AMUX_API_KEY=sk-... BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8,::1/128 amux-bridge serve",
    )
    command.add_argument(
        "--sandbox",
        action="store_true",
        help="use the built-in amux stand-in: no key is needed, and callbacks may go to this machine",
    )


def _check(add: AddCommand) -> None:
    command = add(
        "check",
        "Check what a start needs: the settings, the store, and whether amux accepts the key (amux is asked about a\n"
        "task that cannot exist). The exit code is 0 when nothing needs a fix.",
        "  amux-bridge check --json",
    )
    _add_json_option(command)


def _healthy(add: AddCommand) -> None:
    command = add(
        "healthy",
        "Ask the running bridge for GET /readyz, for the probes of a container engine. The exit code is 0 while the\n"
        "answer is 200 (ready, or degraded), else 1. The bridge is found by BRIDGE_URL, or else by BRIDGE_HOST and\n"
        "BRIDGE_PORT.",
        "  amux-bridge healthy",
    )
    command.add_argument(
        "--alive", action="store_true", help="ask for GET /healthz: whether the process answers, ready or not"
    )


def _watch(add: AddCommand) -> None:
    command = add(
        "watch",
        "Register a watch at a running bridge: the callback URL gets one event when the task ends. With --wait, show\n"
        "the task's progress until then; the exit code is 0 only if the video is completed.",
        "  amux-bridge watch task_8x7Kq2mVn4Jd9sLw --callback https://app.example.com/hooks/video --wait",
    )
    command.add_argument("task_id", metavar="TASK_ID", help="the task's id at amux")
    command.add_argument("--callback", metavar="URL", required=True, help="the URL that the event is sent to")
    command.add_argument("--wait", action="store_true", help="follow the task until it ends")
    command.add_argument(
        "--events", metavar="TYPES", help="the event types to send, comma-separated (default: the terminal ones)"
    )
    command.add_argument("--context", metavar="JSON", help="an object that every event contains")
    command.add_argument("--timeout", metavar="SECONDS", type=float, help="the time from now until the watch times out")
    command.add_argument("--header", metavar="NAME:VALUE", action="append", help="an extra header of the callbacks")
    command.add_argument(
        "--secret", metavar="WHSEC", help="the secret that signs this watch's events; env:NAME reads the variable NAME"
    )
    command.add_argument(
        "--api-key", metavar="KEY", help="the amux key to poll this task with; env:NAME reads the variable NAME"
    )
    _add_json_option(command)


def _listen(add: AddCommand) -> None:
    command = add(
        "listen",
        "Receive callbacks on this machine, verify and print them, and say what to check when a signature is wrong.\n"
        "With --task, watch that task at a running bridge, with a new secret for this watch, and stop when it ends.\n"
        "The bridge must allow callbacks to this address (BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8).",
        "  amux-bridge listen --port 9000\n  amux-bridge listen --task task_8x7Kq2mVn4Jd9sLw",
    )
    command.add_argument("--task", metavar="TASK_ID", help="watch this task, and stop when it ends")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=_port, help="the port to listen on (default: 9000; with --task any free one)")
    command.add_argument(
        "--secret",
        metavar="WHSEC",
        action="append",
        help="a secret to verify with (default: the bridge's own); env:NAME reads the variable NAME; may be repeated",
    )
    command.add_argument("--count", metavar="N", type=_count, help="stop after N verified events")
    _add_json_option(command, "one JSON object for each message")


def _ping(add: AddCommand) -> None:
    command = add(
        "ping",
        "Check a callback URL by this bridge's settings, then send it one bridge.ping, signed like every callback. It\n"
        "is sent from this machine, and no bridge needs to run. The exit code is 0 if the receiver answers 2xx.",
        "  amux-bridge ping https://app.example.com/hooks/video",
    )
    command.add_argument("url", metavar="URL", help="the callback URL")
    command.add_argument(
        "--dry-run", action="store_true", help="only check the URL and the addresses of its host; send nothing"
    )
    _add_json_option(command)


def _retry(add: AddCommand) -> None:
    command = add(
        "retry",
        "Ask a running bridge to send a delivery again, or every dead delivery that matches the options. The\n"
        "webhook-id stays the same, so that a receiver can recognise an event that it already has.",
        "  amux-bridge retry evt_01ka...\n  amux-bridge retry --dead --since 24h --host app.example.com --dry-run",
    )
    selection = command.add_mutually_exclusive_group(required=True)
    selection.add_argument("delivery_id", metavar="DELIVERY_ID", nargs="?", help="the delivery to send again")
    selection.add_argument(
        "--dead", action="store_true", help="send every dead delivery that matches the options again"
    )
    when = "a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)"
    command.add_argument("--since", metavar="WHEN", help=f"only deliveries that became dead since {when}")
    command.add_argument("--until", metavar="WHEN", help=f"only deliveries that became dead until {when}")
    command.add_argument("--host", metavar="NAME", help="only deliveries to this host: a name without a port")
    command.add_argument("--dry-run", action="store_true", help="only count the deliveries; send nothing")
    _add_json_option(command)


def _secret(add: AddCommand) -> None:
    command = add(
        "secret",
        "Make, show and rotate secrets.\n\n"
        "  new      print a new secret; nothing is stored\n"
        "  show     print the secrets that sign callbacks (from the settings, or else from the database), the current\n"
        "           one first, and the whpk_ public key if BRIDGE_SIGNING_KEY is set\n"
        "  rotate   encrypt all stored secrets with the first of BRIDGE_ENCRYPTION_KEYS; bridges may run meanwhile;\n"
        "           give the new key to every bridge first, and remove the old key afterwards",
        "  amux-bridge secret new\n  amux-bridge secret new --kind encryption-key",
    )
    command.add_argument("action", choices=("new", "show", "rotate"), metavar="new|show|rotate")
    command.add_argument(
        "--kind",
        choices=("secret", "signing-key", "encryption-key"),
        default="secret",
        help="what `new` makes: a whsec_ secret, a whsk_ key pair (Ed25519) or a Fernet key (default: secret)",
    )
    _add_json_option(command)


def _add_json_option(command: argparse.ArgumentParser, output: str = "one JSON object") -> None:
    command.add_argument("--json", action="store_true", help=f"print {output}, for scripts")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


# --- running a command --------------------------------------------------------------------------------------------


def _stop_on_sigterm(arguments: Sequence[str]) -> None:
    """Lets SIGTERM end the process from now on, before the imports that take a second.

    `serve` handles the signal itself as soon as its event loop runs; before that there is nothing to finish. Process 1
    of a container has no default action for signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if "serve" in arguments[:1]:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    elif os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911  one return for each way to end
    """Runs a command and returns its exit code. Every error is one sentence on stderr, never a traceback."""
    _stop_on_sigterm(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        sentence = f"unrecognized arguments: {' '.join(unknown)}; see {PROGRAM} --help"
        return _print_error(sentence, USAGE_ERROR, args.command)
    if args.command is None:
        parser.error("a command is needed, such as demo or serve")
    _check_combinations(parser, args)
    try:
        code: int = import_module(f"bridge.cli.{args.module}").run(args)
        sys.stdout.flush()
    except (BadSetting, WrongUsage) as error:
        return _print_error(str(error), USAGE_ERROR, args.command)
    except BridgeError as error:
        return _print_error(str(error), FAILED, args.command)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = "; PostgreSQL needs: pip install 'amux-bridge[postgres]'" if error.name == "psycopg" else ""
        return _print_error(f"the package {error.name} is not installed{extra}", FAILED, args.command)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). The interpreter flushes stdout at exit; that must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        sentence = f"unexpected {type(error).__name__}: {error} (python -X dev -m bridge ... shows where)"
        return _print_error(sentence, FAILED, args.command)
    return code


def _check_combinations(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Checks combinations of options that argparse cannot express."""
    if args.command == "retry" and not args.dead and (args.since or args.until or args.host or args.dry_run):
        parser.error("--since, --until, --host and --dry-run require --dead")


def _print_error(sentences: str, code: int, command: str | None) -> int:
    """Writes each line of `sentences` to stderr, as a JSON object if the command is `serve` and its log is JSON."""
    if command == "serve":
        from bridge.cli.serve_errors import as_json_lines, writes_json

        if writes_json():
            sys.stderr.write(as_json_lines(sentences, code))
            return code
    for sentence in sentences.splitlines():
        sys.stderr.write(f"{PROGRAM}: {sentence}\n")
    return code
