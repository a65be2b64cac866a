"""A receiver of callbacks, as an app would have one: it verifies, tells a repetition, and answers."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from bridge.cli.errors import cannot_listen
from bridge.core.signing import HEADERS, Secret, SignatureMismatch, verify
from bridge.core.targets import bracketed

TAKEN, NOT_VERIFIED = 204, 401
PATH: Final = "/hooks/video"

# By what the reason holds: what to look at first.
_HINTS: Final = (
    ("no signature matches", "compare the secret with what `amux-bridge secret show` prints where the bridge runs"),
    ("too old", "the clocks of the two machines differ, or an old message was sent again"),
    ("too new", "the clocks of the two machines differ"),
    ("must all be given", "this did not come from a bridge, or a proxy took the webhook-* headers away"),
    ("malformed", "a proxy changed the webhook-* headers, or this did not come from a bridge"),
)


@dataclass(frozen=True, slots=True)
class Received:
    """One POST. `event` is None unless the body is a JSON object; `reason` is None when it is verified.

    `times` counts the messages of this `webhook-id`, this one included.
    """

    headers: Mapping[str, str]
    event: Mapping[str, Any] | None
    reason: str | None
    times: int

    @property
    def verified(self) -> bool:
        """Whether the signature holds."""
        return self.reason is None

    @property
    def hint(self) -> str:
        """What to do about a signature that fails; empty when there is nothing to do."""
        return next((hint for mark, hint in _HINTS if self.reason is not None and mark in self.reason), "")

    @property
    def versions(self) -> str:
        """The signature versions that came, such as `v1, v1a`."""
        signature = self.headers.get(HEADERS[2], "")
        return ", ".join(dict.fromkeys(part.partition(",")[0] for part in signature.split()))


def taken_if_verified(received: Received) -> int:
    """204 for a verified message, 401 for any other, which the bridge will send again."""
    return TAKEN if received.verified else NOT_VERIFIED


class Receiver:
    """Listens on an address; `heard` is called with each POST and gives the status to answer."""

    def __init__(
        self, secrets: Sequence[Secret], heard: Callable[[Received], int], now: Callable[[], float] = time.time
    ) -> None:
        self._secrets = secrets
        self._heard = heard
        self._now = now
        self._seen: Counter[str] = Counter()
        app = web.Application()  # its own limit of a body, 1 MiB, is fifty times the largest event
        app.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self, host: str, port: int) -> str:
        """Listen (port 0: any free one) and return the URL for callbacks. Raises CommandFailed when it can't."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise cannot_listen(host, port, error) from None
        return f"http://{bracketed(host)}:{self._runner.addresses[0][1]}{PATH}"

    async def stop(self) -> None:
        """Listen no more."""
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            verify(headers, body, self._secrets, now=self._now())
            reason = None
        except SignatureMismatch as mismatch:
            reason = str(mismatch)
        name = headers.get(HEADERS[0], "")
        if reason is None:
            self._seen[name] += 1
        return web.Response(status=self._heard(Received(headers, _event(body), reason, self._seen[name])))


def _event(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
