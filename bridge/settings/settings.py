"""Every setting: its name, its default, its description, its rules, and the error when a rule is broken.

Only this folder reads settings from the environment (`watch` and `listen` also resolve `env:NAME` arguments). The names
of settings for amux begin with `AMUX_`, all others with `BRIDGE_`. A `.env` file in the working folder is read too; the
environment has precedence. An empty value means that the setting is not set. `variables.py` finds the values,
`parsers.py` parses them.
"""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from bridge.core.batch_lane import BatchPolicy
from bridge.core.database_url import passwords
from bridge.core.errors import BadSetting
from bridge.core.schedule import PollPolicy, RetryPolicy
from bridge.core.signing import Secret, SigningKey
from bridge.core.targets import Network, is_loopback
from bridge.settings import parsers, variables
from bridge.settings.reading import PREFIX, GivenValues, read_model
from bridge.settings.variables import read_variables

ENV_FILE: Final = Path(".env")
CLIENT_NAMES: Final = ("BRIDGE_URL", "BRIDGE_TOKEN")  # settings of the commands that use a running bridge
_TEN_YEARS: Final = 315_360_000  # far longer than any real timeout or retention, and valid for datetime
_POLL_DEFAULTS: Final = PollPolicy()
_BATCH_DEFAULTS: Final = BatchPolicy()
_RETRY_DEFAULTS: Final = RetryPolicy()

EnvFile: TypeAlias = str | Path | None
# NoDecode must be outside of every union: inside one, pydantic-settings parses "80" as JSON before our parser sees it.
Tokens = Annotated[Mapping[str, str], NoDecode, PlainValidator(parsers.tokens)]
Hosts = Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.hosts)]
Url = Annotated[str, PlainValidator(parsers.http_url)]
Seconds = Annotated[float, Field(gt=0, le=_TEN_YEARS)]


class Settings(GivenValues):
    """The settings of a bridge, parsed. Frozen; its repr shows no secret."""

    model_config = SettingsConfigDict(
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    amux_api_key: Annotated[SecretStr, BeforeValidator(parsers.api_key)] | None = Field(
        None,
        validation_alias="AMUX_API_KEY",
        repr=False,
        description="The amux key for polling tasks; without it, each watch needs its own `api_key`.",
    )
    amux_base_url: Annotated[str, PlainValidator(parsers.amux_url)] = Field(
        "https://api.amux.ai",
        validation_alias="AMUX_BASE_URL",
        repr=False,
        description="The base URL of amux; a trailing `/v1` is removed.",
    )
    amux_proxy: Annotated[str, PlainValidator(parsers.proxy_url)] | None = Field(
        None,
        validation_alias="AMUX_PROXY",
        repr=False,
        description="An http(s) proxy to amux: `http://user:password@proxy.example:3128`. Proxies of the environment "
        "(`HTTPS_PROXY`) are not used.",
    )
    amux_batch: Annotated[Literal["auto", "off"], BeforeValidator(parsers.batch_mode)] = Field(
        "auto",
        validation_alias="AMUX_BATCH",
        description="`auto`: many tasks are read with one request, if amux's batch route works; `off`: each task is "
        "read with a request of its own.",
    )
    amux_batch_size: int = Field(
        _BATCH_DEFAULTS.size,
        ge=1,
        le=10_000,
        validation_alias="AMUX_BATCH_SIZE",
        description="The most tasks that are read with one request; fewer if answers are larger than 1 MiB.",
    )
    amux_batch_interval_seconds: float = Field(
        _BATCH_DEFAULTS.interval,
        gt=0,
        le=86_400,
        validation_alias="AMUX_BATCH_INTERVAL_SECONDS",
        description="The time between two reads of a task in batches; longer if batches would be more requests, or "
        "more work for amux, than single reads.",
    )
    amux_batch_concurrency: int = Field(
        _BATCH_DEFAULTS.concurrency,
        ge=1,
        le=1_000,
        validation_alias="AMUX_BATCH_CONCURRENCY",
        description="The most batches in progress at a time, in addition to `BRIDGE_POLL_CONCURRENCY`.",
    )

    host: Hosts = Field(
        ("127.0.0.1",),
        description="The addresses to listen on; `::` listens on IPv4 as well. Without tokens they must be loopback "
        "addresses.",
    )
    port: int = Field(8080, ge=0, le=65_535, description="The port to listen on; 0 selects any free port and logs it.")
    public_url: Url | None = Field(
        None,
        repr=False,
        description="The base URL of this bridge for receivers; if set, `content_url` is a signed link to this bridge.",
    )
    metrics_host: Hosts = Field(
        ("0.0.0.0",),  # noqa: S104  it serves no data of apps
        description="The addresses of the listener for metrics and probes.",
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="If set, the port of a second listener, with only `/metrics`, `/healthz` and `/readyz`; 0 selects "
        "any free port and logs it.",
    )
    tokens: Tokens = Field(
        {}, repr=False, description="The apps that may use the API: `app:token,...`; an app may have several tokens."
    )
    operator_tokens: Tokens = Field(
        {},
        repr=False,
        description="Operators, who see, cancel and resend every app's watches but register none: `name:token,...`.",
    )
    database_url: Annotated[str, PlainValidator(parsers.database_url)] = Field(
        "sqlite:///bridge.db",
        repr=False,
        description="`sqlite:///path` (for one process) or `postgresql://user:password@host/name` (for several). All "
        "forms of libpq are accepted: several hosts, `@%2Fsocket%2Ffolder`, `?sslmode=verify-full&sslrootcert=...`.",
    )
    database_wait_seconds: float = Field(
        30, ge=0, le=86_400, description="How long a start waits for a PostgreSQL server that does not answer yet."
    )
    signing_secrets: Annotated[tuple[Secret, ...], NoDecode, PlainValidator(parsers.signing_secrets)] = Field(
        (),
        repr=False,
        description="`whsec_...` secrets that sign callbacks, current first; if none is set, the bridge makes one.",
    )
    signing_key: Annotated[SigningKey | None, NoDecode, PlainValidator(parsers.signing_key)] = Field(
        None, repr=False, description="A `whsk_...` Ed25519 key; each callback then has a `v1a` signature too."
    )
    encryption_keys: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.fernet_keys)] = Field(
        (),
        repr=False,
        description="Fernet keys that encrypt stored secrets, newest first; if none is set, the key in the file "
        "`bridge.key` beside the SQLite file is used. Required with PostgreSQL.",
    )

    poll_first_delay_seconds: float = Field(
        _POLL_DEFAULTS.first_delay, ge=0, le=86_400, description="The time from registration to a task's first poll."
    )
    poll_interval_seconds: float = Field(
        _POLL_DEFAULTS.interval, gt=0, le=86_400, description="The time from a task's first poll to its second."
    )
    poll_max_interval_seconds: float = Field(
        _POLL_DEFAULTS.max_interval, gt=0, le=86_400, description="The longest time between two polls of a task."
    )
    poll_backoff: float = Field(
        _POLL_DEFAULTS.backoff, ge=1, le=100, description="The factor by which the time between polls grows."
    )
    poll_concurrency: int = Field(256, ge=1, le=100_000, description="The most polls in progress at a time.")
    poll_rate_per_second: float = Field(
        0, ge=0, description="The most polls that start in a second, batches included; 0: no limit."
    )
    poll_request_timeout_seconds: float = Field(
        10, gt=0, le=3_600, description="The longest time that one poll may take."
    )
    poll_learn: bool = Field(
        default=True,
        description="Whether tasks are polled when tasks of their class (platform and model) tend to end; "
        "otherwise they are polled on the fixed schedule.",
    )
    watch_timeout_seconds: Seconds = Field(
        3_600, description="The time until a watch times out, if its app does not set one."
    )
    watch_max_timeout_seconds: Seconds = Field(86_400, description="The longest timeout that an app may set.")
    max_active_watches: int = Field(
        1_000_000, ge=1, description="The most active watches; above it, registering is answered with 429."
    )
    max_active_watches_per_app: int = Field(
        0,
        ge=0,
        description="The most active watches of one app; above it, registering is answered with 429; 0: no limit.",
    )

    delivery_retry_delays_seconds: Annotated[tuple[float, ...], NoDecode, PlainValidator(parsers.retry_delays)] = Field(
        _RETRY_DEFAULTS.delays,
        description="The times between the attempts of a delivery; after the last attempt the delivery is dead. "
        "`none`: one attempt.",
    )
    delivery_timeout_seconds: float = Field(
        15, gt=0, le=3_600, description="The longest time that one attempt may take."
    )
    delivery_concurrency: int = Field(128, ge=1, le=100_000, description="The most attempts in progress at a time.")
    delivery_concurrency_per_host: int = Field(
        8, ge=1, le=100_000, description="The most attempts in progress at a time to one host and port."
    )
    callback_allow_networks: Annotated[tuple[Network, ...], NoDecode, PlainValidator(parsers.networks)] = Field(
        (),
        description="Networks (CIDR) that are not public and that callbacks may go to; a sidecar sets "
        "`127.0.0.0/8,::1/128`.",
    )
    callback_allow_hosts: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.host_patterns)] = Field(
        (), description="If set, the only hosts that callbacks may go to: exact names or `*.example.com`."
    )
    callback_allow_private_hosts: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.private_hosts)] = Field(
        (),
        description="Names (exact, or `*.svc.cluster.local`) that callbacks may go to even if they resolve to private, "
        "CGNAT or loopback addresses, for containers whose addresses change.",
    )
    callback_ports: Annotated[frozenset[int] | None, NoDecode, PlainValidator(parsers.ports)] = Field(
        None, description="If set, the only ports that callbacks may go to."
    )
    callback_https_only: bool = Field(
        default=False, description="Whether plain http is refused outside of `BRIDGE_CALLBACK_ALLOW_NETWORKS`."
    )
    content_cache_bytes: int = Field(
        1_073_741_824,
        ge=0,
        description="The largest size of all files into which videos are read from amux, so that readers can be slow; "
        "0: no files, each video is passed through from amux.",
    )
    content_cache_folder: Annotated[Path, BeforeValidator(parsers.folder)] | None = Field(
        None,
        description="The folder of these files; if not set, `content` beside the SQLite file, or with PostgreSQL the "
        "system's temporary folder. It is used only while 10 % and 256 MiB of its disk stay free.",
    )
    callback_proxy: Annotated[str, PlainValidator(parsers.proxy_url)] | None = Field(
        None,
        repr=False,
        description="An http(s) proxy for callbacks: `http://user:password@proxy.example:3128`. The bridge checks the "
        "target; the proxy gets a `CONNECT` to the checked address, both for http and for https.",
    )
    callback_client_certificate: Path | None = Field(
        None, description="A PEM file with the client certificate for receivers that require one (mutual TLS)."
    )
    callback_client_key: Path | None = Field(
        None, description="The PEM file with the certificate's key, if the certificate's file does not contain it."
    )
    callback_ca_file: Path | None = Field(
        None, description="A PEM file with CAs to trust for receivers, in addition to those of the system."
    )
    operations_callback_url: Annotated[str, PlainValidator(parsers.callback_url)] | None = Field(
        None,
        repr=False,
        description="A callback URL for operators. It gets a signed event when a receiver fails, recovers, is paused "
        "or resumed, when deliveries become dead, and when amux refuses or accepts a key.",
    )
    notify_urls: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.notify_urls)] = Field(
        (),
        repr=False,
        description="URLs of the `apprise` library (Slack, Discord, DingTalk, Feishu, e-mail, ...) that get each of "
        "these notices as one sentence, best effort. Needs the extra `notify`.",
    )
    content_link_seconds: Seconds = Field(604_800, description="How long the signed link in `content_url` is valid.")
    drop_in: bool = Field(
        default=False,
        description="Whether `POST /v1/videos` and related routes are passed to amux, with the whole account's rights.",
    )
    retention_seconds: Seconds = Field(2_592_000, description="How long a finished watch is kept.")
    drain_timeout_seconds: float = Field(
        20, ge=0, le=3_600, description="How long a stopping bridge waits for work in progress."
    )
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(parsers.log_level)
    ] = Field("INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case; `warn` is WARNING.")
    log_format: Annotated[Literal["json", "console", "auto"], BeforeValidator(parsers.log_format)] = Field(
        "auto",
        description="`json` (one object per line), `console` (for people), or `auto`: `console` on a terminal, else "
        "`json`.",
    )

    @model_validator(mode="after")
    def _check_conflicts(self) -> "Settings":
        if conflicts := list(_conflicts(self)):
            raise ValueError("\n".join(conflicts))
        return self


def _conflicts(settings: Settings) -> Iterator[str]:
    """Yields a sentence for each broken rule between settings. It begins with the name of the setting to change."""
    if settings.poll_interval_seconds > settings.poll_max_interval_seconds:
        yield "BRIDGE_POLL_INTERVAL_SECONDS: must not be greater than BRIDGE_POLL_MAX_INTERVAL_SECONDS"
    if settings.watch_timeout_seconds > settings.watch_max_timeout_seconds:
        yield "BRIDGE_WATCH_TIMEOUT_SECONDS: must not be greater than BRIDGE_WATCH_MAX_TIMEOUT_SECONDS"
    if settings.callback_client_key is not None and settings.callback_client_certificate is None:
        yield "BRIDGE_CALLBACK_CLIENT_CERTIFICATE: must be set if BRIDGE_CALLBACK_CLIENT_KEY is set"
    if settings.tokens.keys() & settings.operator_tokens.keys():
        yield "BRIDGE_OPERATOR_TOKENS: contains a token that BRIDGE_TOKENS contains too; a token must be in one of them"
    if settings.database_url.startswith("postgresql") and not settings.encryption_keys:
        yield (
            "BRIDGE_ENCRYPTION_KEYS: must be set with PostgreSQL, because there is no key file; make a key with "
            "amux-bridge secret new --kind encryption-key"
        )
    if settings.metrics_port and settings.metrics_port == settings.port:
        yield "BRIDGE_METRICS_PORT: must not be the same as BRIDGE_PORT"
    if not (settings.tokens or settings.operator_tokens or all(map(is_loopback, settings.host))):
        yield (
            "BRIDGE_HOST: must be a loopback address (127.0.0.1, ::1, localhost) if neither BRIDGE_TOKENS nor "
            f"BRIDGE_OPERATOR_TOKENS is set; found {','.join(settings.host)!r}"
        )


# --- reading ------------------------------------------------------------------------------------------------------


def load(env_file: EnvFile = ENV_FILE, **overrides: Any) -> Settings:
    """Returns the settings of the environment and of `env_file`; `overrides`, by field name, replace both.

    Raises BadSetting with a line for each bad setting; each line begins with the variable's name. No line repeats a
    value that may be or contain a secret.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
    return read_model(Settings, read_variables(env_file), overrides)


def load_to_serve(env_file: EnvFile = ENV_FILE, **overrides: Any) -> Settings:
    """Does the same as `load`. Also raises BadSetting for unknown names that look like the name of a secret.

    Otherwise the bridge would start without tokens if BRIDGE_TOKENS is misspelled.
    """
    found = read_variables(env_file)
    refused = [
        f"{name}: is not a setting of this bridge; the nearest one is {variables.nearest(name, known_names())}"
        for name in variables.unknown(found, known_names())
        if variables.looks_secret(name, known_names())
    ]
    try:
        settings = read_model(Settings, found, overrides)
    except BadSetting as error:
        raise BadSetting("\n".join([str(error), *refused])) from None
    if refused:
        raise BadSetting("\n".join(refused))
    return settings


def known_names() -> list[str]:
    """Returns the name of every setting, including those of the commands."""
    return [*map(env_name, Settings.model_fields), *CLIENT_NAMES]


def unknown_names(environ: Mapping[str, str] | None = None, env_file: EnvFile = ENV_FILE) -> list[str]:
    """Returns the names that begin with BRIDGE_ or AMUX_ but are not settings, sorted. They are most likely typos.

    Without `environ`, it reads the environment and `env_file`.
    """
    found = read_variables(env_file) if environ is None else variables.of_environment(environ)
    return variables.unknown(found, known_names())


def env_name(field: str) -> str:
    """Returns the environment variable of a field: `BRIDGE_PORT` for `port`."""
    return field.upper() if field.startswith("amux_") else PREFIX + field.upper()


def secret_texts(settings: Settings) -> list[str]:
    """Returns every secret in the settings, as text. These texts must be redacted from all output."""
    return [
        *([settings.amux_api_key.get_secret_value()] if settings.amux_api_key else []),
        *settings.tokens,
        *settings.operator_tokens,
        *(secret.text for secret in settings.signing_secrets),
        *([settings.signing_key.text, settings.signing_key.seed_text] if settings.signing_key else []),
        *settings.encryption_keys,
        *settings.notify_urls,
        *passwords(settings.database_url),
        *(text for url in (settings.amux_proxy, settings.callback_proxy) if url for text in _proxy_passwords(url)),
    ]


def _proxy_passwords(url: str) -> set[str]:
    """Returns the secret texts of a proxy URL: the password, and the login as it is sent in a header."""
    parts = urlsplit(url)
    if not parts.password:
        return set()
    login = f"{unquote(parts.username or '')}:{unquote(parts.password)}"
    return {parts.password, unquote(parts.password), base64.b64encode(login.encode()).decode()}
