"""Tests the relay of the field lab. A connection that it left open would fail another test later."""

import asyncio
import socket
from contextlib import suppress

import pytest

from tests.field.relay import relay
from tests.waiting import SAFETY_SECONDS


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_begins_as_the_relay_ends_is_broken_off(turns: int) -> None:
    """The relay ends this number of turns of the event loop after the client has connected."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    target = await asyncio.start_server(hold, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setblocking(False)
        async with relay(target.sockets[0].getsockname()[1]) as port:
            with suppress(BlockingIOError):
                client.connect(("127.0.0.1", port))
            for _ in range(turns):
                await asyncio.sleep(0)
        with suppress(ConnectionError):
            async with asyncio.timeout(SAFETY_SECONDS):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    target.close()
    await target.wait_closed()
