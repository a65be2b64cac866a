"""The command line: what there is to say, and how every command ends. Each command's work is in `bridge/cli/`.

Only `argparse` and the errors are imported here: a command loads what it uses when it is asked for.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, NoReturn

from bridge import __version__
from bridge.cli.errors import FAILED, INTERRUPTED, MISUSED
from bridge.core.errors import BadSetting, BridgeError

PROGRAM: Final = "amux-bridge"

PAGE: Final = """\
amux-bridge turns amux video tasks, which must be polled, into signed webhooks.

  amux-bridge COMMAND [...]            amux-bridge COMMAND --help tells all of one

See it work, with no key and nothing to set up
  demo       amux stand-in, bridge and receiver in one process: seven tasks, every callback verified
  sandbox    the amux stand-in alone, to develop against

Run it
  serve      the bridge, until SIGTERM or Ctrl-C; --sandbox puts the stand-in in amux's place
  check      settings, store and amux key: what a start would find, each with yes or no and why

Use a running bridge
  watch      register a watch on a task; --wait follows it to its end
  listen     a local receiver that verifies what comes and prints it
  ping       judge a callback URL and send it one signed bridge.ping, from here
  retry      send deliveries again

Secrets
  secret     new (make one), show (print those that sign), rotate (seal everything under the newest key)

Settings are environment variables, or lines of .env in this folder; the README has the table. watch, listen --task
and retry find the bridge by BRIDGE_URL and BRIDGE_TOKEN, else by BRIDGE_HOST, BRIDGE_PORT and the first token.
Exit codes: 0 done, 1 not done (one sentence on stderr says why), 2 misused or a bad setting, 130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """Misuse is one sentence, as every other error is."""

    def __init__(self, **options: object) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,  # type: ignore[arg-type]  # argparse's own
        )

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{PROGRAM}: {message}; see {self.prog} --help\n")


class _Page(_Parser):
    """The whole program's help is a page of its own."""

    def format_help(self) -> str:
        return PAGE


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options; `module` names the one in `bridge/cli/` that does it."""
    parser = _Page(prog=PROGRAM)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, description=summary, epilog=f"Example:\n{example}")
        made.set_defaults(module=name)
        return made

    for describe in (_demo, _sandbox, _serve, _check, _watch, _listen, _ping, _retry, _secret):
        describe(add)
    return parser


Adding = Callable[[str, str, str], argparse.ArgumentParser]


def _demo(add: Adding) -> None:
    command = add(
        "demo",
        "Start the amux stand-in, a bridge and a receiver in this one process, on free loopback ports and a temporary\n"
        "database. Tasks that complete, fail and never end are registered, and each callback is shown as it comes,\n"
        "with its signature verified. Needs no key and no network, ignores AMUX_* and BRIDGE_*, takes some seconds.",
        "  amux-bridge demo",
    )
    command.add_argument("--logs", action="store_true", help="write the bridge's log lines to stderr")
    command.set_defaults(module="demo.command")


def _sandbox(add: Adding) -> None:
    command = add(
        "sandbox",
        "Run the amux stand-in alone: amux's routes over tasks in memory, in every form that amux answers in, with\n"
        "faults on request. Prints its base URL; point AMUX_BASE_URL there.",
        "  amux-bridge sandbox --port 8081",
    )
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    command.add_argument("--port", type=_port, default=0, help="the port to listen on (0: any free one)")


def _serve(add: Adding) -> None:
    command = add(
        "serve",
        "Run the bridge by its settings until SIGTERM or Ctrl-C; then what is under way is brought to its end. Logs\n"
        "are JSON lines on stdout (BRIDGE_LOG_FORMAT=console for eyes).",
        "  AMUX_API_KEY=sk-... BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8,::1/128 amux-bridge serve",
    )
    command.add_argument("--sandbox", action="store_true", help="with the built-in amux stand-in, and no key")


def _check(add: Adding) -> None:
    command = add(
        "check",
        "Look at what a start would find: the settings, the store, and whether amux takes the key, which is asked\n"
        "about a task that cannot exist. Exit code 0 when nothing needs mending.",
        "  amux-bridge check --json",
    )
    _json(command)


def _watch(add: Adding) -> None:
    command = add(
        "watch",
        "Register a watch at a running bridge: the callback URL is told once when the task has ended. With --wait the\n"
        "task's progress is shown until then, and the exit code is 0 only if the video is there.",
        "  amux-bridge watch task_8x7Kq2mVn4Jd9sLw --callback https://app.example.com/hooks/video --wait",
    )
    command.add_argument("task_id", metavar="TASK_ID", help="the task's id as amux gave it")
    command.add_argument("--callback", metavar="URL", required=True, help="where the event is sent")
    command.add_argument("--wait", action="store_true", help="follow the task to its end")
    command.add_argument("--events", metavar="TYPES", help="event types to send, comma-separated (the terminal ones)")
    command.add_argument("--context", metavar="JSON", help="an object that comes back in every event")
    command.add_argument("--timeout", metavar="SECONDS", type=float, help="from now until the watch times out")
    command.add_argument("--header", metavar="NAME:VALUE", action="append", help="an extra header on callbacks")
    command.add_argument(
        "--secret", metavar="WHSEC", help="the secret that signs this watch's events; env:NAME reads a variable"
    )
    command.add_argument(
        "--api-key", metavar="KEY", help="the amux key to ask about this task with; env:NAME reads a variable"
    )
    _json(command)


def _listen(add: Adding) -> None:
    command = add(
        "listen",
        "Receive callbacks on this machine, verify and print them, and say what to look at when a signature fails.\n"
        "With --task that task is watched at a running bridge, with a secret made for it, until its end has come.\n"
        "The bridge must allow callbacks to this address (BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8).",
        "  amux-bridge listen --port 9000\n  amux-bridge listen --task task_8x7Kq2mVn4Jd9sLw",
    )
    command.add_argument("--task", metavar="TASK_ID", help="watch this task, and end with it")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    command.add_argument("--port", type=_port, help="the port to listen on (9000; with --task any free one)")
    command.add_argument(
        "--secret",
        metavar="WHSEC",
        action="append",
        help="a secret to verify with (the settings' or the database's); env:NAME reads a variable; may be repeated",
    )
    command.add_argument("--count", metavar="N", type=_count, help="end after so many verified events")
    _json(command, "one JSON object for each message")


def _ping(add: Adding) -> None:
    command = add(
        "ping",
        "Judge a callback URL by this bridge's settings, then send it one bridge.ping, signed as callbacks are. It is\n"
        "sent from here, and no bridge need run. Exit code 0 when the receiver answers 2xx.",
        "  amux-bridge ping https://app.example.com/hooks/video",
    )
    command.add_argument("url", metavar="URL", help="the callback URL")
    command.add_argument("--dry-run", action="store_true", help="only judge the URL, names looked up")
    _json(command)


def _retry(add: Adding) -> None:
    command = add(
        "retry",
        "Have a running bridge send a delivery again, or every dead one that the options find. The webhook-id stays,\n"
        "so a receiver that has seen the event can tell.",
        "  amux-bridge retry evt_01ka...\n  amux-bridge retry --dead --since 24h --host app.example.com --dry-run",
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("delivery_id", metavar="DELIVERY_ID", nargs="?", help="the delivery to send again")
    which.add_argument("--dead", action="store_true", help="every dead delivery that the options find")
    when = "a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)"
    command.add_argument("--since", metavar="WHEN", help=f"those that became dead since {when}")
    command.add_argument("--until", metavar="WHEN", help=f"those that became dead until {when}")
    command.add_argument("--host", metavar="NAME", help="those to this host: a name, no port")
    command.add_argument("--dry-run", action="store_true", help="only count them")
    _json(command)


def _secret(add: Adding) -> None:
    command = add(
        "secret",
        "Make, show and rotate secrets.\n\n"
        "  new      print a fresh secret; nothing is stored\n"
        "  show     print the secrets that sign callbacks (the settings', or the database's own), the current one\n"
        "           first, and the whpk_ public key when BRIDGE_SIGNING_KEY is set\n"
        "  rotate   seal all that is stored encrypted under the first of BRIDGE_ENCRYPTION_KEYS, while services run;\n"
        "           give the new key to every service first, and take the old one away afterwards",
        "  amux-bridge secret new\n  amux-bridge secret new --kind encryption-key",
    )
    command.add_argument("action", choices=("new", "show", "rotate"), metavar="new|show|rotate")
    command.add_argument(
        "--kind",
        choices=("secret", "signing-key", "encryption-key"),
        default="secret",
        help="what `new` makes: a whsec_ secret, a whsk_ key pair (Ed25519), or a Fernet key",
    )
    _json(command)


def _json(command: argparse.ArgumentParser, what: str = "one JSON object") -> None:
    command.add_argument("--json", action="store_true", help=f"print {what} instead, for scripts")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


# --- how a command ends -------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911  one return for each way to end
    """Do what the arguments say and return the exit code. Whatever happens is one sentence, never a traceback."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.error("a command is needed, such as demo or serve")
    _check_togetherness(parser, given)
    try:
        code: int = import_module(f"bridge.cli.{given.module}").run(given)
        sys.stdout.flush()
    except BadSetting as error:
        return _told(str(error), MISUSED)
    except BridgeError as error:
        return _told(str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        extra = "; PostgreSQL needs: pip install 'amux-bridge[postgres]'" if error.name == "psycopg" else ""
        return _told(f"the package {error.name} is not installed{extra}", FAILED)
    except BrokenPipeError:
        # Whoever read has left (`| head`). What is still buffered has nowhere to go: let the exit not trip over it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return _told(f"unexpected {type(error).__name__}: {error} (python -X dev -m bridge ... shows where)", FAILED)
    return code


def _check_togetherness(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """What argparse cannot say of options."""
    if given.command == "retry" and not given.dead and (given.since or given.until or given.host or given.dry_run):
        parser.error("--since, --until, --host and --dry-run go with --dead")


def _told(sentences: str, code: int) -> int:
    for sentence in sentences.splitlines():
        sys.stderr.write(f"{PROGRAM}: {sentence}\n")
    return code
