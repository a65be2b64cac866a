"""Every command's options, and the help of the program.

The module of a command is imported only when the command runs, so `--help` is fast.
"""

from enum import StrEnum
from typing import Any, Final

from bridge import __version__
from bridge.cli.arguments import AddCommand, CommandParser, add_json_option, count, port
from bridge.cli.errors import PROGRAM
from bridge.core.model import DeliveryState, EventType, Outcome, WatchState

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
  listen     run a local receiver that verifies callbacks and prints them; --pull needs no callback URL: it fetches
             the events and can pass them on to a local address
  events     print the events, oldest first; --follow waits for new ones
  list       list watches, newest first
  show       show one watch, or one delivery with its attempts
  cancel     cancel a watch
  ping       check a callback URL and send it one signed bridge.ping from this machine
  retry      send deliveries again

Secrets
  secret     new (make one), show (print the signing secrets), rotate (encrypt stored values with the newest key)

Back up
  backup     write a consistent copy of the SQLite database of a running bridge, and of its key

Shell
  completion print a script that completes commands and options in bash, zsh or fish

Settings are environment variables, or lines of .env in this folder; the documentation has a table of them.
Commands that use a running bridge find it by BRIDGE_URL and BRIDGE_TOKEN, or else by BRIDGE_HOST, BRIDGE_PORT and
the first token. With --json a command prints JSON. Only serve makes files in the working folder; backup writes the
file that it is given.
Exit codes: 0 success; 1 failure (one sentence on stderr says why); 2 wrong usage or a bad setting (healthy: 1);
130 interrupted by Ctrl-C (serve then stops with 0).
"""


class _RootParser(CommandParser):
    """Prints `HELP` for the whole program."""

    def format_help(self) -> str:
        return HELP


def build_parser() -> CommandParser:
    """Returns the parser of every command; `module` is the name of the command's module in `bridge/cli/`."""
    parser = _RootParser(prog=PROGRAM)
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)

    def add(name: str, summary: str, example: str, **options: Any) -> CommandParser:
        first_sentence = " ".join(summary.split()).partition(". ")[0].partition(": ")[0].rstrip(".")
        command: CommandParser = commands.add_parser(
            name, help=first_sentence, description=summary, epilog=f"Example:\n{example}", **options
        )
        command.set_defaults(module=name)
        return command

    for add_command in _COMMANDS:
        add_command(add)
    return parser


def _values(words: type[StrEnum]) -> tuple[str, ...]:
    return tuple(word.value for word in words)


def _demo(add: AddCommand) -> None:
    command = add(
        "demo",
        "Run the amux stand-in, a bridge and a receiver in this process, on free loopback ports, with a temporary\n"
        "database. The demo registers tasks that complete, fail and never end, and shows each callback with its\n"
        "verified signature. It needs no key and no network, ignores AMUX_* and BRIDGE_*, and takes about 5 s.",
        "  amux-bridge demo",
        reads_settings=False,
    )
    command.add_argument("--logs", action="store_true", help="write the bridge's log lines to stderr")
    command.set_defaults(module="demo.command")


def _sandbox(add: AddCommand) -> None:
    command = add(
        "sandbox",
        "Run the amux stand-in alone: it serves amux's routes for tasks in memory, in every answer form of amux, with\n"
        "the records of eight vendors and faults on request. It prints its base URL; set AMUX_BASE_URL to it.",
        "  amux-bridge sandbox --port 8081",
        reads_settings=False,
    )
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=port, default=0, help="the port to listen on (default: any free one)")


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
    add_json_option(command)


def _healthy(add: AddCommand) -> None:
    command = add(
        "healthy",
        "Ask the running bridge for GET /readyz, for the probes of a container engine. The exit code is 0 while the\n"
        "answer is 200 (ready, or degraded), else 1. The bridge is found by BRIDGE_URL, or else by BRIDGE_HOST and\n"
        "BRIDGE_PORT.",
        "  amux-bridge healthy",
        uses_bridge=True,
    )
    command.add_argument(
        "--alive", action="store_true", help="ask for GET /healthz: whether the process answers, ready or not"
    )
    add_json_option(command, "the bridge's answer, which is one JSON object")


def _watch(add: AddCommand) -> None:
    command = add(
        "watch",
        "Register a watch at a running bridge: the callback URL gets one event when the task ends. With --wait, show\n"
        "the task's progress until then; the exit code is 0 only if the video is completed.",
        "  amux-bridge watch task_8x7Kq2mVn4Jd9sLw --callback https://app.example.com/hooks/video --wait",
        uses_bridge=True,
    )
    command.add_argument("task_id", metavar="TASK_ID", help="the task's id at amux")
    command.add_argument("--callback", metavar="URL", required=True, help="the URL that the event is sent to")
    command.add_argument("--wait", action="store_true", help="follow the task until it ends")
    command.add_argument(
        "--events", metavar="TYPES", help="the event types to send, comma-separated (default: those that end a watch)"
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
    add_json_option(command)


def _listen(add: AddCommand) -> None:
    command = add(
        "listen",
        "Receive callbacks on this machine, verify and print them, and say what to check when a signature is wrong.\n"
        "With --task, watch that task at a running bridge, with a new secret for this watch, and stop when it ends.\n"
        "The bridge must allow callbacks to this address (BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8).\n\n"
        "With --pull, fetch the events from a running bridge instead: no callback URL and no open port is needed. The\n"
        "first run begins with the oldest event that is kept, and each later run where the last one ended. --forward\n"
        "sends each event, signed, to an address, and repeats it until the address answers 2xx.",
        "  amux-bridge listen --port 9000\n  amux-bridge listen --task task_8x7Kq2mVn4Jd9sLw\n"
        "  amux-bridge listen --pull --forward http://127.0.0.1:3000/hooks/video",
        uses_bridge=True,
    )
    command.add_argument("--task", metavar="TASK_ID", help="watch this task, and stop when it ends")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=port, help="the port to listen on (default: 9000; with --task any free one)")
    command.add_argument(
        "--secret",
        metavar="WHSEC",
        action="append",
        help="a secret to verify with (default: the bridge's own), or to sign status events with (default: of\n"
        "BRIDGE_SIGNING_SECRETS); env:NAME reads the variable NAME; may be repeated",
    )
    command.add_argument("--pull", action="store_true", help="fetch the events instead of receiving callbacks")
    command.add_argument("--forward", metavar="URL", help="with --pull: send each event to this address")
    command.add_argument(
        "--after",
        metavar="CURSOR",
        help="with --pull: begin after this cursor, at the `oldest` event, or after the `latest` event",
    )
    command.add_argument(
        "--app", metavar="NAME", help="with --pull: only events of this app (with an operator's token)"
    )
    command.add_argument(
        "--cursor-file", metavar="FILE", help="with --pull: the file that keeps the cursor (default: in XDG_STATE_HOME)"
    )
    command.add_argument("--count", metavar="N", type=count, help="stop after N verified events")
    add_json_option(command, "one JSON object for each message")


def _events(add: AddCommand) -> None:
    command = add(
        "events",
        "Print the events of a running bridge, oldest first: all terminal events, also those that are not sent, and\n"
        "the status events that watches asked for. With --follow, wait for new events until Ctrl-C.",
        "  amux-bridge events --follow --after latest\n  amux-bridge events --type video.failed --json",
        uses_bridge=True,
    )
    command.add_argument("--follow", action="store_true", help="wait for new events")
    command.add_argument("--after", metavar="CURSOR", help="begin after this cursor; `latest`: only new events")
    command.add_argument(
        "--type",
        choices=_values(EventType),
        action="append",
        metavar="TYPE",
        help="only events of this type, such as video.failed; may be repeated",
    )
    command.add_argument("--app", metavar="NAME", help="only events of this app (with an operator's token)")
    command.add_argument("--limit", metavar="N", type=count, help="stop after N events")
    add_json_option(command, "one event in each line, exactly as a receiver gets it")


def _ping(add: AddCommand) -> None:
    command = add(
        "ping",
        "Check a callback URL by this bridge's settings, then send it one bridge.ping, signed like every callback. It\n"
        "is sent from this machine, and no bridge needs to run. The exit code is 0 if the receiver answers 2xx.",
        "  amux-bridge ping https://app.example.com/hooks/video\n"
        "  BRIDGE_CALLBACK_ALLOW_NETWORKS=127.0.0.0/8 amux-bridge ping http://127.0.0.1:9000/hooks/video",
    )
    command.add_argument("url", metavar="URL", help="the callback URL")
    command.add_argument(
        "--dry-run", action="store_true", help="only check the URL and the addresses of its host; send nothing"
    )
    add_json_option(command)


def _list(add: AddCommand) -> None:
    command = add(
        "list",
        "List the watches of a running bridge, newest first.",
        "  amux-bridge list --state active\n  amux-bridge list --search order-17\n"
        "  amux-bridge list --delivery-state dead --since 24h --limit 200 --json",
        uses_bridge=True,
    )
    command.add_argument("--state", choices=_values(WatchState), help="only watches in this state")
    command.add_argument("--outcome", choices=_values(Outcome), help="only watches with this outcome")
    command.add_argument(
        "--delivery-state", choices=_values(DeliveryState), help="only watches with a delivery in this state"
    )
    command.add_argument("--task", metavar="TASK_ID", help="only watches on this task")
    command.add_argument(
        "--search", metavar="TEXT", help="only watches with this text in an id, the callback URL or the context"
    )
    command.add_argument("--callback-host", metavar="NAME", help="only watches with callbacks to this host")
    _add_times(command, "watches that were registered")
    command.add_argument("--app", metavar="NAME", help="only watches of this app (with an operator's token)")
    command.add_argument("--limit", metavar="N", type=count, default=50, help="how many watches to list (default: 50)")
    command.add_argument("--cursor", metavar="CURSOR", help="continue after a page: its next_cursor")
    add_json_option(command, "one JSON object with items and next_cursor")


def _show(add: AddCommand) -> None:
    command = add(
        "show",
        "Show one watch of a running bridge: its task, its error, and its deliveries. For a delivery, show its\n"
        "attempts and how the receiver answered each. For a task, show its newest watch.",
        "  amux-bridge show wat_01ka...\n  amux-bridge show evt_01ka... --json",
        uses_bridge=True,
    )
    command.add_argument("id", metavar="ID", help="the id of a watch (wat_...), a delivery (evt_...) or a task")
    add_json_option(command)


def _cancel(add: AddCommand) -> None:
    command = add(
        "cancel",
        "Cancel an active watch of a running bridge: its task is no longer polled for it, and nothing more is sent.\n"
        "The task itself continues at amux.",
        "  amux-bridge cancel wat_01ka...",
        uses_bridge=True,
    )
    command.add_argument("id", metavar="ID", help="the id of a watch (wat_...), or of a task with one active watch")
    add_json_option(command)


def _add_times(command: CommandParser, things: str) -> None:
    when = "a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)"
    command.add_argument("--since", metavar="WHEN", help=f"only {things} since {when}")
    command.add_argument("--until", metavar="WHEN", help=f"only {things} until {when}")


def _retry(add: AddCommand) -> None:
    command = add(
        "retry",
        "Ask a running bridge to send a delivery again, or every dead delivery that matches the options. The\n"
        "webhook-id stays the same, so a receiver can detect duplicates.",
        "  amux-bridge retry evt_01ka...\n  amux-bridge retry --dead --since 24h --host app.example.com --dry-run",
        uses_bridge=True,
    )
    selection = command.add_mutually_exclusive_group(required=True)
    selection.add_argument("delivery_id", metavar="DELIVERY_ID", nargs="?", help="the delivery to send again")
    selection.add_argument(
        "--dead", action="store_true", help="send every dead delivery that matches the options again"
    )
    _add_times(command, "deliveries that became dead")
    command.add_argument("--host", metavar="NAME", help="only deliveries to this host: a name without a port")
    command.add_argument("--dry-run", action="store_true", help="only count the deliveries; send nothing")
    add_json_option(command)


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
    command.add_argument("action", choices=("new", "show", "rotate"), metavar="new|show|rotate", help="see above")
    command.add_argument(
        "--kind",
        choices=("secret", "signing-key", "encryption-key"),
        default="secret",
        help="what `new` makes: a whsec_ secret, a whsk_ key pair (Ed25519) or a Fernet key (default: secret)",
    )
    add_json_option(command)


def _backup(add: AddCommand) -> None:
    command = add(
        "backup",
        "Write a consistent copy of the SQLite database of BRIDGE_DATABASE_URL to FILE; a bridge may run meanwhile.\n"
        "The key file, bridge.key, is copied into FILE's folder, unless BRIDGE_ENCRYPTION_KEYS has the key. Both have\n"
        "the mode 0600. A bridge can start on the copy. For PostgreSQL use pg_dump.",
        "  amux-bridge backup /backup/bridge.db",
    )
    command.add_argument("file", metavar="FILE", help="the file to write, in a folder that exists")
    command.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_json_option(command)


def _completion(add: AddCommand) -> None:
    command = add(
        "completion",
        "Print a script that completes the commands, options and values of amux-bridge in a shell.",
        '  bash   eval "$(amux-bridge completion bash)"                              in ~/.bashrc\n'
        "  zsh    amux-bridge completion zsh > ~/.zfunc/_amux-bridge                 with ~/.zfunc in fpath\n"
        "  fish   amux-bridge completion fish > ~/.config/fish/completions/amux-bridge.fish",
        reads_settings=False,
    )
    command.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish", help="the shell")


_COMMANDS: Final = (
    _demo,
    _sandbox,
    _serve,
    _check,
    _healthy,
    _watch,
    _listen,
    _events,
    _list,
    _show,
    _cancel,
    _ping,
    _retry,
    _secret,
    _backup,
    _completion,
)
