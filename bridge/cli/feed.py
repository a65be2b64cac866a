"""Reads the event feed of a running bridge, page by page, for `events` and `listen --pull`."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from bridge.cli.client import BridgeClient, BridgeRefused, BridgeUnreachable
from bridge.cli.terminal import Line, note, printable
from bridge.cli.views import STYLES
from bridge.core.model import TERMINAL_EVENTS

Answer = TypeVar("Answer")

LATEST: Final = "latest"
WAIT_SECONDS: Final = 30  # how long the bridge holds an answer while there is no event
RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # the last one is repeated
_TEMPORARY: Final = frozenset({"store_unavailable", "draining"})  # codes of problems that end without a change here
_ITEMS: Final = b'{"items":['


@dataclass(frozen=True, slots=True)
class FeedEvent:
    """An event: its bytes as the bridge sent them, and their JSON."""

    payload: bytes
    body: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The event's id, which is also `webhook-id`."""
        return str(self.body["id"])

    @property
    def is_terminal(self) -> bool:
        """Whether the event ended its watch."""
        return self.body["type"] in TERMINAL_EVENTS

    def line(self) -> Line:
        """Returns the event in one line, for people."""
        data, kind = self.body["data"], str(self.body["type"])
        detail = (data["error"] or {}).get("message") or data["url"] or ""
        style = STYLES.get(kind.removeprefix("video."), "accent")
        return [
            (self.body["timestamp"], "dim"),
            "  ",
            (printable(kind), style),
            f"  {self.id}  {printable(str(data['task_id']))}  ",
            (printable(detail), "dim"),
        ]


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Some events, and the cursor after them. `caller` is the owner of the token, None from an older bridge."""

    events: Sequence[FeedEvent]
    cursor: str
    caller: str | None


@dataclass(frozen=True, slots=True)
class Feed:
    """The events that a command reads: of `app` (None: all that the token may see), and of `types` (empty: all)."""

    bridge: BridgeClient
    app: str | None = None
    types: Sequence[str] = ()

    async def page(self, after: str | None, limit: int, wait_seconds: int = 0) -> FeedPage:
        """Returns the next page. Raises BridgeUnreachable or BridgeRefused."""
        query: list[tuple[str, str]] = [("limit", str(limit)), *(("type", one) for one in self.types)]
        given = {"after": after, "app": self.app, "wait_seconds": str(wait_seconds) if wait_seconds else None}
        query += [(name, value) for name, value in given.items() if value is not None]
        headers, body = await self.bridge.fetch("/events", query=query, wait_seconds=wait_seconds)
        return FeedPage(list(split_items(body)), orjson.loads(body)["next_cursor"], headers.get("X-Caller"))


def split_items(body: bytes) -> Iterator[FeedEvent]:
    """Yields each event of a page, with its bytes exactly as they are in the page.

    If a proxy has rewritten the page, the bytes are new.
    """
    if not body.startswith(_ITEMS):  # a proxy has rewritten the JSON
        for item in orjson.loads(body)["items"]:
            yield FeedEvent(orjson.dumps(item), item)
        return
    text, place, decoder = body.decode(), len(_ITEMS), json.JSONDecoder()
    while text[place] != "]":
        start = place + (text[place] == ",")
        item, place = decoder.raw_decode(text, start)
        yield FeedEvent(text[start:place].encode(), item)


class Retrier:
    """Repeats requests during an outage, for example while a bridge restarts or a local address is not ready yet.

    It writes to stderr when the outage begins, when its reason changes, and when it ends.
    """

    def __init__(self, recovered: str) -> None:
        self._recovered = recovered
        self._reason: str | None = None
        self._failures = 0

    async def until_answered(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Calls `ask` until the bridge answers, and returns the result. Raises BridgeRefused for a lasting problem."""
        while True:
            try:
                answer = await ask()
            except BridgeUnreachable as error:
                await self.wait(str(error))
            except BridgeRefused as error:
                if error.code not in _TEMPORARY:
                    raise
                await self.wait(str(error))
            else:
                self.succeeded()
                return answer

    async def wait(self, reason: str) -> None:
        """Prints the reason if it is new, and waits: 0.5 s after the first failure, up to 30 s after later ones."""
        if reason != self._reason:
            note(f"{reason}; trying again")
        self._reason = reason
        seconds = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1
        await asyncio.sleep(seconds)

    def succeeded(self) -> None:
        """Prints that an outage has ended, if there was one."""
        if self._reason is not None:
            note(self._recovered)
        self._reason, self._failures = None, 0
