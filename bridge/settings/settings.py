"""The only reader of the environment: every setting, its default, its rules and the sentence when it breaks one.

`AMUX_*` are amux's own names, all others begin with `BRIDGE_`; a `.env` file in the working folder is read as well,
and the environment wins. An empty value counts as not given. How a value is read is in `settings_values.py`.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bridge.core.errors import BadSetting
from bridge.core.signing import Secret, SigningKey
from bridge.core.targets import Network, bracketed, is_loopback
from bridge.settings import parsers as values

PREFIX: Final = "BRIDGE_"
ENV_FILE: Final = Path(".env")
CLIENT_NAMES: Final = ("BRIDGE_URL", "BRIDGE_TOKEN")
_OWN_NAMES: Final = {"amux_api_key": "AMUX_API_KEY", "amux_base_url": "AMUX_BASE_URL"}
_TEN_YEARS: Final = 315_360_000  # longer than any video or row is of use; times stay within what a date can hold

EnvFile: TypeAlias = str | Path | None
# NoDecode stands outside of every union: within one, "80" would be read as JSON before our reader sees it.
Tokens = Annotated[Mapping[str, str], NoDecode, PlainValidator(values.tokens)]
Url = Annotated[str, PlainValidator(values.http_url)]
Seconds = Annotated[float, Field(gt=0, le=_TEN_YEARS)]


class Settings(BaseSettings):
    """What an operator decides. Frozen; values are parsed, and secrets do not show in its repr."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",  # a .env file is shared with other programs; `unknown_names` finds our typos
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
    )

    amux_api_key: Annotated[SecretStr, BeforeValidator(values.api_key)] | None = Field(
        None,
        validation_alias="AMUX_API_KEY",
        repr=False,
        description="The amux key that tasks are asked about with; without one each watch brings its own `api_key`.",
    )
    amux_base_url: Annotated[str, PlainValidator(values.amux_url)] = Field(
        "https://api.amux.ai",
        validation_alias="AMUX_BASE_URL",
        repr=False,
        description="Where amux is; a trailing `/v1` is dropped.",
    )

    host: str = Field(
        "127.0.0.1", min_length=1, description="The address to listen on; loopback unless there are tokens."
    )
    port: int = Field(8080, ge=0, le=65_535, description="The port to listen on; 0 takes any free one and logs it.")
    public_url: Url | None = Field(
        None,
        repr=False,
        description="Where receivers reach this bridge; makes `content_url` a signed link to the bridge itself.",
    )
    tokens: Tokens = Field(
        {}, repr=False, description="Who may use the API: `app:token,...`; an app may have several tokens."
    )
    operator_tokens: Tokens = Field(
        {}, repr=False, description="Who may see and resend everything: `name:token,...`; they register nothing."
    )
    database_url: Annotated[str, PlainValidator(values.database_url)] = Field(
        "sqlite:///bridge.db",
        repr=False,
        description="`sqlite:///path` (one process) or `postgresql://user:password@host/name` (any number).",
    )
    signing_secrets: Annotated[tuple[Secret, ...], NoDecode, PlainValidator(values.signing_secrets)] = Field(
        (),
        repr=False,
        description="`whsec_...` secrets that sign callbacks, current first; with none, one is made and kept.",
    )
    signing_key: Annotated[SigningKey | None, NoDecode, PlainValidator(values.signing_key)] = Field(
        None, repr=False, description="`whsk_...` Ed25519 key; adds a `v1a` signature to each callback."
    )
    encryption_keys: Annotated[tuple[str, ...], NoDecode, PlainValidator(values.fernet_keys)] = Field(
        (),
        repr=False,
        description="Fernet keys for what is stored encrypted, newest first; with none, the file `bridge.key` beside "
        "the SQLite file. Required with PostgreSQL.",
    )

    poll_first_delay_seconds: float = Field(5, ge=0, le=86_400, description="From registration to a task's first poll.")
    poll_interval_seconds: float = Field(5, gt=0, le=86_400, description="From the first poll to the second.")
    poll_max_interval_seconds: float = Field(15, gt=0, le=86_400, description="The longest pause between two polls.")
    poll_backoff: float = Field(1.2, ge=1, le=100, description="What each pause is multiplied by for the next.")
    poll_concurrency: int = Field(256, ge=1, le=100_000, description="Polls under way at a time, at most.")
    poll_rate_per_second: float = Field(0, ge=0, description="Polls begun in a second, at most; 0 is no limit.")
    poll_request_timeout_seconds: float = Field(10, gt=0, le=3_600, description="How long one poll may take in all.")
    watch_timeout_seconds: Seconds = Field(3_600, description="A watch's time to its end, when its app asks for none.")
    watch_max_timeout_seconds: Seconds = Field(86_400, description="The longest time that an app may ask for.")
    max_active_watches: int = Field(100_000, ge=1, description="Active watches in all; then registering answers 429.")

    delivery_retry_delays_seconds: Annotated[tuple[float, ...], NoDecode, PlainValidator(values.retry_delays)] = Field(
        (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="The pauses between the attempts of a delivery; after the last one it is dead.",
    )
    delivery_timeout_seconds: float = Field(15, gt=0, le=3_600, description="How long one attempt may take in all.")
    delivery_concurrency: int = Field(128, ge=1, le=100_000, description="Attempts under way at a time, at most.")
    delivery_concurrency_per_host: int = Field(8, ge=1, le=100_000, description="The same, to one host and port.")
    callback_allow_networks: Annotated[tuple[Network, ...], NoDecode, PlainValidator(values.networks)] = Field(
        (), description="Networks (CIDR) that are opened although not public; a sidecar sets `127.0.0.0/8,::1/128`."
    )
    callback_allow_hosts: Annotated[tuple[str, ...], NoDecode, PlainValidator(values.host_patterns)] = Field(
        (), description="When set, the only hosts that callbacks may go to: exact names or `*.example.com`."
    )
    callback_ports: Annotated[frozenset[int] | None, NoDecode, PlainValidator(values.ports)] = Field(
        None, description="When set, the only ports that callbacks may go to."
    )
    callback_https_only: bool = Field(
        default=False, description="Whether plain http is refused outside `BRIDGE_CALLBACK_ALLOW_NETWORKS`."
    )
    content_link_seconds: Seconds = Field(604_800, description="How long the signed link in `content_url` is good.")
    drop_in: bool = Field(
        default=False, description="Whether `POST /v1/videos` and its kin pass to amux; gives apps the whole account."
    )
    retention_seconds: Seconds = Field(2_592_000, description="How long a finished watch is kept.")
    drain_timeout_seconds: float = Field(
        20, ge=0, le=3_600, description="How long a stopping service waits for what is under way."
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(values.upper)] = (
        Field("INFO", description="DEBUG, INFO, WARNING, ERROR or CRITICAL, in any case.")
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`json` (one object a line) or `console` (for eyes)."
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> "Settings":
        if broken := list(_broken_agreements(self)):
            raise ValueError("\n".join(broken))
        return self


def _broken_agreements(settings: Settings) -> Iterator[str]:
    """The rules between settings, each a sentence that begins with the setting to change."""
    if settings.poll_interval_seconds > settings.poll_max_interval_seconds:
        yield "BRIDGE_POLL_INTERVAL_SECONDS: must not be above BRIDGE_POLL_MAX_INTERVAL_SECONDS"
    if settings.watch_timeout_seconds > settings.watch_max_timeout_seconds:
        yield "BRIDGE_WATCH_TIMEOUT_SECONDS: must not be above BRIDGE_WATCH_MAX_TIMEOUT_SECONDS"
    if settings.tokens.keys() & settings.operator_tokens.keys():
        yield "BRIDGE_OPERATOR_TOKENS: holds a token that BRIDGE_TOKENS holds as well; a token is one or the other"
    if settings.database_url.startswith("postgresql") and not settings.encryption_keys:
        yield (
            "BRIDGE_ENCRYPTION_KEYS: must be given with PostgreSQL, where there is no key file; make one with "
            'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
        )
    if not (settings.tokens or settings.operator_tokens or is_loopback(settings.host)):
        yield (
            "BRIDGE_HOST: must be a loopback address (127.0.0.1, ::1, localhost) while neither BRIDGE_TOKENS nor "
            f"BRIDGE_OPERATOR_TOKENS is given; found {settings.host!r}"
        )


# --- reading ------------------------------------------------------------------------------------------------------


def load(env_file: EnvFile = ENV_FILE, **overrides: Any) -> Settings:
    """The settings of the environment and of `env_file`; `overrides`, by field name, win over both.

    Raises BadSetting, a sentence for each bad setting, each beginning with its variable's name. No sentence repeats
    a value that may be, or hold, a secret.
    """
    if strange := overrides.keys() - Settings.model_fields.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(strange))}")
    try:
        return Settings(_env_file=env_file, **overrides)  # type: ignore[call-arg]  # pydantic-settings' own parameter
    except ValidationError as error:
        # `from None`: the cause holds the values.
        raise BadSetting("\n".join(_sentence(Settings, detail) for detail in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{env_file}: cannot be read: {_why_unreadable(error)}") from None


def unknown_names(environ: Mapping[str, str | None] | None = None, env_file: EnvFile = ENV_FILE) -> list[str]:
    """Names that begin with BRIDGE_ and mean nothing, sorted: most likely typos, worth a warning at start.

    Without `environ`: those of the environment and of `env_file`.
    """
    if environ is None:
        environ = {**(dotenv_values(env_file) if env_file is not None else {}), **os.environ}
    known = {*map(env_name, Settings.model_fields), *CLIENT_NAMES}
    return sorted(name for name in environ if name.upper().startswith(PREFIX) and name.upper() not in known)


def env_name(field: str) -> str:
    """The variable that sets a field: `port` is `BRIDGE_PORT`."""
    return _OWN_NAMES.get(field, PREFIX + field.upper())


def _sentence(model: type[BaseSettings], detail: ErrorDetails) -> str:
    """Pydantic's finding as `NAME: what it must be; found what`; without the latter where it may be a secret."""
    if not detail["loc"]:
        return str(detail["ctx"]["error"])  # a broken agreement: it names its settings itself
    field, info = _field_of(model, str(detail["loc"][0]))
    rule = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    rule = rule.replace("Input should be", "must be").replace("Extra inputs are", "is")
    found = f"; found {str(detail['input'])[:100]!r}" if info.repr else ""
    return f"{env_name(field)}: {rule}{found}"


def _field_of(model: type[BaseSettings], located: str) -> tuple[str, FieldInfo]:
    """The field that an error's location names, by its own name or by its variable's."""
    by_variable = {env_name(field): field for field in model.model_fields}
    field = by_variable.get(located.upper(), located)
    return field, model.model_fields[field]


def _why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or "the system says no more" if isinstance(error, OSError) else "it is not UTF-8"


# --- telling ------------------------------------------------------------------------------------------------------


class Described(NamedTuple):
    """One setting as the README's table and the command line show it."""

    name: str
    default: str
    description: str


def describe() -> list[Described]:
    """Every setting in its order; a default of "" is none."""
    return [
        Described(env_name(field), _default_text(info.default), info.description or "")
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
    """What is allowed but worth a warning at start, a sentence each."""
    found = []
    if values.is_plain_http_to_public(settings.amux_base_url):
        found.append("AMUX_BASE_URL is plain http to a public host: the key and every answer travel in the open")
    if not (settings.tokens or settings.operator_tokens):
        found.append("no token is configured: every program on this machine may use the bridge, as app `default`")
    return found


def secret_texts(settings: Settings) -> list[str]:
    """Every secret that the settings hold, as text: what must be redacted from all that is written."""
    password = urlsplit(settings.database_url).password
    return [
        *([settings.amux_api_key.get_secret_value()] if settings.amux_api_key else []),
        *settings.tokens,
        *settings.operator_tokens,
        *(secret.text for secret in settings.signing_secrets),
        *([settings.signing_key.text, settings.signing_key.seed_text] if settings.signing_key else []),
        *settings.encryption_keys,
        *({password, unquote(password)} if password else ()),
    ]


# --- the command line's side --------------------------------------------------------------------------------------


class _ClientVariables(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    url: Url | None = Field(None, repr=False)
    token: Annotated[SecretStr, BeforeValidator(values.api_key)] | None = Field(None, repr=False)


@dataclass(frozen=True, slots=True)
class Client:
    """How a command reaches a running bridge: its URL without a final slash, and a token if it needs one."""

    url: str
    token: SecretStr | None


def load_client(env_file: EnvFile = ENV_FILE) -> Client:
    """`BRIDGE_URL` and `BRIDGE_TOKEN`, else what HOST, PORT and the first token say. Raises BadSetting as `load`."""
    try:
        given = _ClientVariables(_env_file=env_file)  # type: ignore[call-arg]  # as in `load`
    except ValidationError as error:
        raise BadSetting("\n".join(_sentence(_ClientVariables, detail) for detail in error.errors())) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{env_file}: cannot be read: {_why_unreadable(error)}") from None
    if given.url is not None and given.token is not None:
        return Client(given.url, given.token)
    own = load(env_file)
    first = next(iter([*own.tokens, *own.operator_tokens]), None)
    token = given.token or (SecretStr(first) if first is not None else None)
    if given.url is None and own.port == 0:
        raise BadSetting("BRIDGE_URL: must be given, for BRIDGE_PORT is 0 and the port is not known from here")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(own.host, own.host)  # noqa: S104  not bound, replaced
    return Client(given.url or f"http://{bracketed(host)}:{own.port}", token)
