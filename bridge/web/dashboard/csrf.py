"""Who may: a session for all that is shown, and the same origin's proof and its CSRF token for all that is changed."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDictProxy

from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.sessions import CSRF_HEADER, Session
from bridge.web.errors import Forbidden, Unauthorized

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
SessionsHandler: TypeAlias = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]

_OWN_SITE: Final = frozenset({"same-origin", "none"})  # "none": the user's own doing, such as an address typed in


def reading(handler: SessionsHandler) -> Handler:
    """A route that shows something: it needs a session, and no other site may ask."""

    @wraps(handler)
    async def with_session(request: web.Request) -> web.StreamResponse:
        return await handler(request, session_of(request))

    return with_session


def changing(handler: SessionsHandler) -> Handler:
    """A route that changes something: a session, proof of the same origin, and the session's CSRF token."""

    @wraps(handler)
    async def with_proof(request: web.Request) -> web.StreamResponse:
        session = session_of(request)
        if not comes_from_page(request.headers, request.app[DASHBOARD].public_url):
            raise Forbidden("a change must come from the page itself: its Origin or Sec-Fetch-Site does not say so")
        if not session.proved_by(request.headers.get(CSRF_HEADER, "")):
            raise Forbidden(f"a change must carry the session's {CSRF_HEADER}; reload the page")
        return await handler(request, session)

    return with_proof


def session_of(request: web.Request) -> Session:
    """The session that a request's cookie names. Raises Unauthorized, or Forbidden for what another site sends.

    Without any token configured everyone who is local has one, under the checks that the API makes as well.
    """
    services, page = request.app[CONTEXT], request.app[DASHBOARD]
    if services.access.open:
        services.access.caller(request.headers)
        return page.sessions.anyone()
    if any(site.lower() not in _OWN_SITE for site in request.headers.getall("Sec-Fetch-Site", [])):
        raise Forbidden("another site asks for this page's data")
    session = page.sessions.read(request.cookies.get(page.sessions.cookie))
    if session is None:
        raise Unauthorized("sign in with an operator's token; a session lasts 12 hours and ends with its token")
    return session


def comes_from_page(headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Whether the browser itself says that our own page sends this; what says nothing is no browser's."""
    sites = headers.getall("Sec-Fetch-Site", [])
    origins = headers.getall("Origin", [])
    if any(site.lower() != "same-origin" for site in sites):
        return False
    if not all(is_own(origin, headers, public_url) for origin in origins):
        return False
    return bool(sites or origins)


def is_foreign_form(headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Whether a browser says that another site sends this form.

    "null" is what browsers make of our own origin in a form's request, for the page gives no referrer.
    """
    if any(site.lower() not in _OWN_SITE for site in headers.getall("Sec-Fetch-Site", [])):
        return True
    origins = [origin for origin in headers.getall("Origin", []) if origin.lower() != "null"]
    return not all(is_own(origin, headers, public_url) for origin in origins)


def is_own(origin: str, headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Whether an Origin is the bridge's: the Host that was asked, or that of the public URL."""
    hosts = headers.getall("Host", [])
    scheme, _, place = origin.lower().partition("://")
    if len(hosts) == 1 and scheme in {"http", "https"} and place == hosts[0].lower():
        return True
    public = urlsplit(public_url or "")
    return public_url is not None and origin.lower() == f"{public.scheme}://{public.netloc}".lower()
