"""With a small limit of open files, the bridge reports the shortage, and works again when files are free."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import Environment
from tests.e2e.receiver import receiving
from tests.field.harness import check_works, is_delivered, need, serving

pytestmark = pytest.mark.long
FILES = 48


@contextmanager
def idle_connections(url: str, count: int) -> Iterator[None]:
    """Holds this number of connections to the API that send nothing."""
    port = int(url.rpartition(":")[2])
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


async def test_without_a_free_file_nothing_is_lost_and_it_says_so(folder: Path, env: Environment) -> None:
    prefix = ["prlimit", f"--nofile={FILES}:{FILES}"]
    need(*prefix, "true")
    async with serving(folder, env, prefix=prefix) as (running, bridge), receiving() as other:
        await check_works(env, bridge)
        with idle_connections(bridge.url, FILES):
            await bridge.unready("file")
            watch = await bridge.register(env.finished_task(), other.url)  # its callback needs a new connection
            await running.wait_for_log("resources_short")
        await bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
        shown = await bridge.until("GET", f"/watch/{watch}", lambda answer: is_delivered(answer.json))
        assert shown.json["deliveries"][0]["attempts"] == 1  # the bridge's own shortage is not a failed attempt
        await running.stop()
