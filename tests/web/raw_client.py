"""Sends one GET and returns the bytes of the answer, for the tests of responses that fail after they have begun."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tests.waiting import SAFETY_SECONDS


@dataclass
class RawAnswer:
    """All bytes that arrived before the server closed the connection. `reset`: it was reset, not closed."""

    received: bytes
    reset: bool

    def check_incomplete(self, begins_with: bytes = b"") -> None:
        """Checks that the answer has one head, and that its body is broken off after `begins_with`."""
        head, separator, body = self.received.partition(b"\r\n\r\n")
        assert separator
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1." not in body, body[-500:]
        assert begins_with in body
        lines = {name.lower(): value for name, _, value in (line.partition(b": ") for line in head.splitlines()[1:])}
        if b"content-length" in lines:
            assert len(body) < int(lines[b"content-length"])
        else:
            assert lines[b"transfer-encoding"] == b"chunked"
            assert not body.endswith(b"0\r\n\r\n")


async def raw_get(port: int, path: str, headers: Mapping[str, str], version: str = "1.1") -> RawAnswer:
    """Sends a GET to loopback and reads until the server closes the connection."""
    received, reset = bytearray(), False
    async with asyncio.timeout(SAFETY_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = [
            f"GET {path} HTTP/{version}",
            "Host: x",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "\r\n"]).encode())
        try:
            while piece := await reader.read(1 << 16):
                received += piece
        except ConnectionResetError:
            reset = True
        finally:
            writer.transport.abort()
    return RawAnswer(bytes(received), reset)
