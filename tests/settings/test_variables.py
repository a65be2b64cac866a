"""Where settings come from: files, quotes, `.env`, names that are no setting, and Kubernetes' service links."""

import os
import socket
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from bridge.core.errors import BadSetting
from bridge.settings.cautions import variable_cautions
from bridge.settings.client import load_client
from bridge.settings.describing import describe
from bridge.settings.settings import Settings, known_names, load, load_to_serve, unknown_names
from bridge.settings.variables import cleaned
from tests.settings.test_settings import FERNET, SECRET

Set = Callable[..., None]


@pytest.fixture(autouse=True)
def setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Set:
    """Returns a function that sets variables. The folder is empty, and no other variable of the bridge is set."""
    for name in list(os.environ):
        if name.upper().startswith(("BRIDGE_", "AMUX_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


def dotenv(tmp_path: Path, text: str) -> None:
    (tmp_path / ".env").write_text(text)


# --- files --------------------------------------------------------------------------------------------------------

EXAMPLES = {
    "AMUX_API_KEY": "sk-amux",
    "AMUX_BASE_URL": "https://proxy.example",
    "BRIDGE_TOKENS": "shop:token-1",
    "BRIDGE_OPERATOR_TOKENS": "ann:token-2",
    "BRIDGE_DATABASE_URL": "sqlite:///other.db",
    "BRIDGE_SIGNING_SECRETS": SECRET,
    "BRIDGE_ENCRYPTION_KEYS": FERNET,
    "BRIDGE_CALLBACK_ALLOW_NETWORKS": "10.0.0.0/8",
    "BRIDGE_PORT": "81",
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_setting_can_come_from_a_file(setting: Set, tmp_path: Path, name: str, end: str) -> None:
    setting(**{name: EXAMPLES[name]})
    expected = load()
    (tmp_path / "value").write_bytes(f"{EXAMPLES[name]}{end}".encode())
    setting(**{name: "", f"{name}_FILE": str(tmp_path / "value")})
    assert load() == expected


def test_every_setting_can_come_from_a_file(setting: Set, tmp_path: Path) -> None:
    for name, default, _ in describe():
        if default and not f"{name}_FILE".endswith("_FILE_FILE"):
            (tmp_path / name).write_text(default)
            setting(**{f"{name}_FILE": str(tmp_path / name)})
    assert load() == Settings.model_construct()
    assert unknown_names() == []


def test_the_commands_token_and_url_can_come_from_files(setting: Set, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("token-9\n")
    (tmp_path / "url").write_text("https://bridge.example/\n")
    setting(BRIDGE_TOKEN_FILE=str(tmp_path / "token"), BRIDGE_URL_FILE=str(tmp_path / "url"))
    client = load_client()
    assert client.token is not None
    assert (client.url, client.token.get_secret_value()) == ("https://bridge.example", "token-9")


def test_a_value_and_a_file_for_one_setting_stop_the_start(setting: Set, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("shop:token-1")
    setting(BRIDGE_TOKENS="shop:token-2", BRIDGE_TOKENS_FILE=str(tmp_path / "tokens"))
    with pytest.raises(BadSetting, match="^BRIDGE_TOKENS_FILE: must not be set together with BRIDGE_TOKENS$"):
        load()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b'""\n', "is empty"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_a_file_that_has_no_value_stops_the_start(
    setting: Set, tmp_path: Path, content: bytes | None, rule: str
) -> None:
    if content is not None:
        (tmp_path / "tokens").write_bytes(content)
    setting(BRIDGE_HOST="0.0.0.0", BRIDGE_TOKENS_FILE=str(tmp_path / "tokens"))  # noqa: S104  not bound
    with pytest.raises(BadSetting) as refused:
        load()
    assert str(refused.value) == f"BRIDGE_TOKENS_FILE: the file {tmp_path}/tokens {rule}"


def test_a_folder_and_an_endless_file_stop_the_start(setting: Set, tmp_path: Path) -> None:
    setting(BRIDGE_PUBLIC_URL_FILE=str(tmp_path), BRIDGE_LOG_LEVEL_FILE="/dev/zero")
    with pytest.raises(BadSetting) as refused:
        load()
    assert sorted(str(refused.value).splitlines()) == [
        "BRIDGE_LOG_LEVEL_FILE: the file /dev/zero is larger than 1 MiB",
        f"BRIDGE_PUBLIC_URL_FILE: the file {tmp_path} cannot be read: Is a directory",
    ]


def test_no_error_repeats_the_content_of_a_file(setting: Set, tmp_path: Path) -> None:
    (tmp_path / "mistaken").write_text("hunter2")
    setting(BRIDGE_PORT_FILE=str(tmp_path / "mistaken"))
    with pytest.raises(BadSetting) as refused:
        load()
    assert str(refused.value).startswith("BRIDGE_PORT: must be a valid integer")
    assert "hunter2" not in str(refused.value)


# --- white space, quotes, spellings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (' "a" ', "a"),
        ("'a'", "a"),
        ('" a "', "a"),
        ('"a', '"a'),
        ("\"a'", "\"a'"),
        ('"a","b"', '"a","b"'),
        ("'", "'"),
        ("a\n", "a"),
        ('""', None),
    ],
)
def test_white_space_and_one_pair_of_quotes_are_removed(value: str, text: str | None) -> None:
    assert cleaned(value) == text


def test_values_of_docker_env_files_are_read(setting: Set) -> None:
    setting(
        BRIDGE_PORT=' "81" ',
        BRIDGE_TOKENS="'shop:token-1'",
        BRIDGE_DROP_IN='"TRUE"',
        BRIDGE_CALLBACK_ALLOW_NETWORKS='"127.0.0.0/8, ::1/128"',
        BRIDGE_PUBLIC_URL='""',
    )
    settings = load()
    assert (settings.port, settings.tokens, settings.drop_in) == (81, {"token-1": "shop"}, True)
    assert settings.callback_allow_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.public_url is None


@pytest.mark.parametrize(
    ("text", "level"),
    [("warn", "WARNING"), ("Warn", "WARNING"), ("fatal", "CRITICAL"), ("err", "ERROR"), ("debug", "DEBUG")],
)
def test_everyday_names_of_levels_are_taken(setting: Set, text: str, level: str) -> None:
    setting(BRIDGE_LOG_LEVEL=text)
    assert load().log_level == level


@pytest.mark.parametrize(("text", "fmt"), [("JSON", "json"), ("Console", "console"), ("text", "console")])
def test_everyday_names_of_formats_are_taken(setting: Set, text: str, fmt: str) -> None:
    setting(BRIDGE_LOG_FORMAT=text)
    assert load().log_format == fmt


@pytest.mark.parametrize("text", ["none", "None", ' "NONE" '])
def test_no_retry_delays_mean_one_attempt(setting: Set, text: str) -> None:
    setting(BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS=text)
    assert load().delivery_retry_delays_seconds == ()


@pytest.mark.parametrize(("text", "mode"), [("OFF", "off"), (" Auto ", "auto"), ("false", "off"), ("1", "auto")])
def test_the_batch_lane_is_switched_with_everyday_words(setting: Set, text: str, mode: str) -> None:
    setting(AMUX_BATCH=text)
    assert load().amux_batch == mode


def test_hosts_are_a_list(setting: Set) -> None:
    setting(BRIDGE_HOST="127.0.0.1, [::1],localhost,127.0.0.1")
    assert load().host == ("127.0.0.1", "::1", "localhost")
    setting(BRIDGE_HOST="127.0.0.1,10.0.0.1")
    with pytest.raises(BadSetting, match="^BRIDGE_HOST: must be a loopback address"):
        load()


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("::", "http://127.0.0.1:8080"),
        ("*", "http://127.0.0.1:8080"),
        ("0:0::0", "http://127.0.0.1:8080"),
        ("10.0.0.1,::1", "http://[::1]:8080"),
        ("10.0.0.1,0.0.0.0", "http://127.0.0.1:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
    ],
)
def test_commands_find_a_bridge_that_listens_on_a_list(setting: Set, hosts: str, url: str) -> None:
    setting(BRIDGE_HOST=hosts, BRIDGE_TOKENS="shop:token-1")
    assert load_client().url == url


def test_the_second_listener_needs_a_port_of_its_own(setting: Set) -> None:
    setting(BRIDGE_METRICS_PORT="8080")
    with pytest.raises(BadSetting, match="^BRIDGE_METRICS_PORT: must not be the same as BRIDGE_PORT$"):
        load()
    setting(BRIDGE_METRICS_PORT="9090")
    assert (load().metrics_host, load().metrics_port) == (("0.0.0.0",), 9090)  # noqa: S104  not bound


# --- names that are no setting ------------------------------------------------------------------------------------

LINKS = [
    "BRIDGE_SERVICE_HOST",
    "BRIDGE_SERVICE_PORT",
    "BRIDGE_SERVICE_PORT_HTTP",
    "BRIDGE_API_PORT",
    "BRIDGE_TOKEN_STORE_PORT_8080_TCP",
    "BRIDGE_SECRET_SERVICE_HOST",
    "BRIDGE_PORT_8080_TCP_PROTO",
    "BRIDGE_PORT_8080_TCP_PORT",
    "BRIDGE_PORT_53_UDP_ADDR",
    "BRIDGE_PORT_53_SCTP",
    "AMUX_PORT",
    "AMUX_KEYS_SERVICE_PORT_WEB_1",
]


@pytest.mark.parametrize("name", LINKS)
def test_kubernetes_service_links_are_passed_over_in_silence(setting: Set, name: str) -> None:
    setting(**{name: "tcp://10.96.0.1:8080"})
    load_to_serve()
    assert variable_cautions() == []


@pytest.mark.parametrize(("name", "service"), [("BRIDGE_PORT", "bridge"), ("BRIDGE_METRICS_PORT", "bridge-metrics")])
def test_a_service_link_in_place_of_a_port_is_explained(setting: Set, name: str, service: str) -> None:
    setting(**{name: "tcp://10.96.0.1:8080"})
    with pytest.raises(BadSetting) as refused:
        load()
    [sentence] = str(refused.value).splitlines()
    assert sentence.startswith(f"{name}: 'tcp://10.96.0.1:8080' is what Kubernetes sets for a Service named")
    assert f'"{service}"' in sentence


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("BRIDGE_PROT", "BRIDGE_PORT"),
        ("BRIDGE_LOGLEVEL", "BRIDGE_LOG_LEVEL"),
        ("AMUX_BASE_URI", "AMUX_BASE_URL"),
        ("BRIDGE_DATABASE_URI_FILE", "BRIDGE_DATABASE_URL_FILE"),
        ("BRIDGE_COLOUR", "BRIDGE_URL"),
        ("BRIDGE_WORKERS", "BRIDGE_TOKENS"),
        ("BRIDGE_CALLBACK_CLIENT_CERT", "BRIDGE_CALLBACK_CLIENT_KEY"),
    ],
)
def test_an_unknown_name_is_warned_of_with_the_nearest_one(setting: Set, name: str, near: str) -> None:
    setting(**{name: "x"})
    load_to_serve()
    [sentence] = variable_cautions()
    assert sentence.startswith(f"{name} is not a setting")
    assert sentence.endswith(f"The nearest name is {near}")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("BRIDGE_TOKNES_TOKEN", "BRIDGE_TOKEN"),
        ("BRIDGE_APP_TOKENS", "BRIDGE_TOKENS"),
        ("BRIDGE_SIGNING_SECRET", "BRIDGE_SIGNING_SECRETS"),
        ("BRIDGE_ENCRYPTION_KEY_FILE", "BRIDGE_ENCRYPTION_KEYS_FILE"),
        ("AMUX_KEY", "AMUX_API_KEY"),
        ("BRIDGE_TOKNES", "BRIDGE_TOKENS"),
        ("BRIDGE_TOKNS_FILE", "BRIDGE_TOKENS_FILE"),
        ("AMUX_API_KYE", "AMUX_API_KEY"),
        ("BRIDGE_SIGNING_SECERTS", "BRIDGE_SIGNING_SECRETS"),
        ("BRIDGE_OPERATOR_TOKNS", "BRIDGE_OPERATOR_TOKENS"),
    ],
)
def test_an_unknown_name_of_a_secret_stops_the_start_of_the_service(setting: Set, name: str, near: str) -> None:
    setting(**{name: "hunter2"})
    load()  # commands that do not serve still work
    with pytest.raises(BadSetting) as refused:
        load_to_serve()
    assert str(refused.value) == f"{name}: is not a setting of this bridge; the nearest one is {near}"
    setting(BRIDGE_PORT="x")
    with pytest.raises(BadSetting) as both:
        load_to_serve()
    assert [line.partition(":")[0] for line in str(both.value).splitlines()] == ["BRIDGE_PORT", name]


def test_the_commands_own_names_are_known(setting: Set) -> None:
    setting(BRIDGE_URL="https://bridge.example", BRIDGE_TOKEN="token-1", BRIDGE_TOKEN_FILE="x")
    load_to_serve()
    assert variable_cautions() == []
    assert {"BRIDGE_URL", "BRIDGE_TOKEN"} < set(known_names())


# --- .env ---------------------------------------------------------------------------------------------------------


def test_a_difference_between_the_environment_and_dotenv_is_said(setting: Set, tmp_path: Path) -> None:
    dotenv(
        tmp_path,
        "BRIDGE_DATABASE_URL=sqlite:///one.db\nBRIDGE_TOKENS=a:token-1\nBRIDGE_ENCRYPTION_KEYS=x\nBRIDGE_PORT=1\n",
    )
    setting(
        BRIDGE_DATABASE_URL="sqlite:///two.db",
        BRIDGE_TOKENS="a:token-2",
        BRIDGE_ENCRYPTION_KEYS=FERNET,
        BRIDGE_PORT=' "1" ',
    )
    assert load().database_url == "sqlite:///two.db"
    [sentence] = variable_cautions()
    assert sentence == (
        "the environment and .env set different values of BRIDGE_TOKENS, BRIDGE_DATABASE_URL, BRIDGE_ENCRYPTION_KEYS: "
        "the environment is used"
    )


def test_a_dotenv_that_cannot_be_read_is_as_none_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv(tmp_path, "BRIDGE_PORT=1\n")

    def refuse(self: Path, *_: object, **__: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refuse)
        assert load().port == 8080
        assert variable_cautions() == [".env cannot be read and is not used: Permission denied"]
    assert load().port == 1


def test_a_folder_in_place_of_dotenv_is_as_none_and_said(tmp_path: Path) -> None:
    """A container engine makes a folder if the file to mount does not exist."""
    (tmp_path / ".env").mkdir()
    assert load() == Settings.model_construct()
    assert variable_cautions() == [".env is a folder and is not read"]


def test_a_line_of_dotenv_that_cannot_be_parsed_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    dotenv(tmp_path, 'BRIDGE_PORT=81\nBRIDGE_TOKENS="a:token-1\nBRIDGE_LOG_LEVEL=debug\n')
    assert load().port == 81
    assert variable_cautions() == [".env has lines that cannot be parsed and are not used: line 2"]
    assert capfd.readouterr() == ("", "")


def test_a_dotenv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfBRIDGE_PORT=81\r\n")
    assert load().port == 81


def test_a_dotenv_that_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / ".env"))
        assert load() == Settings.model_construct()
    (tmp_path / ".env").unlink()
    os.mkfifo(tmp_path / ".env")
    assert load() == Settings.model_construct()
