"""`listen --pull`: fetches events instead of receiving callbacks, and forwards them to a local address.

An event is sent again until the address accepts it. Only then the cursor is written, so no event is missed between two
runs.
"""

import asyncio
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson

from bridge import USER_AGENT
from bridge.aio.client_errors import CLIENT_ERRORS, explain_client_error
from bridge.cli import feed
from bridge.cli.client import BridgeClient, BridgeRefused, connect_to_bridge
from bridge.cli.cursor_file import CursorFile, default_path, open_cursor_file
from bridge.cli.errors import WrongUsage
from bridge.cli.feed import Feed, FeedEvent, FeedPage, Retrier
from bridge.cli.terminal import Terminal, note, printable
from bridge.core.signing import HEADERS, Secret, Signer

PAGE = 100  # events in a page that are only printed
ATTEMPT_SECONDS = 15.0
OLDEST = "oldest"
GONE = 410  # the receiver does not want the event, as for a callback


@dataclass(frozen=True, slots=True)
class Forwarded:
    """How the local address answered, and at which attempt. `status` is None for an event that was skipped."""

    status: int | None
    attempts: int


async def pull(args: Namespace, secrets: Sequence[Secret]) -> int:
    """Prints or forwards events until it is interrupted, or until `--count` events are done. Returns 0."""
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(connect_to_bridge())
        events = Feed(bridge, args.app)
        retrier = Retrier("the bridge answers again")
        first = await events.page(feed.LATEST, 1)  # a wrong URL or token is an error at once
        path = args.cursor_file or default_path(bridge.url, first.caller or "", args.app)
        file = stack.enter_context(open_cursor_file(Path(path)))
        forwarder = None
        if args.forward is not None:
            session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
            forwarder = Forwarder(session, args.forward, bridge, retrier, secrets)
        note(f"reading the events of {bridge.url}; Ctrl-C stops")
        after = _start(args.after, file, first)
        await _Pull(events, file, forwarder, retrier, args.json, args.count).run(after)
    return 0


def _start(given: str | None, file: CursorFile, first: FeedPage) -> str | None:
    """Returns the cursor to begin with, of `--after` or else of the last run. None: the oldest event that is kept."""
    if given == feed.LATEST:
        file.write(first.cursor)
        return first.cursor
    if given is not None:
        return None if given == OLDEST else given
    return file.read()


@dataclass(slots=True)
class _Pull:
    """One run: which events are read, where they go, and how many are left (None: there is no limit)."""

    events: Feed
    file: CursorFile
    forwarder: "Forwarder | None"
    retrier: Retrier
    as_json: bool
    left: int | None
    terminal: Terminal = field(default_factory=Terminal)

    async def run(self, after: str | None) -> None:
        # Events to forward are read one at a time, so the cursor is exact whenever the process ends.
        limit = PAGE if self.forwarder is None else 1
        while self.left is None or self.left > 0:
            page = await self._next(after, limit if self.left is None else min(limit, self.left))
            for event in page.events:
                self._print(event, None if self.forwarder is None else await self.forwarder.forward(event))
            if page.cursor != after:
                self.file.write(page.cursor)
            after = page.cursor
            self.left = None if self.left is None else self.left - len(page.events)

    async def _next(self, after: str | None, limit: int) -> FeedPage:
        while True:
            try:
                return await self.retrier.until_answered(
                    lambda: self.events.page(after, limit, feed.WAIT_SECONDS)  # noqa: B023  awaited in this turn
                )
            except BridgeRefused as error:
                if error.code != "cursor_expired" or after is None:
                    raise
            note(
                "events were removed before this run could read them (BRIDGE_RETENTION_SECONDS); it continues with the "
                "oldest event that is kept, so some events come again, with the same ids"
            )
            after = None

    def _print(self, event: FeedEvent, forwarded: Forwarded | None) -> None:
        if self.as_json:
            answer = None
            if forwarded is not None:
                answer = {"status_code": forwarded.status, "attempts": forwarded.attempts}
            line = orjson.dumps({"event": orjson.Fragment(event.payload), "forwarded": answer}).decode()
            self.terminal.print_line(line)
            return
        self.terminal.print_line(*event.line(), *_answer_in_words(forwarded))


def _answer_in_words(forwarded: Forwarded | None) -> list[str]:
    if forwarded is None:
        return []
    return ["  skipped" if forwarded.status is None else f"  forwarded: {forwarded.status}"]


class Forwarder:
    """Sends events to one address, signed like callbacks. Each event is sent again until it is accepted."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        bridge: BridgeClient,
        bridge_retrier: Retrier,
        secrets: Sequence[Secret],
    ) -> None:
        self._session = session
        self._url = url
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._bridge = bridge
        self._bridge_retrier = bridge_retrier
        self._retrier = Retrier(f"{self._host} accepts events again")
        self._signer = Signer(secrets) if secrets else None
        self._reported_unsigned = False

    async def forward(self, event: FeedEvent) -> Forwarded:
        """Sends an event until the address answers 2xx or 410. An unsigned event that is refused is skipped."""
        attempts = 0
        while True:
            headers, payload = await self._signed(event)
            attempts += 1
            status, problem = await self._post(headers, payload)
            if status is not None and (200 <= status < 300 or status == GONE):
                self._retrier.succeeded()
                return Forwarded(status, attempts)
            if HEADERS[2] not in headers and status in {400, 401, 403}:
                note(f"{event.id} is skipped: {problem}, and the event is not signed")
                return Forwarded(None, attempts)
            await self._retrier.wait(problem)

    async def _signed(self, event: FeedEvent) -> tuple[Mapping[str, str], bytes]:
        """Returns the headers and the bytes of an event, signed now: by the bridge, or with the local secrets."""
        if event.is_terminal:
            path = f"/watch/{event.body['data']['watch_id']}/envelope"
            try:
                headers, payload = await self._bridge_retrier.until_answered(lambda: self._bridge.fetch(path))
            except BridgeRefused as error:
                if error.code != "not_found":  # not_found: retention has removed the watch
                    raise
            else:
                return {name: headers[name] for name in HEADERS}, payload
        now = int(time.time())
        if self._signer is not None:
            return self._signer.headers(event.id, now, event.payload), event.payload
        if not self._reported_unsigned:
            self._reported_unsigned = True
            note("status events are forwarded without a signature: set BRIDGE_SIGNING_SECRETS to the bridge's secrets")
        return {HEADERS[0]: event.id, HEADERS[1]: str(now)}, event.payload

    async def _post(self, headers: Mapping[str, str], payload: bytes) -> tuple[int | None, str]:
        """Makes one attempt. Returns the status, None without an answer, and a sentence about the answer or error."""
        own = {"Content-Type": "application/json", "User-Agent": USER_AGENT}
        try:
            async with (
                asyncio.timeout(ATTEMPT_SECONDS),
                self._session.post(
                    self._url, data=payload, headers=own | dict(headers), allow_redirects=False
                ) as response,
            ):
                return response.status, f"{self._host} answered {response.status}"
        except CLIENT_ERRORS as error:
            return None, explain_client_error(error, self._host, ATTEMPT_SECONDS)[1]


def check_forward_url(text: str) -> None:
    """Raises WrongUsage for text that is not an http(s) URL."""
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        raise WrongUsage(f"--forward must be an http(s) URL, such as http://127.0.0.1:3000/hooks: {printable(text)}")
