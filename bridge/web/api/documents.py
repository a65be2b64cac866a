"""The API's document: as OpenAPI, and as a page to read."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final

import orjson
from aiohttp import web

from bridge.web.api.docs import STYLE, page_of
from bridge.web.requests import JSON, query_of, secured


class Document:
    """The document, made when it is first asked for: that takes longer than many a start."""

    def __init__(self, build: Callable[[], Mapping[str, Any]]) -> None:
        self._build = build

    @cached_property
    def openapi(self) -> bytes:
        """OpenAPI 3.1, as JSON."""
        return orjson.dumps(self._document)

    @cached_property
    def page(self) -> bytes:
        """The same, as HTML."""
        return page_of(self._document).encode()

    @cached_property
    def _document(self) -> Mapping[str, Any]:
        return self._build()


DOCUMENT: Final = web.AppKey("DOCUMENT", Document)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


async def openapi(request: web.Request) -> web.StreamResponse:
    """`GET /openapi.json`."""
    query_of(request)
    return secured(web.Response(body=request.app[DOCUMENT].openapi, content_type=JSON))


async def docs(request: web.Request) -> web.StreamResponse:
    """`GET /docs`."""
    query_of(request)
    found = web.Response(
        body=request.app[DOCUMENT].page, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS
    )
    return secured(found)
