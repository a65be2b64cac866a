"""Serves the page's files from memory, with a content security policy that allows no resource of another origin."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from bridge.core.errors import NotFound
from bridge.web.requests import query_of

FOLDER: Final = Path(__file__).parent / "static"
DOCUMENT: Final = "index.html"

_PREFIX_HEADER: Final = "X-Forwarded-Prefix"
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+){1,20}")
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    """A file's bytes, its content type, and an entity tag made from the bytes."""

    content: bytes
    content_type: str
    etag: str


@cache
def files() -> Mapping[str, File]:
    """Returns every file by its name. All files together have about 130 KB."""
    return {path.name: _read(path) for path in FOLDER.iterdir() if path.suffix in _TYPES}


def _read(path: Path) -> File:
    content = path.read_bytes()
    return File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def document(root: str = "", message: str = "", status: int = 200) -> web.Response:
    """Returns a response with the page's document, which is the same for everyone.

    `root` is the relative path from the request's URL to `/`. `message` is shown in the sign-in form.
    """
    text = files()[DOCUMENT].content.decode()
    text = text.replace("{root}", root).replace("{message}", escape(message))
    headers = {**_HEADERS, hdrs.CACHE_CONTROL: "no-store", hdrs.CONTENT_TYPE: _TYPES[".html"]}
    return web.Response(body=text.encode(), status=status, headers=headers)


async def index(request: web.Request) -> web.Response:
    """Answers `GET /` with the document. The document's script then asks for the session.

    A proxy that removes a path prefix sends the prefix in X-Forwarded-Prefix. The page needs it where its own URL is
    `/prefix` without a final slash: relative links would lead to the folder above.
    """
    prefix = request.headers.get(_PREFIX_HEADER, "").rstrip("/")
    return document(f"{prefix}/" if _PREFIX.fullmatch(prefix) else "")


async def to_index(request: web.Request) -> web.Response:
    """Redirects a browser that opens `/page` or `/page/sign-in` to the document."""
    return redirect("./" if request.path == "/page" else "../")


def redirect(location: str) -> web.Response:
    """Returns a 303 to a relative location, with the page's headers."""
    return web.Response(status=303, headers={**_HEADERS, hdrs.CACHE_CONTROL: "no-store", hdrs.LOCATION: location})


async def static(request: web.Request) -> web.Response:
    """Answers `GET /page/static/{name}` with a file. Raises NotFound.

    Browsers cache the file, and ask at each use whether it has changed.
    """
    query_of(request)
    name = request.match_info["name"]
    file = files().get(name)
    if file is None or name == DOCUMENT:
        raise NotFound("no file has this name")
    headers = {**_HEADERS, hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: file.etag}
    if file.etag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
        return web.Response(status=304, headers=headers)
    return web.Response(body=file.content, headers={**headers, hdrs.CONTENT_TYPE: file.content_type})
