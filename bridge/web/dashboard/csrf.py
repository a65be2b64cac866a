"""Access to the dashboard. Every read needs a session. Every change also needs the same origin and a CSRF token."""

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web
from multidict import CIMultiDictProxy

from bridge.web.auth import SAME_SITE
from bridge.web.context import CONTEXT
from bridge.web.dashboard.context import DASHBOARD
from bridge.web.dashboard.sessions import CSRF_HEADER, SESSION_SECONDS, Session
from bridge.web.errors import Forbidden, Unauthorized

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
SessionHandler: TypeAlias = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]

_SIGN_IN: Final = (
    f"sign in with an operator token; a session ends after {SESSION_SECONDS // 3600} hours or when its token is removed"
)
PROXY_ADVICE: Final = "behind a proxy that changes the Host, set BRIDGE_PUBLIC_URL to the URL that the browser shows"


def reading(handler: SessionHandler) -> Handler:
    """Returns the handler of a route that shows data: it needs a session, and refuses requests from other sites."""

    @wraps(handler)
    async def with_session(request: web.Request) -> web.StreamResponse:
        return await handler(request, session_of(request))

    return with_session


def changing(handler: SessionHandler) -> Handler:
    """Returns the handler of a route that changes something.

    It needs a session, the same origin and the session's CSRF token.
    """

    @wraps(handler)
    async def with_proof(request: web.Request) -> web.StreamResponse:
        session = session_of(request)
        if not comes_from_page(request.headers, request.app[DASHBOARD].public_url):
            raise Forbidden(f"only the dashboard can send changes, and this request is not from it; {PROXY_ADVICE}")
        if not session.has_csrf_token(request.headers.get(CSRF_HEADER, "")):
            raise Forbidden(f"a change needs the session's {CSRF_HEADER}; reload the page")
        return await handler(request, session)

    return with_proof


def session_of(request: web.Request) -> Session:
    """Returns the session of a request's cookie. Raises Unauthorized, or Forbidden for a request from another site.

    Without any configured token every local caller has a session, after the same checks as in the API.
    """
    context, dashboard = request.app[CONTEXT], request.app[DASHBOARD]
    if context.access.open:
        context.access.caller(request.headers)
        return dashboard.sessions.anyone()
    if any(site.lower() not in SAME_SITE for site in request.headers.getall("Sec-Fetch-Site", [])):
        raise Forbidden("another site cannot read the data of the dashboard")
    session = dashboard.sessions.read(request.cookies.get(dashboard.sessions.cookie_name))
    if session is None:
        raise Unauthorized(_SIGN_IN)
    return session


def comes_from_page(headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Returns whether the browser states that this page sent the request. False if no header states it.

    `Sec-Fetch-Site: same-origin` is enough: the browser has compared the origins, and no site can set this header.
    Browsers send it only to https and to localhost. Without it, the Origin is compared with the Host, which a proxy may
    have changed, and with the public URL.
    """
    sites = headers.getall("Sec-Fetch-Site", [])
    if sites:
        return all(site.lower() == "same-origin" for site in sites) and "null" not in headers.getall("Origin", [])
    origins = headers.getall("Origin", [])
    return bool(origins) and all(_is_own_origin(origin, headers, public_url) for origin in origins)


def is_foreign_form(headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Returns whether the browser states that another site sent this form.

    The Origin "null" is allowed: browsers send it for our own form, because the page's referrer policy is
    `no-referrer`.
    """
    if sites := headers.getall("Sec-Fetch-Site", []):
        return any(site.lower() not in SAME_SITE for site in sites)
    origins = [origin for origin in headers.getall("Origin", []) if origin.lower() != "null"]
    return not all(_is_own_origin(origin, headers, public_url) for origin in origins)


def _is_own_origin(origin: str, headers: CIMultiDictProxy[str], public_url: str | None) -> bool:
    """Returns whether an Origin is the bridge's own: it names the request's Host or the public URL."""
    hosts = headers.getall("Host", [])
    scheme, _, place = origin.lower().partition("://")
    if len(hosts) == 1 and scheme in {"http", "https"} and place == hosts[0].lower():
        return True
    public = urlsplit(public_url or "")
    return public_url is not None and origin.lower() == f"{public.scheme}://{public.netloc}".lower()
