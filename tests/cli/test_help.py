"""The help of the command line, and its answers to wrong usage."""

import subprocess
import sys
from pathlib import Path

import pytest

from bridge import __version__
from bridge.cli.parser import build_parser
from tests.cli.harness import Command

COMMANDS = tuple(build_parser()._subparsers._group_actions[0].choices or ())  # type: ignore[union-attr]  # argparse's own
HEAVY = ("aiohttp", "sqlalchemy", "alembic", "pydantic", "apscheduler", "prometheus_client", "uvloop")


def test_the_help_lists_every_command_and_fits_a_terminal(command: Command) -> None:
    help_page = command("--help")
    assert help_page.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in help_page.out
    assert max(map(len, help_page.out.splitlines())) <= 116


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_help_has_an_example(command: Command, name: str) -> None:
    help_page = command(name, "--help")
    assert help_page.code == 0
    assert f"amux-bridge {name}" in help_page.out.partition("Example:")[2]
    assert max(map(len, help_page.out.splitlines())) <= 116


def test_version_prints_the_packages_version(command: Command) -> None:
    assert command("--version").out == f"amux-bridge {__version__}\n"
    assert command("-V").out == f"amux-bridge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "a command is needed, such as demo or serve; see amux-bridge --help"),
        (("watch", "task_1"), "the following arguments are required: --callback; see amux-bridge watch --help"),
        (("retry",), "one of the arguments DELIVERY_ID --dead is required; see amux-bridge retry --help"),
        (("retry", "evt_1", "--since", "1h"), "--since, --until, --host and --dry-run require --dead"),
        (("listen", "--port", "99999"), "argument --port: '99999' is not a port from 0 to 65535"),
        (("listen", "--count", "0"), "argument --count: '0' is not a whole number of 1 or more"),
        (("secret", "tell"), "argument new|show|rotate: 'tell' is not one of new, show, rotate; see amux-bridge sec"),
        (("list", "wat_1"), "unrecognized arguments: wat_1; see amux-bridge list --help"),
        (("list", "--limit", "0"), "argument --limit: '0' is not a whole number of 1 or more"),
        (("show", "http://h/x"), "'http://h/x' is not the id of a watch (wat_...), a delivery (evt_...) or a task"),
        (("show", ".."), "'..' is not the id of a watch"),
        (("cancel",), "the following arguments are required: ID; see amux-bridge cancel --help"),
        (("cancel", "evt_1"), "evt_1 is a delivery; cancel its watch: `amux-bridge show evt_1` shows the watch's id"),
        (("watch", "task_1", "--callback", "http://h", "--context", "{"), "--context must be a JSON object"),
        (("watch", "task_1", "--callback", "http://h", "--context", "[1]"), "--context must be a JSON object"),
        (("watch", "task_1", "--callback", "http://h", "--header", "X-One"), "--header must be NAME:VALUE"),
        (("watch", "task_1", "--callback", "http://h", "--header", ": 1"), "--header must be NAME:VALUE"),
        (("watch", "task_1", "--callback", "http://h", "--secret", "env:NOT_SET"), "the environment variable NOT_SET"),
        (
            ("retry", "--dead", "--since", "yesterday"),
            "--since must be a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)",
        ),
        (("retry", "--dead", "--until", "2026-11-23T15:04:05"), "--until must include a time zone"),
        (("retry", "delivery 1"), "'delivery 1' is not a delivery id"),
        (("listen", "--secret", "short"), "--secret: a signing secret must begin with whsec_"),
        (("ping", "no-url"), "the URL "),
    ],
)
def test_wrong_usage_is_one_sentence_and_exits_with_2(
    command: Command, arguments: tuple[str, ...], sentence: str
) -> None:
    result = command(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"amux-bridge: {sentence}")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["secret", "new"], ["watch", "--help"]])
def test_a_command_imports_only_what_it_uses(arguments: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from bridge.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert not set(done.stderr.split()) & set(HEAVY)
