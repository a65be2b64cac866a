"""What the command line answers when a command, an option or a value does not exist: what the user may have meant."""

import pytest

from tests.cli.harness import Command


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lst", "list"),
        ("ls", "list"),
        ("Serve", "serve"),
        ("start", "serve"),
        ("staus", None),
        ("status", "show"),
        ("delete", "cancel"),
        ("resend", "retry"),
        ("healthcheck", "healthy"),
        ("version", "--version"),
        ("help", "--help"),
        ("x", None),
    ],
)
def test_an_unknown_command_names_the_one_that_was_meant(command: Command, typed: str, meant: str | None) -> None:
    question = f" (did you mean {meant}?)" if meant else ""
    result = command(typed)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"amux-bridge: there is no command {typed!r}{question}; see amux-bridge --help\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("check --jso", "check has no option --jso (did you mean --json?)"),
        ("check --output=json", "check has no option --output (did you mean --json?)"),
        ("watch --calback http://h task_1", "watch has no option --calback (did you mean --callback?)"),
        ("watch task_1 --url http://h", "watch has no option --url (did you mean --callback?)"),
        ("watch task_1 --callback http://h --follow", "watch has no option --follow (did you mean --wait?)"),
        ("list --stat active", "list has no option --stat (did you mean --state?)"),
        ("secret new --type signing-key", "secret has no option --type"),
        ("list -x", "list has no option -x"),
        ("check --version", "check has no option --version (did you mean amux-bridge --version?)"),
    ],
)
def test_an_unknown_option_names_the_one_that_was_meant(command: Command, arguments: str, sentence: str) -> None:
    result = command(*arguments.split())
    name = arguments.partition(" ")[0]
    assert (result.code, result.out) == (2, "")
    assert result.err == f"amux-bridge: {sentence}; see amux-bridge {name} --help\n"


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ("serve --port 9000", "BRIDGE_PORT"),
        ("serve -p 9000", "BRIDGE_PORT"),
        ("serve --port=9000", "BRIDGE_PORT"),
        ("serve --host 0.0.0.0", "BRIDGE_HOST"),
        ("serve --bind 0.0.0.0", "BRIDGE_HOST"),
        ("serve --log-level debug", "BRIDGE_LOG_LEVEL"),
        ("serve --verbose", "BRIDGE_LOG_LEVEL"),
        ("serve --database sqlite:///x.db", "BRIDGE_DATABASE_URL"),
        ("serve --database-url sqlite:///x.db", "BRIDGE_DATABASE_URL"),
        ("serve --token shop:secret", "BRIDGE_TOKENS"),
        ("serve --api-key sk-1", "AMUX_API_KEY"),
        ("serve --amux-base-url http://h", "AMUX_BASE_URL"),
        ("serve --callback-port 443", "BRIDGE_CALLBACK_PORTS"),
        ("serve --metrics-port 9", "BRIDGE_METRICS_PORT"),
        ("serve --bridge-drop-in true", "BRIDGE_DROP_IN"),
        ("serve --workers 4", "BRIDGE_DELIVERY_CONCURRENCY"),
        ("check --database x.db", "BRIDGE_DATABASE_URL"),
        ("list --port 9000", "BRIDGE_URL"),
        ("list --host 10.0.0.1", "BRIDGE_URL"),
        ("show wat_1 --server http://h", "BRIDGE_URL"),
        ("retry evt_1 --token t", "BRIDGE_TOKEN"),
        ("--port 9000 serve", "BRIDGE_PORT"),
    ],
)
def test_an_option_that_is_a_setting_here_names_the_variable(command: Command, arguments: str, setting: str) -> None:
    result = command(*arguments.split(), BRIDGE_LOG_FORMAT="console")
    assert (result.code, result.out) == (2, "")
    assert f": set {setting} in the environment or in .env; see amux-bridge" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--config", "--env-file", "-c"])
def test_an_option_for_a_file_of_settings_names_the_environment(command: Command, option: str) -> None:
    result = command("serve", option, "bridge.toml", BRIDGE_LOG_FORMAT="console")
    assert result.code == 2
    assert "settings are environment variables, or lines of .env in this folder" in result.err


def test_a_value_of_an_unknown_option_is_not_repeated(command: Command) -> None:
    for arguments in (["--api-key=sk-secret"], ["--api-key", "sk-secret"]):
        assert "sk-secret" not in command("serve", *arguments, BRIDGE_LOG_FORMAT="console").err


def test_a_command_that_reads_no_settings_names_none(command: Command) -> None:
    assert command("demo", "--port", "1").err == "amux-bridge: demo has no option --port; see amux-bridge demo --help\n"


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (
            "list --state actve",
            "argument --state: 'actve' is not one of active, settled, cancelled (did you mean active?)",
        ),
        (
            "list --outcome Complete",
            "'Complete' is not one of completed, failed, timed_out, unavailable (did you mean comp",
        ),
        ("secret sho", "'sho' is not one of new, show, rotate (did you mean show?)"),
        ("completion powershell", "'powershell' is not one of bash, zsh, fish; see"),
    ],
)
def test_an_unknown_value_names_the_possible_ones(command: Command, arguments: str, rule: str) -> None:
    result = command(*arguments.split())
    assert (result.code, result.out) == (2, "")
    assert rule in result.err


def test_values_that_begin_with_a_dash_are_no_options(command: Command) -> None:
    negative = command("watch", "task_1", "--callback", "http://h", "--timeout", "-5", BRIDGE_URL="http://127.0.0.1:9")
    assert "no connection to the bridge" in negative.err
    after_dashes = command("show", "--", "-task", BRIDGE_URL="http://127.0.0.1:9")
    assert "'-task' is no id" in after_dashes.err or "no connection to the bridge" in after_dashes.err
