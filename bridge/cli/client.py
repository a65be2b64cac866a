"""A running bridge, asked over HTTP: one answer, or one sentence about why there is none."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from bridge import __version__
from bridge.cli.errors import CommandFailed
from bridge.cli.terminal import printable
from bridge.settings.settings import Client, load_client

CALL_TIMEOUT_SECONDS = 15.0  # a bridge answers within 5 s, whatever its store does


class BridgeUnreachable(CommandFailed):
    """No answer, or one that is no bridge's; asking again may help."""


class BridgeRefused(CommandFailed):
    """The bridge's own no; `code` is the problem's."""

    def __init__(self, sentence: str, code: str, problem: Mapping[str, Any]) -> None:
        super().__init__(sentence)
        self.code = code
        self.problem = problem


class BridgeApi:
    """Asks one bridge, with its token. Made by `bridge_api`."""

    def __init__(self, session: aiohttp.ClientSession, client: Client) -> None:
        self._session = session
        self._token = client.token
        self.url = client.url

    async def ask(
        self, method: str, path: str, *, body: Any = None, query: Mapping[str, str] | None = None, holds: float = 0.0
    ) -> Any:
        """The JSON of a 2xx; `holds` is how long the bridge was asked to hold its answer (seconds).

        Raises BridgeUnreachable, or BridgeRefused for a problem.
        """
        try:
            async with (
                asyncio.timeout(CALL_TIMEOUT_SECONDS + holds),
                self._session.request(
                    method,
                    self.url + path,
                    params=query,
                    data=None if body is None else orjson.dumps(body),
                    headers=self._headers(),
                    allow_redirects=False,
                ) as response,
            ):
                return _read(self.url, response.status, await response.read())
        except TimeoutError:
            raise BridgeUnreachable(f"the bridge at {self.url} did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise BridgeUnreachable(
                f"the bridge at {self.url} cannot be reached ({_why(error)}); is `amux-bridge serve` running, "
                "and does BRIDGE_URL name it?"
            ) from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"amux-bridge/{__version__}"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return headers


@asynccontextmanager
async def bridge_api() -> AsyncIterator[BridgeApi]:
    """The bridge that BRIDGE_URL and BRIDGE_TOKEN, or the settings, name. Raises BadSetting."""
    client = load_client()
    # A proxy from the environment would be asked for a bridge on loopback.
    async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield BridgeApi(session, client)


def _read(url: str, status: int, body: bytes) -> Any:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if 200 <= status < 300 and answer is not None:
        return answer
    if not isinstance(answer, dict) or not isinstance(answer.get("code"), str):
        raise BridgeUnreachable(f"{url} answered {status} with something that is no bridge's; check BRIDGE_URL")
    raise BridgeRefused(_sentence(answer), answer["code"], answer)


def _sentence(problem: Mapping[str, Any]) -> str:
    """A problem as one sentence, with what to do about it where that is known."""
    told = printable(str(problem.get("detail") or problem.get("title")))
    match problem["code"]:
        case "unauthorized":
            return f"the bridge wants a token: set BRIDGE_TOKEN ({told})"
        case "callback_refused":
            return f"{told}; BRIDGE_CALLBACK_ALLOW_NETWORKS, where the bridge runs, opens networks that are not public"
        case _:
            return told


def _why(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    # asyncio writes its own words over the system's.
    number = getattr(cause, "errno", None)
    return (os.strerror(number) if number and number > 0 else str(cause) or type(error).__name__).lower()
