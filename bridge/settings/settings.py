"""Every setting: its name, its default, its description, its rules, and the error when a rule is broken.

Only this module reads the environment (`watch` and `listen` also resolve `env:NAME` arguments). The names of amux's
own settings begin with `AMUX_`, all others with `BRIDGE_`. A `.env` file in the working folder is read too; the
environment has precedence. An empty value means that the setting is not set. `parsers.py` parses the values.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bridge.core.database_url import passwords
from bridge.core.errors import BadSetting
from bridge.core.schedule import PollPolicy, RetryPolicy
from bridge.core.signing import Secret, SigningKey
from bridge.core.targets import Network
from bridge.settings import parsers

PREFIX: Final = "BRIDGE_"
ENV_FILE: Final = Path(".env")
CLIENT_NAMES: Final = ("BRIDGE_URL", "BRIDGE_TOKEN")  # settings of the commands that use a running bridge
_AMUX_NAMES: Final = {name: name.upper() for name in ("amux_api_key", "amux_base_url", "amux_proxy")}
_TEN_YEARS: Final = 315_360_000  # far longer than any real timeout or retention; dates stay within what datetime holds
_POLL_DEFAULTS: Final = PollPolicy()
_RETRY_DEFAULTS: Final = RetryPolicy()

EnvFile: TypeAlias = str | Path | None
Model = TypeVar("Model", bound=BaseSettings)
# NoDecode must be outside of every union: inside one, pydantic-settings parses "80" as JSON before our parser sees it.
Tokens = Annotated[Mapping[str, str], NoDecode, PlainValidator(parsers.tokens)]
Url = Annotated[str, PlainValidator(parsers.http_url)]
Seconds = Annotated[float, Field(gt=0, le=_TEN_YEARS)]


class Settings(BaseSettings):
    """The settings of a bridge, parsed. Frozen; its repr shows no secret."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",  # other programs use the same .env file; `unknown_names` finds typos
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
        description="The amux key that tasks are polled with; without one, each watch needs its own `api_key`.",
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

    host: str = Field(
        "127.0.0.1", min_length=1, description="The address to listen on; without tokens it must be a loopback address."
    )
    port: int = Field(8080, ge=0, le=65_535, description="The port to listen on; 0 selects any free port and logs it.")
    public_url: Url | None = Field(
        None,
        repr=False,
        description="The base URL of this bridge for receivers; `content_url` is then a signed link to this bridge.",
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
        "forms of libpq are taken: several hosts, `@%2Fsocket%2Ffolder`, `?sslmode=verify-full&sslrootcert=...`.",
    )
    database_wait_seconds: float = Field(
        30, ge=0, le=86_400, description="How long a start waits for a PostgreSQL server that is not up yet."
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
        "`bridge.key` beside the SQLite file. Required with PostgreSQL.",
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
    poll_rate_per_second: float = Field(0, ge=0, description="The most polls started in a second; 0 means no limit.")
    poll_request_timeout_seconds: float = Field(
        10, gt=0, le=3_600, description="The longest time that one poll may take."
    )
    watch_timeout_seconds: Seconds = Field(
        3_600, description="The time until a watch times out, if its app does not set one."
    )
    watch_max_timeout_seconds: Seconds = Field(86_400, description="The longest timeout that an app may set.")
    max_active_watches: int = Field(
        100_000, ge=1, description="The most active watches; above it, registering is answered with 429."
    )

    delivery_retry_delays_seconds: Annotated[tuple[float, ...], NoDecode, PlainValidator(parsers.retry_delays)] = Field(
        _RETRY_DEFAULTS.delays,
        description="The times between the attempts of a delivery; after the last attempt the delivery is dead.",
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
        description="Networks (CIDR) that callbacks may go to although they are not public; a sidecar sets "
        "`127.0.0.0/8,::1/128`.",
    )
    callback_allow_hosts: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.host_patterns)] = Field(
        (), description="If set, the only hosts that callbacks may go to: exact names or `*.example.com`."
    )
    callback_allow_private_hosts: Annotated[tuple[str, ...], NoDecode, PlainValidator(parsers.private_hosts)] = Field(
        (),
        description="Names (exact, or `*.svc.cluster.local`) that callbacks may go to although they resolve to "
        "private, CGNAT or loopback addresses, for containers whose addresses change.",
    )
    callback_ports: Annotated[frozenset[int] | None, NoDecode, PlainValidator(parsers.ports)] = Field(
        None, description="If set, the only ports that callbacks may go to."
    )
    callback_https_only: bool = Field(
        default=False, description="Whether plain http is refused outside of `BRIDGE_CALLBACK_ALLOW_NETWORKS`."
    )
    callback_proxy: Annotated[str, PlainValidator(parsers.proxy_url)] | None = Field(
        None,
        repr=False,
        description="An http(s) proxy for callbacks: `http://user:password@proxy.example:3128`. The target is judged "
        "here; the proxy gets a `CONNECT` to the judged address, for http as for https.",
    )
    callback_client_certificate: Path | None = Field(
        None, description="A PEM file with the certificate that is shown to receivers that ask for one (mutual TLS)."
    )
    callback_client_key: Path | None = Field(
        None, description="The PEM file with the certificate's key, if the certificate's own file does not hold it."
    )
    callback_ca_file: Path | None = Field(
        None, description="A PEM file with CAs that receivers may have beside those of the system."
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
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(parsers.upper)] = (
        Field("INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case.")
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json` (one object per line) or `console` (easier to read)."
    )

    @model_validator(mode="after")
    def _check_conflicts(self) -> "Settings":
        if conflicts := list(_conflicts(self)):
            raise ValueError("\n".join(conflicts))
        return self


def _conflicts(settings: Settings) -> Iterator[str]:
    """Yields a sentence for each rule between settings that is broken; it begins with the setting to change."""
    if settings.poll_interval_seconds > settings.poll_max_interval_seconds:
        yield "BRIDGE_POLL_INTERVAL_SECONDS: must not be greater than BRIDGE_POLL_MAX_INTERVAL_SECONDS"
    if settings.watch_timeout_seconds > settings.watch_max_timeout_seconds:
        yield "BRIDGE_WATCH_TIMEOUT_SECONDS: must not be greater than BRIDGE_WATCH_MAX_TIMEOUT_SECONDS"
    if settings.callback_client_key is not None and settings.callback_client_certificate is None:
        yield "BRIDGE_CALLBACK_CLIENT_CERTIFICATE: must be set where BRIDGE_CALLBACK_CLIENT_KEY is"
    if settings.tokens.keys() & settings.operator_tokens.keys():
        yield "BRIDGE_OPERATOR_TOKENS: contains a token that BRIDGE_TOKENS contains too; a token must be in one of them"
    if settings.database_url.startswith("postgresql") and not settings.encryption_keys:
        yield (
            "BRIDGE_ENCRYPTION_KEYS: must be set with PostgreSQL, because there is no key file; make a key with "
            'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
        )
    if not (settings.tokens or settings.operator_tokens or parsers.is_loopback(settings.host)):
        yield (
            "BRIDGE_HOST: must be a loopback address (127.0.0.1, ::1, localhost) if neither BRIDGE_TOKENS nor "
            f"BRIDGE_OPERATOR_TOKENS is set; found {settings.host!r}"
        )


# --- reading ------------------------------------------------------------------------------------------------------


def load(env_file: EnvFile = ENV_FILE, **overrides: Any) -> Settings:
    """Returns the settings of the environment and of `env_file`; `overrides`, by field name, replace both.

    Raises BadSetting with a line for each bad setting; each line begins with the variable's name. No line repeats a
    value that may be or contain a secret.
    """
    if unknown := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
    return _read(Settings, env_file, overrides)


def _read(model: type[Model], env_file: EnvFile, overrides: Mapping[str, Any]) -> Model:
    try:
        return model(_env_file=env_file, **overrides)
    except ValidationError as error:
        # `from None`: the cause contains the values.
        raise BadSetting("\n".join(_sentence(model, detail) for detail in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{env_file}: cannot be read: {_reason_unreadable(error)}") from None


def unknown_names(environ: Mapping[str, str | None] | None = None, env_file: EnvFile = ENV_FILE) -> list[str]:
    """Returns the names that begin with BRIDGE_ but are no setting, sorted. They are most likely typos.

    Without `environ`, looks at the environment and at `env_file`.
    """
    if environ is None:
        environ = {**(dotenv_values(env_file) if env_file is not None else {}), **os.environ}
    known = {*map(env_name, Settings.model_fields), *CLIENT_NAMES}
    return sorted(name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def env_name(field: str) -> str:
    """Returns the environment variable of a field: `BRIDGE_PORT` for `port`."""
    return _AMUX_NAMES.get(field, PREFIX + field.upper())


def _sentence(model: type[BaseSettings], detail: ErrorDetails) -> str:
    """Returns pydantic's error as `NAME: rule; found value`, without the value if it may be a secret."""
    if not detail["loc"]:
        return str(detail["ctx"]["error"])  # from `_conflicts`: the sentence names the setting
    field, info = _field_of(model, str(detail["loc"][0]))
    rule = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    rule = rule.replace("Input should be", "must be").replace("Extra inputs are", "is")
    value = f"; found {str(detail['input'])[:100]!r}" if info.repr else ""
    return f"{env_name(field)}: {rule}{value}"


def _field_of(model: type[BaseSettings], location: str) -> tuple[str, FieldInfo]:
    """Returns the field of an error's location, which is the field's name or its variable's name."""
    by_variable = {env_name(field): field for field in model.model_fields}
    field = by_variable.get(location.upper(), location)
    return field, model.model_fields[field]


def _reason_unreadable(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "unknown error" if isinstance(error, OSError) else "it is not UTF-8"


# --- describing ---------------------------------------------------------------------------------------------------


class SettingInfo(NamedTuple):
    """One setting, as the table of settings in the documentation shows it. A default of "" means that there is none."""

    name: str
    default: str
    description: str


def describe() -> list[SettingInfo]:
    """Returns every setting, in the order of declaration."""
    return [
        SettingInfo(env_name(field), _default_text(info.default), info.description or "")
        for field, info in Settings.model_fields.items()
    ]


def _default_text(default: object) -> str:
    match default:
        case None:
            return ""
        case bool():
            return str(default).lower()
        case float() | int():
            return f"{default:g}" if isinstance(default, float) else str(default)
        case tuple() | frozenset() | Mapping():
            return ",".join(map(_default_text, default))
        case _:
            return str(default)


def cautions(settings: Settings) -> list[str]:
    """Returns a sentence for each setting that is allowed but needs a warning at the start."""
    found = []
    if parsers.is_plain_http_to_public(settings.amux_base_url):
        found.append("AMUX_BASE_URL is plain http to a public host: the key and every answer are sent unencrypted")
    if not (settings.tokens or settings.operator_tokens):
        found.append("no token is configured: every program on this machine may use the bridge, as the app `default`")
    return found


def unknown_name_cautions() -> list[str]:
    """Returns a sentence for each of `unknown_names`."""
    return [f"{name} is not a setting of this bridge; is it a typo?" for name in unknown_names()]


def secret_texts(settings: Settings) -> list[str]:
    """Returns every secret in the settings, as text: it must be redacted from all output."""
    return [
        *([settings.amux_api_key.get_secret_value()] if settings.amux_api_key else []),
        *settings.tokens,
        *settings.operator_tokens,
        *(secret.text for secret in settings.signing_secrets),
        *([settings.signing_key.text, settings.signing_key.seed_text] if settings.signing_key else []),
        *settings.encryption_keys,
        *passwords(settings.database_url),
        *(
            text
            for url in (settings.amux_proxy, settings.callback_proxy)
            if url
            for text in parsers.proxy_passwords(url)
        ),
    ]


# --- settings of the commands that use a running bridge -----------------------------------------------------------


class _ClientVariables(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    url: Url | None = Field(None, repr=False)
    token: Annotated[SecretStr, BeforeValidator(parsers.api_key)] | None = Field(None, repr=False)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a command connects to a running bridge: its URL without a final slash, and its token, if any."""

    url: str
    token: SecretStr | None


def load_client(env_file: EnvFile = ENV_FILE) -> ClientSettings:
    """Returns `BRIDGE_URL` and `BRIDGE_TOKEN`, or else the bridge's own host, port and first token.

    Raises BadSetting as `load` does.
    """
    variables = _read(_ClientVariables, env_file, {})
    if variables.url is not None and variables.token is not None:
        return ClientSettings(variables.url, variables.token)
    settings = load(env_file)
    first = next(iter([*settings.tokens, *settings.operator_tokens]), None)
    token = variables.token or (SecretStr(first) if first is not None else None)
    if variables.url is None and settings.port == 0:
        raise BadSetting("BRIDGE_URL: must be set, because BRIDGE_PORT is 0 and so the bridge's port is not known")
    return ClientSettings(variables.url or parsers.local_url(settings.host, settings.port), token)
