"""The routes of signing in and out."""

import math
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.telemetry import get_logger
from bridge.web.context import CONTEXT
from bridge.web.dashboard.assets import HEADERS, document
from bridge.web.dashboard.context import DASHBOARD, DashboardContext
from bridge.web.dashboard.csrf import is_foreign_form, session_of
from bridge.web.dashboard.sessions import SESSION_SECONDS, Session, WrongToken
from bridge.web.errors import Unauthorized
from bridge.web.rate_limits import TooManySignIns
from bridge.web.requests import json_answer, query_of, secured

_FORM: Final = "application/x-www-form-urlencoded"
_LONGEST_FORM: Final = 8 * 1024  # bytes: a token is some dozens
_UP: Final = "../"  # from /page/sign-in to /, also where a proxy has put the bridge under a path

_log = get_logger("dashboard")


async def sign_in(request: web.Request) -> web.Response:
    """`POST /page/sign-in`: a form's `token` becomes the session's cookie, or the form again with a sentence."""
    query_of(request)
    services, page = request.app[CONTEXT], request.app[DASHBOARD]
    if services.access.open:
        services.access.caller(request.headers)
        return _to_page()
    if is_foreign_form(request.headers, page.public_url):
        return document(_UP, "Another site sent this form. Sign in here instead.", 403)
    address = request.remote or ""
    try:
        page.limits.check(address)
        cookie, session = page.sessions.sign_in(await _token(request))
    except TooManySignIns as error:
        answer = document(_UP, str(error), 429)
        answer.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after_seconds)))
        return answer
    except WrongToken as error:
        page.limits.failed(address)
        _log.event("sign_in_refused", level=30, address=address, reason=str(error))
        return document(_UP, str(error), 401)
    _log.event("signed_in", operator=session.operator, address=address)
    answer = _to_page()
    answer.headers.add(hdrs.SET_COOKIE, _cookie(page, cookie, SESSION_SECONDS))
    return answer


async def sign_out(request: web.Request, session: Session) -> web.Response:
    """`POST /page/sign-out`: the session is over, and the browser forgets the cookie."""
    query_of(request)
    page = request.app[DASHBOARD]
    page.sessions.end(session)
    _log.event("signed_out", operator=session.operator)
    answer = web.Response(status=204)
    answer.headers.add(hdrs.SET_COOKIE, _cookie(page, "", 0))
    secured(answer)
    return answer


async def who(request: web.Request) -> web.Response:
    """`GET /page/session`: who is signed in, and what proves his changes; null for nobody. Raises Forbidden."""
    query_of(request)
    services, page = request.app[CONTEXT], request.app[DASHBOARD]
    try:
        session = session_of(request)
    except Unauthorized:
        return json_answer({"operator": None})
    told: dict[str, Any] = {
        "operator": session.operator,
        "expires_at": session.expires_at,
        "csrf": session.csrf,
        "open": services.access.open,
        "version": page.version,
    }
    return json_answer(told)


def _cookie(page: DashboardContext, value: str, seconds: int) -> str:
    # Without a Path a browser takes the request's folder (RFC 6265, 5.1.4): /page, or /prefix/page behind a proxy.
    # So the cookie is sent to the page's own routes, and never to the API.
    secure = "; Secure" if page.secure else ""
    return f"{page.sessions.cookie}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


def _to_page() -> web.Response:
    return web.Response(status=303, headers={**HEADERS, hdrs.CACHE_CONTROL: "no-store", hdrs.LOCATION: _UP})


async def _token(request: web.Request) -> str:
    """The form's token. Raises WrongToken for a form that holds none."""
    if not request.app[DASHBOARD].sessions.possible:
        raise WrongToken("No operator's token is configured: set BRIDGE_OPERATOR_TOKENS and start the bridge anew.")
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media_type != _FORM or (request.content_length or 0) > _LONGEST_FORM:
        raise WrongToken("This is not the sign-in form.")
    body = b""
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > _LONGEST_FORM:
                raise WrongToken("This is not the sign-in form.")
        given = parse_qs(body.decode(), max_num_fields=10).get("token", [""])
    except (HttpProcessingError, web.RequestPayloadError, ValueError):
        raise WrongToken("This is not the sign-in form.") from None
    token = given[0].strip()
    if not token:
        raise WrongToken("Give an operator's token.")
    return token
