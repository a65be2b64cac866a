"""A receiver of callbacks, as an app would write it: it verifies each callback, counts repetitions, and answers."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from bridge.cli.errors import cannot_listen
from bridge.core.signing import HEADERS, MismatchCode, Secret, SignatureMismatch, verify
from bridge.core.targets import bracketed

ACCEPTED, NOT_VERIFIED = 204, 401
PATH: Final = "/hooks/video"

_HINTS: Final[Mapping[MismatchCode, str]] = {
    MismatchCode.NO_MATCH: "compare the secret with the output of `amux-bridge secret show` where the bridge runs",
    MismatchCode.TOO_OLD: "the clocks of the two machines differ, or an old message was sent again",
    MismatchCode.TOO_NEW: "the clocks of the two machines differ",
    MismatchCode.MISSING: "the request did not come from a bridge, or a proxy removed the webhook-* headers",
    MismatchCode.MALFORMED: "a proxy changed the webhook-* headers, or the request did not come from a bridge",
}


@dataclass(frozen=True, slots=True)
class ReceivedCallback:
    """One POST. `event` is None unless the body is a JSON object. `mismatch` is None if the signature is verified.

    `times` is the number of verified messages with this `webhook-id` so far, this one included.
    """

    headers: Mapping[str, str]
    event: Mapping[str, Any] | None
    mismatch: SignatureMismatch | None
    times: int

    @property
    def verified(self) -> bool:
        """Whether the signature is verified."""
        return self.mismatch is None

    @property
    def reason(self) -> str | None:
        """The check that the message failed, as a sentence; None if it is verified."""
        return None if self.mismatch is None else str(self.mismatch)

    @property
    def hint(self) -> str | None:
        """What to check first if the verification failed."""
        return None if self.mismatch is None else _HINTS[self.mismatch.code]

    @property
    def versions(self) -> str:
        """The signature versions of the message, such as `v1, v1a`."""
        signature = self.headers.get(HEADERS[2], "")
        return ", ".join(dict.fromkeys(part.partition(",")[0] for part in signature.split()))


def status_for(callback: ReceivedCallback) -> int:
    """Returns 204 for a verified message and 401 for any other, which the bridge will send again."""
    return ACCEPTED if callback.verified else NOT_VERIFIED


class Receiver:
    """Listens on an address. Calls `on_callback` for each POST and answers with the status that the call returns."""

    def __init__(
        self,
        secrets: Sequence[Secret],
        on_callback: Callable[[ReceivedCallback], int],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._on_callback = on_callback
        self._now = now
        self._verified_counts: Counter[str] = Counter()  # by webhook-id
        app = web.Application()  # its body limit, 1 MiB, is fifty times the largest event
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start(self, host: str, port: int) -> str:
        """Listens (port 0: any free one) and returns the callback URL. Raises CommandFailed if it cannot listen."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise cannot_listen(host, port, error) from None
        return f"http://{bracketed(host)}:{self._runner.addresses[0][1]}{PATH}"

    async def stop(self) -> None:
        """Stops listening."""
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            verify(headers, body, self._secrets, now=self._now())
            mismatch = None
        except SignatureMismatch as error:
            mismatch = error
        webhook_id = headers.get(HEADERS[0], "")
        if mismatch is None:
            self._verified_counts[webhook_id] += 1
        callback = ReceivedCallback(headers, _parse_event(body), mismatch, self._verified_counts[webhook_id])
        return web.Response(status=self._on_callback(callback))


def _parse_event(body: bytes) -> Mapping[str, Any] | None:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return event if isinstance(event, dict) else None
