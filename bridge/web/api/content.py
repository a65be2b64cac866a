"""`GET /watch/{id}/content`: a completed video's bytes, from amux, for who has a token or a signed link."""

import re
from typing import Final

import aiohttp
from aiohttp import hdrs, web

from bridge.amux import AmuxUnavailable
from bridge.amux.proxy import forwarded_headers
from bridge.core.links import is_valid_link
from bridge.core.model import Outcome
from bridge.store.records import WatchView
from bridge.web.api.streaming import CONTENT_POLICY, pass_on, range_of
from bridge.web.context import CONTEXT, AppContext
from bridge.web.errors import Forbidden, WatchNotCompleted
from bridge.web.requests import query_of, watch_id_of

LINK: Final = ("expires", "signature")
# Types that a browser shows without running anything; SVG is an image that can.
_MEDIA = re.compile(r"(?:video|audio|image)/[a-z0-9][a-z0-9.+-]{0,60}")
_ACTIVE: Final = frozenset({"image/svg+xml", "image/svg"})
_OCTETS: Final = "application/octet-stream"
_ENDINGS: Final = {
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
_AS_THEY_ARE: Final = (
    hdrs.ACCEPT_RANGES,
    hdrs.CONTENT_ENCODING,
    hdrs.CONTENT_LENGTH,
    hdrs.CONTENT_RANGE,
    hdrs.ETAG,
    hdrs.LAST_MODIFIED,
)
_UNSAFE_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]")


async def read_content(request: web.Request) -> web.StreamResponse:
    """`GET /watch/{id}/content`."""
    services = request.app[CONTEXT]
    sees = _may_see(request, services)
    view = await services.store.watch(watch_id_of(request), sees)
    if view.watch.outcome is not Outcome.COMPLETED:
        raise WatchNotCompleted("there is a video once the watch has ended as completed, and no other way")
    source = await _open(services, view, range_of(request))
    if source.status not in {200, 206, 416}:
        source.close()
        raise AmuxUnavailable(f"amux answered {source.status} when it was asked for the video")
    return await pass_on(request, source, _headers(view, source))


def _may_see(request: web.Request, services: AppContext) -> str | None:
    """Whose watches this request may see: all, for who has a good link, for it names the watch.

    Raises Forbidden for a link that is not good, unless there is a token as well.
    """
    query = query_of(request, LINK)
    if query:
        now = services.store.now()
        expires, signature = (query.get(name, "") for name in LINK)
        if is_valid_link(request.match_info["id"], expires, signature, services.link_key, now):
            return None
        if hdrs.AUTHORIZATION not in request.headers:
            raise Forbidden("this link is not valid, or its time is over; a fresh one needs a token to be read")
    return services.access.caller(request.headers).sees


async def _open(services: AppContext, view: WatchView, part: dict[str, str]) -> aiohttp.ClientResponse:
    key = services.proxy.key(await services.store.api_key_of(view.watch.id))
    if key is None:
        raise AmuxUnavailable("this bridge has no amux key any more to ask for the video with")
    headers = {hdrs.ACCEPT: "*/*", **part}
    return await services.proxy.open(f"/v1/videos/{view.watch.task_id}/content", key, headers)


def _headers(view: WatchView, source: aiohttp.ClientResponse) -> dict[str, str]:
    kind = source.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    shown = _MEDIA.fullmatch(kind) is not None and kind not in _ACTIVE and source.status != 416
    kind = kind if shown else _OCTETS
    name = _UNSAFE_IN_NAMES.sub("_", view.watch.task_id).lstrip(".")[-100:] + _ENDINGS.get(kind, "")
    passed = forwarded_headers(source.headers)
    found = {name: passed[name] for name in _AS_THEY_ARE if name in passed}
    return found | {
        hdrs.CONTENT_TYPE: kind,
        hdrs.CONTENT_DISPOSITION: f'{"inline" if shown else "attachment"}; filename="{name}"',
        "Content-Security-Policy": CONTENT_POLICY,
    }
