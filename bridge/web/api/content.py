"""`GET /watch/{id}/content`: a completed video's bytes, streamed from amux, for a token or a signed link."""

import re
from typing import Final

import aiohttp
from aiohttp import hdrs, web

from bridge.amux import AmuxUnavailable
from bridge.amux.proxy import forwarded_headers
from bridge.core.links import is_valid_link
from bridge.core.model import Outcome
from bridge.store.records import WatchView
from bridge.web.api.streaming import CONTENT_HEADERS, pass_on, range_headers
from bridge.web.context import CONTEXT, AppContext
from bridge.web.errors import Forbidden, WatchNotCompleted
from bridge.web.requests import media_type_of, query_of, watch_id_of

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
    hdrs.ACCEPT_RANGES,
    hdrs.CONTENT_ENCODING,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_RANGE,
    hdrs.ETAG,
    hdrs.LAST_MODIFIED,
)
_UNSAFE_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")


async def read_content(request: web.Request) -> web.StreamResponse:
    """`GET /watch/{id}/content`."""
    context = request.app[CONTEXT]
    visible_app = _visible_app(request, context)
    view = await context.store.watch(watch_id_of(request), visible_app)
    if view.watch.outcome is not Outcome.COMPLETED:
        raise WatchNotCompleted("the watch must have the outcome `completed` before its video can be read")
    source = await _open(context, view, range_headers(request))
    if source.status not in {200, 206, 416}:
        source.close()
        raise AmuxUnavailable(f"amux answered {source.status} to the request for the video")
    return await pass_on(request, source, _response_headers(view, source))


def _visible_app(request: web.Request, context: AppContext) -> str | None:
    """Returns the app whose watches this request may see: None, which is every app, with a valid link to this watch.

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
    key = context.proxy.key(await context.store.api_key_of(view.watch.id))
    if key is None:
        raise AmuxUnavailable("there is no amux key to ask for the video: neither the watch nor the bridge has one")
    headers = {hdrs.ACCEPT: "*/*", **conditions}
    return await context.proxy.open(f"/v1/videos/{view.watch.task_id}/content", key, headers)


def _response_headers(view: WatchView, source: aiohttp.ClientResponse) -> dict[str, str]:
    """Returns our headers, and those of amux that are passed on.

    Only types that a browser shows without running anything keep their type; others become octet-stream.
    """
    media_type = media_type_of(source.headers)
    inline = _MEDIA.fullmatch(media_type) is not None and media_type not in _SCRIPTABLE and source.status != 416
    media_type = media_type if inline else _OCTET_STREAM
    task_id = _UNSAFE_IN_FILE_NAMES.sub("_", view.watch.task_id).lstrip(".")[-100:]
    file_name = task_id + _FILE_SUFFIXES.get(media_type, "")
    passed = forwarded_headers(source.headers)
    return {name: passed[name] for name in _PASSED_HEADERS if name in passed} | {
        hdrs.CONTENT_TYPE: media_type,
        hdrs.CONTENT_DISPOSITION: f'{"inline" if inline else "attachment"}; filename="{file_name}"',
        **CONTENT_HEADERS,
    }
