"""A reverse proxy in front of a bridge: it removes a path prefix and sends the upstream's Host, as nginx does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.test_utils import TestServer
from yarl import URL

PREFIX = "/tools/bridge"
_NOT_PASSED = {"host", "connection", "transfer-encoding", "content-length"}


@asynccontextmanager
async def proxied(bridge_url: str) -> AsyncIterator[URL]:
    """Yields the URL of the bridge's page behind the proxy. The bridge gets another Host than the one in this URL."""
    async with aiohttp.ClientSession(auto_decompress=False) as upstream:

        async def forward(request: web.Request) -> web.StreamResponse:
            path = request.path_qs.removeprefix(PREFIX)
            headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _NOT_PASSED]
            options: Any = {"data": await request.read() or None, "allow_redirects": False}
            async with upstream.request(request.method, bridge_url + path, headers=headers, **options) as answer:
                passed = web.StreamResponse(status=answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in _NOT_PASSED:
                        passed.headers.add(name, value)
                await passed.prepare(request)
                async for chunk in answer.content.iter_any():
                    await passed.write(chunk)
                await passed.write_eof()
                return passed

        app = web.Application()
        app.router.add_route(hdrs.METH_ANY, PREFIX + "/{rest:.*}", forward)
        async with TestServer(app, host="127.0.0.1") as server:
            yield server.make_url(PREFIX + "/")
