"""aiohttp's protocol for answers of receivers: the head is read by `answer_head.py`, the body by aiohttp's parser."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from bridge.callback.answer_head import Head, HeadReader, NotHttp
from bridge.core.targets import Target


@dataclass(slots=True)
class Exchange:
    """The state of the request that the current asyncio task sends to `target`.

    `opened` is whether the request opened a new connection. `status` and `location` are from the answer; they are None
    until that part has arrived. aiohttp's tracing also reports new connections, but costs a fifth of the whole request.
    """

    target: Target | None = None
    opened: bool = False
    status: int | None = None
    location: str | None = None


# aiohttp connects, and gives the connection its request, in the asyncio task that sends the request.
EXCHANGE: ContextVar[Exchange] = ContextVar("EXCHANGE")


class AnswerProtocol(ResponseHandler):
    """Gives aiohttp's parser a head that it accepts, so that a 2xx is a success with any headers and any body.

    The head and the body are given to the parser separately: when it refuses a piece, it drops all of that piece.
    """

    _reader: HeadReader | None = None
    _exchange = Exchange()

    def set_response_params(self, **params: Any) -> None:
        """Prepares for the next answer. aiohttp calls it before each request."""
        self._reader, self._exchange = HeadReader(), EXCHANGE.get()
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Collects the head, then passes everything to the parser."""
        reader = self._reader
        if reader is None or not data:
            super().data_received(data)
            return
        try:
            head = reader.feed(data)
        except NotHttp:
            self._abort()
            return
        self._exchange.status = reader.status
        if head is not None:
            self._pass_on(head)

    def _pass_on(self, head: Head) -> None:
        self._reader, self._exchange.location = None, head.location
        super().data_received(head.rewritten)
        if head.rest:
            super().data_received(head.rest)

    def _abort(self) -> None:
        self._reader = None
        if self.transport is not None:
            self.transport.abort()
        self.set_exception(HttpProcessingError(message="no answer of HTTP/1"))
