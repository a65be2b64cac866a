"""Tests that receivers that break HTTP do not delay other hosts' callbacks and do not use up the bridge's memory."""

import asyncio
import gzip
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.bridges import Process, serving
from tests.e2e.harness import Environment

Misbehaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]
MEBIBYTE = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
FAILED = b"HTTP/1.1 500 No\r\n"  # a status of 2xx would be a success, whatever follows


def sending(head: bytes, chunk: bytes = b"", times: int | None = 1) -> Misbehaviour:
    """Sends `head`, then `chunk` this many times, then nothing more. With None it sends `chunk` without end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        sent = 0
        while times is None or sent < times:
            writer.write(chunk)
            await writer.drain()
            sent += 1
        await asyncio.Event().wait()

    return answer


async def silence(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def drip(writer: asyncio.StreamWriter) -> None:
    """Sends one byte at a time and never ends its headers."""
    writer.write(FAILED + b"X-Slow: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.2)  # the delay is the misbehaviour, not a wait for an effect


BOMB = gzip.compress(b"\0" * (64 * MEBIBYTE))
HANGING = {"silence": silence, "drip": drip, "a stalled body": sending(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n")}
FLOODING = {
    "an endless body": sending(b"HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n", b"x" * 65536, None),
    "a huge body": sending(b"HTTP/1.1 500 No\r\nContent-Length: 268435456\r\n\r\n", b"x" * MEBIBYTE, 256),
    "an endless chunk": sending(
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n", b"x" * 65536, None
    ),
    "a bomb": sending(b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB), BOMB),
    "megabytes of headers": sending(FAILED, b"X-More: " + b"x" * 60000 + b"\r\n", None),
    "a flood of 1xx": sending(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000, None),
    "endless trailers": sending(
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-More: xxxxxxxx\r\n" * 1000, None
    ),
}
LYING = {
    "a lying length": sending(b"HTTP/1.1 500 No\r\nContent-Length: -5\r\n\r\n"),
    "two lengths": sending(b"HTTP/1.1 500 No\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
    "invalid bytes": sending(b"\xff\xfe\x00\x01" * 100 + b"\r\n\r\n"),
    "a NUL in a header": sending(b"HTTP/1.1 500 No\r\nX-A: \0\r\n\r\n"),
    "no HTTP": sending(b"220 smtp.example ESMTP\r\n\r\n"),
    "a reset": reset,
}


@asynccontextmanager
async def misbehaving_servers(ways: dict[str, Misbehaviour]) -> AsyncIterator[dict[str, str]]:
    """Starts a server for each misbehaviour, which begins after a request's head. Yields callback URLs by name."""
    servers, connections = [], set[asyncio.Task[None]]()

    async def serve(answer: Misbehaviour) -> str:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await reader.readuntil(b"\r\n\r\n")
                    await answer(writer)
            finally:
                connections.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"

    try:
        yield {way: await serve(answer) for way, answer in ways.items()}
    finally:
        for server in servers:
            server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def test_hosts_that_hang_do_not_delay_another(env: Environment) -> None:
    """Three hosts hold as many attempts as they can. All callbacks to another host are delivered."""
    settings = {"delivery_timeout_seconds": "60", "delivery_concurrency": "32", "drain_timeout_seconds": "0"}
    async with (
        misbehaving_servers(HANGING) as urls,
        serving(env.database_url, env.amux_url, **settings) as (process, bridge),
    ):
        hung: list[str] = []
        for url in urls.values():
            hung += await bridge.register_many([env.finished_task() for _ in range(20)], url)
        await process.wait_for_log("settled", times=len(hung))
        good = await bridge.register_many([env.finished_task() for _ in range(40)], env.receiver.url)
        await env.receiver.wait_for_events(good)
        # No attempt at the hanging hosts has ended meanwhile, so they held their slots all the time.
        attempts = [line for line in process.lines if line.get("event") == "attempt" and line["watch_id"] in hung]
        assert attempts == []
        process.check_no_exceptions()


async def test_every_misbehaviour_is_a_failed_attempt_within_the_timeout(env: Environment) -> None:
    ways = HANGING | LYING | FLOODING
    settings = {"delivery_timeout_seconds": "2", "delivery_retry_delays_seconds": "60"}
    async with (
        misbehaving_servers(ways) as urls,
        serving(env.database_url, env.amux_url, **settings) as (process, bridge),
    ):
        watches = {way: await bridge.register(env.finished_task(), url) for way, url in urls.items()}
        good = await bridge.register(env.finished_task(), env.receiver.url)
        for way, watch in watches.items():
            line = await process.wait_for_log("attempt", watch_id=watch)
            assert line["error"], (way, line)
            assert line["duration_seconds"] < 15, (way, line)  # 2 s, plus the delays of a slow machine
            delivery = (await bridge.watch(watch))["deliveries"][0]
            assert delivery["state"] == "pending", (way, delivery)
            # The log line is written before the row of the attempt.
            log = await bridge.until(
                "GET", f"/deliveries/{delivery['id']}", lambda answer: bool(answer.json["attempt_log"])
            )
            [attempt] = log.json["attempt_log"]
            assert len((attempt["body"] or "").encode()) <= 3 * 4096, way
        await env.receiver.wait_for_events([good])
        process.check_no_exceptions()
        process.signal(signal.SIGTERM)
        assert await process.wait_for_exit() == 0


async def test_a_2xx_whose_body_stalls_or_floods_is_a_success(env: Environment) -> None:
    ways = {
        "stalls": sending(OK + b"Content-Length: 100\r\n\r\nhalf"),
        "floods": sending(OK + b"Content-Type: text/plain\r\n\r\n", b"x" * 65536, None),
        "lies": sending(OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"),
    }
    async with (
        misbehaving_servers(ways) as urls,
        serving(env.database_url, env.amux_url, delivery_timeout_seconds="2") as (process, bridge),
    ):
        for way, url in urls.items():
            watch = await bridge.register(env.finished_task(), url)
            delivered = await process.wait_for_log("delivered", watch_id=watch)
            assert delivered["status_code"] == 200, way
        process.check_no_exceptions()


# --- memory -------------------------------------------------------------------------------------------------------


def peak_bytes(process: Process) -> int:
    """Returns the most memory that the process has had in RAM since `reset_peak`."""
    [line] = [text for text in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in text]
    return int(line.split()[1]) * 1024


def reset_peak(process: Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


@pytest.mark.long
async def test_floods_and_bombs_cost_less_than_ten_megabytes(env: Environment) -> None:
    settings = {"delivery_timeout_seconds": "2", "delivery_retry_delays_seconds": ",".join(["0.1"] * 60)}
    async with (
        misbehaving_servers(FLOODING) as urls,
        serving(env.database_url, env.amux_url, **settings) as (process, bridge),
    ):
        # Some normal work comes first, so that the test does not count the memory of pools and connections.
        good = await bridge.register_many([env.finished_task() for _ in range(200)], env.receiver.url)
        await env.receiver.wait_for_events(good)
        reset_peak(process)
        before = process.resident_bytes()
        for url in urls.values():
            await bridge.register_many([env.finished_task() for _ in range(3)], url)
        await process.wait_for_log("attempt", times=100)
        grown = peak_bytes(process) - before
        assert grown < 10 * MEBIBYTE, f"{grown / MEBIBYTE:.1f} MiB"
