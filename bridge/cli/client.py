"""A client of a running bridge's HTTP API. A request returns the answer's JSON, or raises an error with a sentence."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from bridge import USER_AGENT
from bridge.aio.client_errors import CLIENT_ERRORS, explain_client_error
from bridge.cli.errors import CommandFailed
from bridge.cli.terminal import printable
from bridge.core.refusal import HTTPS_ONLY
from bridge.settings.client import ClientSettings, load_client

CALL_TIMEOUT_SECONDS = 15.0  # a bridge answers within 5 s, even when its store does not answer


class BridgeUnreachable(CommandFailed):
    """There was no answer, or the answer did not come from a bridge. A later request may succeed."""


class BridgeRefused(CommandFailed):
    """The bridge answered with a problem (RFC 9457); `code` is the problem's code."""

    def __init__(self, sentence: str, code: str) -> None:
        super().__init__(sentence)
        self.code = code


class BridgeClient:
    """Sends requests to one bridge, with a token if there is one. `connect_to_bridge` creates it."""

    def __init__(self, session: aiohttp.ClientSession, settings: ClientSettings) -> None:
        self._session = session
        self._token = settings.token
        self.url = settings.url

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        wait_seconds: float = 0.0,
    ) -> Any:
        """Returns the JSON of a 2xx answer. The parameters and errors are those of `fetch`."""
        _, answer = await self.fetch(path, method=method, body=body, query=query, wait_seconds=wait_seconds)
        return orjson.loads(answer)

    async def fetch(
        self,
        path: str,
        *,
        method: str = "GET",
        body: Any = None,
        query: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
        wait_seconds: float = 0.0,
    ) -> tuple[Mapping[str, str], bytes]:
        """Returns the headers and the bytes of a 2xx answer with JSON.

        `wait_seconds` is how long the bridge may hold its answer because of the query. It is added to the time limit.
        Raises BridgeUnreachable, or BridgeRefused for a problem.
        """
        seconds = CALL_TIMEOUT_SECONDS + wait_seconds
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method,
                    self.url + path,
                    params=query,
                    data=None if body is None else orjson.dumps(body),
                    headers=self._headers(),
                    allow_redirects=False,
                ) as response,
            ):
                answer = await response.read()
                _check(self.url, response.status, answer)
                return response.headers, answer
        except CLIENT_ERRORS as error:
            _, reason = explain_client_error(error, f"the bridge at {self.url}", seconds)
            raise BridgeUnreachable(f"{reason}; is `amux-bridge serve` running, and is BRIDGE_URL correct?") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        return headers


@asynccontextmanager
async def connect_to_bridge() -> AsyncIterator[BridgeClient]:
    """Yields a client of the bridge at BRIDGE_URL, with BRIDGE_TOKEN; see `load_client`. Raises BadSetting."""
    settings = load_client()
    # trust_env=False: a proxy of the environment cannot reach a bridge on this machine's loopback address.
    async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield BridgeClient(session, settings)


def _check(url: str, status: int, body: bytes) -> None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if 200 <= status < 300 and answer is not None:
        return
    if not isinstance(answer, dict) or not isinstance(answer.get("code"), str):
        raise BridgeUnreachable(f"{url} answered {status}, but the answer is not from a bridge; check BRIDGE_URL")
    raise BridgeRefused(_sentence(answer), answer["code"])


def _sentence(problem: Mapping[str, Any]) -> str:
    """Returns a problem as one sentence, with the fix where it is known."""
    detail = printable(str(problem.get("detail") or problem.get("title")))
    match problem["code"]:
        case "unauthorized":
            return f"the bridge requires a token: set BRIDGE_TOKEN ({detail})"
        case "callback_refused":
            return with_settings(detail, problem.get("settings"), "where the bridge runs")
        case _:
            return detail


def with_settings(sentence: str, settings: object, place: str) -> str:
    """Returns the sentence of a refusal, and the settings that can allow the target, if there are some."""
    names = [printable(str(name)) for name in settings] if isinstance(settings, list | tuple) else []
    changes = " or ".join(f"{name}=false" if name == HTTPS_ONLY else name for name in names)
    return f"{sentence}; to allow it, set {changes} {place}" if names else sentence
