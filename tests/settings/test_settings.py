"""Every setting: its name, its default, and the error for each kind of bad value."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from bridge.core.errors import BadSetting
from bridge.core.signing import SigningKey, new_secret
from bridge.settings.cautions import cautions
from bridge.settings.client import load_client
from bridge.settings.describing import describe
from bridge.settings.settings import Settings, load, secret_texts, unknown_names
from tests.settings.conftest import Load

SECRET = new_secret(b"a" * 32).text
OLDER = new_secret(b"b" * 32).text
KEY = SigningKey(b"k" * 32)
# A constant, because test names contain it and every pytest process must collect the same names.
FERNET = "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY="

DEFAULTS = """
AMUX_API_KEY=
AMUX_BASE_URL=https://api.amux.ai
AMUX_PROXY=
AMUX_BATCH=auto
AMUX_BATCH_SIZE=500
AMUX_BATCH_INTERVAL_SECONDS=2
AMUX_BATCH_CONCURRENCY=2
BRIDGE_HOST=127.0.0.1
BRIDGE_PORT=8080
BRIDGE_PUBLIC_URL=
BRIDGE_METRICS_HOST=0.0.0.0
BRIDGE_METRICS_PORT=
BRIDGE_TOKENS=
BRIDGE_OPERATOR_TOKENS=
BRIDGE_DATABASE_URL=sqlite:///bridge.db
BRIDGE_DATABASE_WAIT_SECONDS=30
BRIDGE_SIGNING_SECRETS=
BRIDGE_SIGNING_KEY=
BRIDGE_ENCRYPTION_KEYS=
BRIDGE_POLL_FIRST_DELAY_SECONDS=5
BRIDGE_POLL_INTERVAL_SECONDS=5
BRIDGE_POLL_MAX_INTERVAL_SECONDS=15
BRIDGE_POLL_BACKOFF=1.2
BRIDGE_POLL_CONCURRENCY=256
BRIDGE_POLL_RATE_PER_SECOND=0
BRIDGE_POLL_REQUEST_TIMEOUT_SECONDS=10
BRIDGE_POLL_LEARN=true
BRIDGE_WATCH_TIMEOUT_SECONDS=3600
BRIDGE_WATCH_MAX_TIMEOUT_SECONDS=86400
BRIDGE_MAX_ACTIVE_WATCHES=1000000
BRIDGE_MAX_ACTIVE_WATCHES_PER_APP=0
BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS=5,300,1800,7200,18000,36000,50400,72000,86400
BRIDGE_DELIVERY_TIMEOUT_SECONDS=15
BRIDGE_DELIVERY_CONCURRENCY=128
BRIDGE_DELIVERY_CONCURRENCY_PER_HOST=8
BRIDGE_CALLBACK_ALLOW_NETWORKS=
BRIDGE_CALLBACK_ALLOW_HOSTS=
BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS=
BRIDGE_CALLBACK_PORTS=
BRIDGE_CALLBACK_HTTPS_ONLY=false
BRIDGE_CONTENT_CACHE_BYTES=1073741824
BRIDGE_CONTENT_CACHE_FOLDER=
BRIDGE_CALLBACK_PROXY=
BRIDGE_CALLBACK_CLIENT_CERTIFICATE=
BRIDGE_CALLBACK_CLIENT_KEY=
BRIDGE_CALLBACK_CA_FILE=
BRIDGE_OPERATIONS_CALLBACK_URL=
BRIDGE_NOTIFY_URLS=
BRIDGE_CONTENT_LINK_SECONDS=604800
BRIDGE_DROP_IN=false
BRIDGE_RETENTION_SECONDS=2592000
BRIDGE_DRAIN_TIMEOUT_SECONDS=20
BRIDGE_LOG_LEVEL=INFO
BRIDGE_LOG_FORMAT=auto
"""


# --- names and defaults -------------------------------------------------------------------------------------------


def test_names_and_defaults_match_the_contract() -> None:
    assert "\n".join(f"{name}={default}" for name, default, _ in describe()) == DEFAULTS.strip()
    assert all(description.endswith(".") for _, _, description in describe())


def test_the_described_defaults_are_the_loaded_ones(read: Load) -> None:
    assert read(**{name: default for name, default, _ in describe() if default}) == read()


def test_an_empty_variable_counts_as_not_set(read: Load) -> None:
    assert read(**{name: "" for name, _, _ in describe()}) == Settings.model_construct()


def test_a_dotenv_file_is_read_and_the_environment_has_precedence(read: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_PORT=1111\nBRIDGE_LOG_LEVEL=debug\nOTHER=x\nAMUX_API_KEY=sk-file\n")
    settings = read(BRIDGE_PORT="2222")
    assert (settings.port, settings.log_level) == (2222, "DEBUG")
    assert settings.amux_api_key is not None
    assert settings.amux_api_key.get_secret_value() == "sk-file"


def test_overrides_replace_the_environment(read: Load) -> None:
    read(AMUX_BASE_URL="https://other.example", AMUX_API_KEY="sk-environment", BRIDGE_PORT="1")
    settings = load(amux_base_url="http://127.0.0.1:9/v1", amux_api_key="sk-override", port=2)
    assert settings.amux_api_key is not None
    assert settings.amux_api_key.get_secret_value() == "sk-override"
    assert (settings.amux_base_url, settings.port) == ("http://127.0.0.1:9", 2)
    with pytest.raises(TypeError, match="no such settings: prot"):
        load(prot=1)


# --- values -------------------------------------------------------------------------------------------------------


def test_lists_are_parsed(read: Load) -> None:
    settings = read(
        BRIDGE_TOKENS="shop:t-1, shop:t-2,web:t:3",
        BRIDGE_OPERATOR_TOKENS="ann:t-4",
        BRIDGE_SIGNING_SECRETS=f"{SECRET}, {OLDER}",
        BRIDGE_SIGNING_KEY=KEY.text,
        BRIDGE_ENCRYPTION_KEYS=FERNET,
        BRIDGE_CALLBACK_ALLOW_NETWORKS="127.0.0.0/8,::1/128,10.1.2.3",
        BRIDGE_CALLBACK_ALLOW_HOSTS="Example.com,*.example.org,[::1],127.0.0.1",
        BRIDGE_CALLBACK_PORTS="443, 8443",
        BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS="0.5,60",
    )
    assert settings.tokens == {"t-1": "shop", "t-2": "shop", "t:3": "web"}
    assert settings.operator_tokens == {"t-4": "ann"}
    assert [secret.text for secret in settings.signing_secrets] == [SECRET, OLDER]
    assert settings.signing_key == KEY
    assert settings.encryption_keys == (FERNET,)
    networks = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"), IPv4Network("10.1.2.3/32"))
    assert settings.callback_allow_networks == networks
    assert settings.callback_allow_hosts == ("example.com", "*.example.org", "[::1]", "127.0.0.1")
    assert settings.callback_ports == frozenset({443, 8443})
    assert settings.delivery_retry_delays_seconds == (0.5, 60.0)


def test_parsed_values_are_accepted_as_overrides(read: Load) -> None:
    settings = read(
        BRIDGE_TOKENS="shop:t-1",
        BRIDGE_SIGNING_SECRETS=SECRET,
        BRIDGE_SIGNING_KEY=KEY.text,
        BRIDGE_CALLBACK_ALLOW_NETWORKS="::1/128",
        BRIDGE_CALLBACK_PORTS="80",
        AMUX_API_KEY="sk-amux",
    )
    again = load(**{name: getattr(settings, name) for name in Settings.model_fields}, env_file=None)
    assert again == settings


def test_an_empty_retry_schedule_means_one_attempt(read: Load) -> None:
    assert read(BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS=" ").delivery_retry_delays_seconds == ()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("https://api.amux.ai/v1/", "https://api.amux.ai"),
        ("https://API.amux.ai/v1", "https://api.amux.ai"),
        ("http://127.0.0.1:9/", "http://127.0.0.1:9"),
        ("https://proxy.example/amux/v1", "https://proxy.example/amux"),
        ("https://proxy.example/amuxv1", "https://proxy.example/amuxv1"),
    ],
)
def test_v1_is_removed_from_amuxs_base_url(read: Load, text: str, parsed: str) -> None:
    assert read(AMUX_BASE_URL=text).amux_base_url == parsed


def test_the_final_slash_is_removed_from_the_public_url(read: Load) -> None:
    assert read(BRIDGE_PUBLIC_URL="https://Bridge.example/v1/").public_url == "https://bridge.example/v1"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_token(read: Load, host: str) -> None:
    assert read(BRIDGE_HOST=host).host == (host,)


@pytest.mark.parametrize("name", ["BRIDGE_TOKENS", "BRIDGE_OPERATOR_TOKENS"])
def test_either_kind_of_token_allows_other_addresses(read: Load, name: str) -> None:
    assert read(BRIDGE_HOST="0.0.0.0", **{name: "a:t-1"}).host == ("0.0.0.0",)  # noqa: S104  not bound


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSED = [
    ("AMUX_API_KEY", "sk with spaces", "visible ASCII"),
    ("AMUX_API_KEY", "sk-ä", "visible ASCII"),
    ("AMUX_BASE_URL", "api.amux.ai", "must be an http:// or https:// URL"),
    ("AMUX_BASE_URL", "https://user:pass@api.amux.ai", "must not contain a user"),
    ("AMUX_BASE_URL", "https://api.amux.ai?key=hidden", "must not contain a query"),
    ("AMUX_BASE_URL", "https://api.amux.ai:99999", "well-formed host and port"),
    ("BRIDGE_HOST", "0.0.0.0", "must be a loopback address"),  # noqa: S104  not bound
    ("BRIDGE_HOST", "128.0.0.1", "must be a loopback address"),
    ("BRIDGE_PORT", "65536", "must be less than or equal to 65535; found '65536'"),
    ("BRIDGE_PORT", "http", "must be a valid integer, unable to parse string as an integer; found 'http'"),
    ("BRIDGE_PUBLIC_URL", "ftp://bridge.example", "must be an http:// or https:// URL"),
    ("BRIDGE_TOKENS", "lonely-token", "entry 1: must be name:token"),
    ("BRIDGE_TOKENS", "a:token-1,,b:token-2", "entry 2 is empty"),
    ("BRIDGE_TOKENS", "a:token-1,b:", "entry 2: the token of b is empty"),
    ("BRIDGE_TOKENS", ":token-1", "must be name:token"),
    ("BRIDGE_TOKENS", "a:token-1,b:token-1", "entry 2 repeats the token of an earlier entry"),
    ("BRIDGE_TOKENS", "a:token 1", "the token of a must be at most 512"),
    ("BRIDGE_TOKENS", "a:tökén-1", "the token of a must be at most 512"),
    ("BRIDGE_OPERATOR_TOKENS", "a b:token-1", "must be name:token"),
    ("BRIDGE_DATABASE_URL", "postgres://user:hidden@host:99999/db", "must have a well-formed host and port"),
    ("BRIDGE_DATABASE_URL", "postgres://user:hidden@host/db?schema=mine", "the parameter schema is not known"),
    ("BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS", "app,*", "entry 2: '*' would let every name resolve to a private address"),
    (
        "BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS",
        "10.0.0.1",
        "entry 1: '10.0.0.1' is an address; addresses belong in BRIDGE_CALLBACK_ALLOW_NET",
    ),
    ("BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS", "http://app", "entry 1: 'http://app' is not a host name"),
    ("BRIDGE_CALLBACK_PROXY", "socks5://user:hidden@proxy:1080", "must be an http:// or https:// URL of a proxy"),
    ("AMUX_PROXY", "http://user:hidden@proxy:3128/path", "must have no path, query or fragment"),
    ("BRIDGE_DATABASE_URL", "mysql://user:hidden@host/db", "must be sqlite:///path or postgresql://user@host/name"),
    (
        "BRIDGE_DATABASE_URL",
        "postgresql+asyncpg://user:hidden@host/db",
        "must be sqlite:///path or postgresql://user@host/name",
    ),
    ("BRIDGE_DATABASE_URL", "bridge.db", "must be sqlite:///path"),
    ("BRIDGE_DATABASE_URL", "sqlite://", "must name a file"),
    ("BRIDGE_DATABASE_URL", "sqlite:///:memory:", "must name a file"),
    ("BRIDGE_SIGNING_SECRETS", "whsec_c2hvcnQ=", "entry 1: a signing secret must have 24 to 64 bytes; this one has 5"),
    ("BRIDGE_SIGNING_SECRETS", f"{SECRET},nothing-like-it", "entry 2: a signing secret must begin with whsec_"),
    ("BRIDGE_SIGNING_SECRETS", f"{SECRET},{SECRET}", "entry 2 is given twice"),
    ("BRIDGE_SIGNING_KEY", SECRET, "a signing key must begin with whsk_"),
    ("BRIDGE_ENCRYPTION_KEYS", "not-a-fernet-key", "entry 1: must be a Fernet key"),
    ("BRIDGE_ENCRYPTION_KEYS", f"{FERNET},{FERNET}", "entry 2 is given twice"),
    ("BRIDGE_POLL_FIRST_DELAY_SECONDS", "-1", "greater than or equal to 0"),
    ("BRIDGE_POLL_INTERVAL_SECONDS", "0", "greater than 0"),
    ("BRIDGE_POLL_INTERVAL_SECONDS", "nan", "finite number"),
    ("BRIDGE_POLL_INTERVAL_SECONDS", "16", "must not be greater than BRIDGE_POLL_MAX_INTERVAL_SECONDS"),
    ("BRIDGE_POLL_BACKOFF", "0.9", "greater than or equal to 1"),
    ("BRIDGE_POLL_CONCURRENCY", "0", "greater than or equal to 1"),
    ("BRIDGE_POLL_RATE_PER_SECOND", "-1", "greater than or equal to 0"),
    ("BRIDGE_POLL_RATE_PER_SECOND", "inf", "finite number"),
    ("BRIDGE_WATCH_TIMEOUT_SECONDS", "86401", "must not be greater than BRIDGE_WATCH_MAX_TIMEOUT_SECONDS"),
    ("BRIDGE_MAX_ACTIVE_WATCHES", "0", "greater than or equal to 1"),
    ("BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS", "5,0", "entry 2: '0' is not a number of seconds above 0"),
    ("BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS", "5,nan", "entry 2: 'nan' is not a number"),
    ("BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS", "inf", "entry 1: 'inf' is not a number"),
    ("BRIDGE_DELIVERY_RETRY_DELAYS_SECONDS", "5,", "entry 2 is empty"),
    ("BRIDGE_CALLBACK_ALLOW_NETWORKS", "10.0.0.1/8", "has host bits set; write 10.0.0.0/8"),
    ("BRIDGE_CALLBACK_ALLOW_NETWORKS", "loopback", "'loopback' is not a network"),
    ("BRIDGE_CALLBACK_ALLOW_HOSTS", "https://example.com", "is not a host name"),
    ("BRIDGE_CALLBACK_ALLOW_HOSTS", "ex*mple.com", "is not a host name"),
    ("BRIDGE_CALLBACK_PORTS", "0", "'0' is not a port"),
    ("BRIDGE_CALLBACK_PORTS", "80-90", "'80-90' is not a port"),
    ("BRIDGE_CALLBACK_PORTS", " ", "must contain a port"),
    ("BRIDGE_CALLBACK_HTTPS_ONLY", "perhaps", "must be a valid boolean"),
    ("BRIDGE_RETENTION_SECONDS", "1e300", "less than or equal to"),
    ("BRIDGE_LOG_LEVEL", "loud", "must be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'; found 'LOUD'"),
    ("BRIDGE_LOG_FORMAT", "xml", "must be 'json', 'console' or 'auto'; found 'xml'"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_setting(
    read: Load, name: str, value: str, reason: str
) -> None:
    with pytest.raises(BadSetting) as refused:
        read(**{name: value})
    [sentence] = str(refused.value).splitlines()
    assert sentence.startswith(f"{name}: ")
    assert reason in sentence
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


MAY_HOLD_SECRETS = ("KEY", "TOKENS", "SECRETS", "DATABASE_URL", "BASE_URL")


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, value, _ in REFUSED if name.endswith(MAY_HOLD_SECRETS)]
)
def test_no_error_repeats_a_secret(read: Load, name: str, value: str) -> None:
    with pytest.raises(BadSetting) as refused:
        read(**{name: value})
    message = str(refused.value)
    secrets = [entry.rpartition(":")[2].strip() for entry in value.split(",")]
    assert not [secret for secret in secrets if len(secret) >= 6 and secret in message]
    assert "hidden" not in message


def test_each_bad_setting_gets_a_line(read: Load) -> None:
    with pytest.raises(BadSetting) as refused:
        read(BRIDGE_PORT="x", BRIDGE_LOG_FORMAT="y", AMUX_BASE_URL="z")
    names = [line.partition(":")[0] for line in str(refused.value).splitlines()]
    assert names == ["AMUX_BASE_URL", "BRIDGE_PORT", "BRIDGE_LOG_FORMAT"]


def test_a_token_cannot_be_an_apps_and_an_operators(read: Load) -> None:
    with pytest.raises(BadSetting, match="BRIDGE_OPERATOR_TOKENS: contains a token that BRIDGE_TOKENS contains"):
        read(BRIDGE_TOKENS="a:same-token", BRIDGE_OPERATOR_TOKENS="b:same-token")


def test_postgresql_needs_encryption_keys(read: Load) -> None:
    with pytest.raises(BadSetting, match="BRIDGE_ENCRYPTION_KEYS: must be set with PostgreSQL"):
        read(BRIDGE_DATABASE_URL="postgresql://host/bridge")
    assert read(BRIDGE_ENCRYPTION_KEYS=FERNET).database_url == "postgresql://host/bridge"


def test_an_unreadable_dotenv_file_is_reported_by_name(read: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"BRIDGE_PORT=\xff\n")
    with pytest.raises(BadSetting, match=r"\.env: cannot be read: it is not UTF-8"):
        read()


# --- secrets, typos and warnings ----------------------------------------------------------------------------------


def test_reprs_contain_no_secret_and_secret_texts_contains_all(read: Load) -> None:
    settings = read(
        AMUX_API_KEY="sk-amux",
        BRIDGE_TOKENS="a:token-1",
        BRIDGE_OPERATOR_TOKENS="b:token-2",
        BRIDGE_SIGNING_SECRETS=SECRET,
        BRIDGE_SIGNING_KEY=KEY.text,
        BRIDGE_ENCRYPTION_KEYS=FERNET,
        BRIDGE_DATABASE_URL="postgresql://user:p%40ssword@host/db",
    )
    texts = {"sk-amux", "token-1", "token-2", SECRET, KEY.text, KEY.seed_text, FERNET, "p%40ssword", "p@ssword"}
    assert set(secret_texts(settings)) == texts
    assert not [text for text in texts if text in repr(settings) or text in str(settings)]
    assert secret_texts(Settings.model_construct()) == []


def test_unknown_names_are_found(read: Load, tmp_path: Path) -> None:
    assert unknown_names({"BRIDGE_PROT": "1", "bridge_port": "1", "PATH": "", "BRIDGE_TOKEN": "", "AMUX_X": ""}) == [
        "AMUX_X",
        "BRIDGE_PROT",
    ]
    (tmp_path / ".env").write_text("BRIDGE_FILE_TYPO=1\nBRIDGE_PORT=1\n")
    read(BRIDGE_OTHER_TYPO="1")
    assert unknown_names() == ["BRIDGE_FILE_TYPO", "BRIDGE_OTHER_TYPO"]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("https://api.amux.ai", False),
        ("http://api.amux.ai", True),
        ("http://8.8.8.8", True),
        ("http://127.0.0.1:9", False),
        ("http://[::1]:9", False),
        ("http://10.0.0.1", False),
        ("http://localhost", False),
        ("http://sandbox", False),
        ("http://amux.internal", False),
    ],
)
def test_plain_http_to_a_public_host_gets_a_warning(read: Load, url: str, warned: bool) -> None:  # noqa: FBT001  a table
    found = cautions(read(AMUX_BASE_URL=url, BRIDGE_TOKENS="a:token-1"))
    assert [sentence.partition(" ")[0] for sentence in found] == ["AMUX_BASE_URL"] * warned


def test_having_no_token_gets_a_warning(read: Load) -> None:
    assert [sentence.partition(":")[0] for sentence in cautions(read())] == ["no token is configured"]


def test_commands_use_the_given_url_and_token(read: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    read()
    monkeypatch.setenv("BRIDGE_URL", "https://bridge.example/")
    monkeypatch.setenv("BRIDGE_TOKEN", "token-9")
    monkeypatch.setenv("BRIDGE_PORT", "not read")
    client = load_client()
    assert client.url == "https://bridge.example"
    assert client.token is not None
    assert client.token.get_secret_value() == "token-9"
    assert "token-9" not in repr(client)
    monkeypatch.setenv("BRIDGE_URL", "nowhere")
    with pytest.raises(BadSetting, match="BRIDGE_URL: must be an http"):
        load_client()


@pytest.mark.parametrize(
    ("host", "url"),
    [("0.0.0.0", "http://127.0.0.1:81"), ("::", "http://127.0.0.1:81"), ("localhost", "http://localhost:81")],  # noqa: S104
)
def test_commands_use_the_bridges_own_host_port_and_token_otherwise(read: Load, host: str, url: str) -> None:
    read(BRIDGE_HOST=host, BRIDGE_PORT="81", BRIDGE_TOKENS="a:token-1,b:token-2")
    client = load_client()
    assert client.token is not None
    assert (client.url, client.token.get_secret_value()) == (url, "token-1")


def test_commands_need_a_url_if_the_port_is_not_known(read: Load) -> None:
    read(BRIDGE_PORT="0")
    with pytest.raises(BadSetting, match="BRIDGE_URL: must be set"):
        load_client()
