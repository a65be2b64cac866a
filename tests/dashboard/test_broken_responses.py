"""An error in the middle of a download or of the live stream: the browser sees an incomplete body; the log has why."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from bridge.core.errors import StoreUnavailable
from bridge.sandbox import Behaviour, Outcome
from bridge.web.dashboard import export, live_stream
from tests.dashboard.harness import running_bridge
from tests.web.raw_client import raw_get

DOWNLOADS = ["/page/watches.csv", "/page/watches.jsonl"]


@pytest.mark.parametrize("path", [*DOWNLOADS, "/page/live"])
@pytest.mark.parametrize("error", [RuntimeError("a bug"), StoreUnavailable("gone")], ids=["bug", "store"])
async def test_an_error_in_the_middle_breaks_the_response_off(
    tmp_path: Path, path: str, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pages = export._pages

    async def breaks_off(*arguments: Any) -> AsyncIterator[Any]:
        async for page in pages(*arguments):
            yield page
            raise error

    async def no_changes(_: Any) -> None:
        raise error

    async with running_bridge(tmp_path) as bridge:
        operator = await bridge.operator()
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        monkeypatch.setattr(export, "_pages", breaks_off)
        monkeypatch.setattr(live_stream._LiveData, "_send_changes", no_changes)
        caplog.set_level(logging.INFO)
        port = int(bridge.url.rpartition(":")[2])
        answer = await raw_get(port, path, {"Cookie": operator.cookie})
        answer.check_incomplete(watch["id"].encode() if path in DOWNLOADS else b"retry: ")
        with pytest.raises(ClientPayloadError):
            await operator.get(path)
    logged = [(record.message, record.levelname) for record in caplog.records if record.name == "bridge.web"]
    expected = ("response_aborted", "WARNING") if isinstance(error, StoreUnavailable) else ("request_failed", "ERROR")
    assert logged == [expected] * 2
    counts = [one.__dict__["bridge_fields"]["count"] for one in caplog.records if one.message == "watches_exported"]
    assert counts == ([1, 1] if path in DOWNLOADS else [])
