"""The settings of the commands that use a running bridge: `BRIDGE_URL` and `BRIDGE_TOKEN`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from bridge.core.errors import BadSetting
from bridge.core.targets import bracketed, is_loopback
from bridge.settings import parsers
from bridge.settings.reading import GivenValues, read_model
from bridge.settings.settings import ENV_FILE, EnvFile, Url, load
from bridge.settings.variables import read_variables


class _ClientVariables(GivenValues):
    model_config = SettingsConfigDict(hide_input_in_errors=True)

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
    own = read_model(_ClientVariables, read_variables(env_file), {})
    if own.url is not None and own.token is not None:
        return ClientSettings(own.url, own.token)
    settings = load(env_file)
    first = next(iter([*settings.tokens, *settings.operator_tokens]), None)
    token = own.token or (SecretStr(first) if first is not None else None)
    if own.url is None and settings.port == 0:
        raise BadSetting("BRIDGE_URL: must be set, because BRIDGE_PORT is 0 and so the bridge's port is not known")
    return ClientSettings(own.url or local_url(settings.host, settings.port), token)


def local_url(listening_on: Sequence[str], port: int) -> str:
    """Returns the URL for a program on this machine, of a listener on these addresses and this port."""
    # "::" includes IPv4, and a container may have no IPv6.
    reachable = [{"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host) for host in listening_on]  # noqa: S104
    best = next(filter(is_loopback, reachable), reachable[0])
    return f"http://{bracketed(best)}:{port}"
