"""What the command line says of itself, and how it answers misuse."""

import subprocess
import sys
from pathlib import Path

import pytest

from bridge import __version__
from tests.cli.command_line import Command, in_process

COMMANDS = ("demo", "sandbox", "serve", "check", "watch", "listen", "ping", "retry", "secret")
HEAVY = ("aiohttp", "sqlalchemy", "alembic", "pydantic", "apscheduler", "prometheus_client", "uvloop")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    return in_process(monkeypatch, capsys, tmp_path)


def test_the_page_tells_of_every_command_and_fits_a_terminal(command: Command) -> None:
    page = command("--help")
    assert page.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in page.out
    assert max(map(len, page.out.splitlines())) <= 116


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_tells_what_it_does_and_gives_an_example(command: Command, name: str) -> None:
    page = command(name, "--help")
    assert page.code == 0
    assert f"amux-bridge {name}" in page.out.partition("Example:")[2]
    assert max(map(len, page.out.splitlines())) <= 116


def test_the_version_is_the_packages(command: Command) -> None:
    assert command("--version").out == f"amux-bridge {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "a command is needed, such as demo or serve; see amux-bridge --help"),
        (("watch", "task_1"), "the following arguments are required: --callback; see amux-bridge watch --help"),
        (("retry",), "one of the arguments DELIVERY_ID --dead is required; see amux-bridge retry --help"),
        (("retry", "evt_1", "--since", "1h"), "--since, --until, --host and --dry-run go with --dead"),
        (("listen", "--port", "99999"), "argument --port: '99999' is not a port from 0 to 65535"),
        (("listen", "--count", "0"), "argument --count: '0' is not a number from 1 on"),
        (("secret", "tell"), "argument new|show|rotate: invalid choice: 'tell'"),
        (("serve", "--sand"), "unrecognized arguments: --sand"),
    ],
)
def test_misuse_is_one_sentence_and_code_2(command: Command, arguments: tuple[str, ...], sentence: str) -> None:
    ended = command(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith(f"amux-bridge: {sentence}")
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["secret", "new"], ["watch", "--help"]])
def test_a_command_imports_nothing_that_it_does_not_use(arguments: list[str], tmp_path: Path) -> None:
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
