"""A local receiver of forwarded events, in a thread. It records the events and answers with given statuses."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from bridge.core.signing import Secret, verify


@dataclass
class LocalReceiver:
    """Answers with the statuses in `answers`, then with 204. `requests` are the headers and bodies of all requests."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    requests: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/video"

    @property
    def ids(self) -> list[str]:
        """Returns the `webhook-id` of each request."""
        return [headers["webhook-id"] for headers, _ in self.requests]

    @property
    def events(self) -> list[Any]:
        return [orjson.loads(body) for _, body in self.requests]

    def verify_all(self, secret: Secret, now: float) -> None:
        """Checks the signature of every request. Raises SignatureMismatch if one is wrong."""
        for headers, body in self.requests:
            verify(headers, body, [secret], now=now)


@contextmanager
def local_receiver(port: int = 0, answers: Sequence[int] = ()) -> Iterator[LocalReceiver]:
    receiver = LocalReceiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        receiver.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
