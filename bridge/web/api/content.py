"""`GET /watch/{id}/content`: a video's bytes, from the content cache or from amux, for a token or a signed link."""

import re
from typing import Final

import aiohttp
from aiohttp import hdrs, web

from bridge.amux import AmuxUnavailable
from bridge.amux.content_read import ContentReader
from bridge.amux.proxy import forwarded_headers
from bridge.core.links import is_valid_link
from bridge.core.model import Outcome
from bridge.core.ranges import Part, is_other_version, is_unmodified, range_still_applies
from bridge.store.records import WatchView
from bridge.web.api.streaming import CONTENT_HEADERS, pass_on, range_headers, requested_range, stream
from bridge.web.context import CONTEXT, AppContext
from bridge.web.errors import Forbidden, PreconditionFailed, RangeNotSatisfiable, WatchNotCompleted
from bridge.web.requests import media_type_of, query_of, secured, watch_id_of

LINK_PARAMETERS: Final = ("expires", "signature")
_MEDIA = re.compile(r"(?:video|audio|image)/[a-z0-9][a-z0-9.+-]{0,60}")
_SCRIPTABLE: Final = frozenset({"image/svg+xml", "image/svg"})  # SVG is an image type that can run scripts
_OCTET_STREAM: Final = "application/octet-stream"
_FILE_SUFFIXES: Final = {
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
}
_PASSED_HEADERS: Final = (
    hdrs.CONTENT_ENCODING,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_RANGE,
    hdrs.ETAG,
    hdrs.LAST_MODIFIED,
)
_UNSAFE_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")


async def read_content(request: web.Request) -> web.StreamResponse:
    """Answers `GET /watch/{id}/content` with the video."""
    context = request.app[CONTEXT]
    visible_app = _visible_app(request, context)
    view = await context.store.watch(watch_id_of(request), visible_app)
    if view.watch.outcome is not Outcome.COMPLETED:
        raise WatchNotCompleted("the watch must have the outcome `completed` before its video can be read")
    cache = context.content_cache
    if cache is None or not cache.usable:
        opened: ContentReader | aiohttp.ClientResponse = await _open(context, view, range_headers(request))
    else:
        opened = await cache.open(view.watch.id, lambda: _open(context, view, {}))
    if isinstance(opened, ContentReader):
        context.metrics.content_requests["hit" if opened.found else "miss"].inc()
        try:
            return await _send_file(request, view, opened)
        finally:
            opened.close()
    context.metrics.content_requests["passed_through"].inc()
    return await pass_on(request, opened, _passed_headers(view, opened))


async def _send_file(request: web.Request, view: WatchView, reader: ContentReader) -> web.StreamResponse:
    """Answers from the content cache. Raises PreconditionFailed, RangeNotSatisfiable, or the error of a broken read."""
    head = reader.head
    headers = _own_headers(view, media_type_of({hdrs.CONTENT_TYPE: head.media_type}))
    headers |= {hdrs.ETAG: head.entity_tag, hdrs.ACCEPT_RANGES: "bytes"}
    if head.last_modified is not None:
        headers[hdrs.LAST_MODIFIED] = head.last_modified
    if is_other_version(request.headers.get(hdrs.IF_MATCH), head.entity_tag):
        raise PreconditionFailed("the video is not the version that If-Match names")
    if is_unmodified(request.headers.get(hdrs.IF_NONE_MATCH), head.entity_tag):
        return secured(web.Response(status=304, headers=headers))
    part = await _requested_part(request, reader)
    if part is None:
        status, start, stop = 200, 0, reader.length
    else:
        status, start, stop = 206, part.start, part.stop
        total = "*" if reader.length is None else reader.length
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{total}"
    if stop is not None:
        headers[hdrs.CONTENT_LENGTH] = str(stop - start)
    return await stream(request, web.StreamResponse(status=status, headers=headers), reader.pieces(start, stop))


async def _requested_part(request: web.Request, reader: ContentReader) -> Part | None:
    """Returns the part that a request asks for; None for the whole video. Waits for the length if the range needs it.

    A range is ignored if its bytes are not known while the video is being read. RFC 9110, 14.2 allows this. Raises
    RangeNotSatisfiable, or the error of a broken read.
    """
    wanted = requested_range(request) if request.method == hdrs.METH_GET else None
    if wanted is None or not range_still_applies(request.headers.get(hdrs.IF_RANGE), reader.head.entity_tag):
        return None
    if reader.length is None:
        if wanted.first == 0 and wanted.last is None:
            return None  # `bytes=0-` is the whole video: players that ask for it get the first bytes now
        if wanted.first is not None and wanted.last is not None:
            known = await reader.wait_for_bytes(wanted.last + 1)
            if known and reader.length is None:
                return Part(wanted.first, wanted.last + 1)
        elif not await reader.wait_for_length():
            return None
    if reader.length is None:
        return None
    part = wanted.resolved(reader.length)
    if part is None:
        raise RangeNotSatisfiable(reader.length)
    return part


def _visible_app(request: web.Request, context: AppContext) -> str | None:
    """Returns the app whose watches this request may see. For a valid link to this watch it is None: every app.

    Raises Forbidden for an invalid link, unless the request also has a token.
    """
    query = query_of(request, LINK_PARAMETERS)
    if query:
        now = context.store.now()
        expires, signature = (query.get(name, "") for name in LINK_PARAMETERS)
        if is_valid_link(request.match_info["id"], expires, signature, context.link_key, now):
            return None
        if hdrs.AUTHORIZATION not in request.headers:
            raise Forbidden("this link is invalid or expired; use a token, or the `content_url` of a newer event")
    return context.access.caller(request.headers).visible_app


async def _open(context: AppContext, view: WatchView, conditions: dict[str, str]) -> aiohttp.ClientResponse:
    """Asks amux for the video. Raises AmuxUnavailable for every answer without a video."""
    key = context.proxy.key(await context.store.api_key_of(view.watch.id))
    if key is None:
        raise AmuxUnavailable("there is no amux key to ask for the video: neither the watch nor the bridge has one")
    headers = {hdrs.ACCEPT: "*/*", **conditions}
    source = await context.proxy.open(f"/v1/videos/{view.watch.task_id}/content", key, headers)
    if source.status not in {200, 206, 416}:
        source.close()
        raise AmuxUnavailable(f"amux answered {source.status} to the request for the video")
    return source


def _passed_headers(view: WatchView, source: aiohttp.ClientResponse) -> dict[str, str]:
    """Returns the bridge's headers, and amux's headers that are passed on."""
    passed = forwarded_headers(source.headers)
    media_type = media_type_of(source.headers) if source.status != 416 else _OCTET_STREAM
    return {name: passed[name] for name in _PASSED_HEADERS if name in passed} | _own_headers(view, media_type)


def _own_headers(view: WatchView, media_type: str) -> dict[str, str]:
    """Returns the headers that make a video safe to show.

    Media types that a browser shows without running code are kept. All others become octet-stream.
    """
    inline = _MEDIA.fullmatch(media_type) is not None and media_type not in _SCRIPTABLE
    media_type = media_type if inline else _OCTET_STREAM
    task_id = _UNSAFE_IN_FILE_NAMES.sub("_", view.watch.task_id).lstrip(".")[-100:]
    file_name = task_id + _FILE_SUFFIXES.get(media_type, "")
    return {
        hdrs.CONTENT_TYPE: media_type,
        hdrs.CONTENT_DISPOSITION: f'{"inline" if inline else "attachment"}; filename="{file_name}"',
        **CONTENT_HEADERS,
    }
