"""The routes to sign in, to sign out and to read the session."""

import logging
import math
from typing import Final
from urllib.parse import parse_qs

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from bridge.telemetry import get_logger
from bridge.web.context import CONTEXT
from bridge.web.dashboard.assets import document, redirect
from bridge.web.dashboard.context import DASHBOARD, DashboardContext
from bridge.web.dashboard.csrf import PROXY_ADVICE, is_foreign_form, session_of
from bridge.web.dashboard.sessions import SESSION_SECONDS, Session, WrongToken
from bridge.web.errors import Unauthorized
from bridge.web.rate_limits import TooManySignIns
from bridge.web.requests import json_answer, query_of, secured

_FORM: Final = "application/x-www-form-urlencoded"
_MAX_FORM_BYTES: Final = 8 * 1024  # a token has at most 512 characters
_ROOT: Final = "../"  # from /page/sign-in to /; relative, because a proxy may add a path before it

_log = get_logger("dashboard")


async def sign_in(request: web.Request) -> web.Response:
    """Answers `POST /page/sign-in`: exchanges the form's `token` for a session cookie.

    If that fails, the answer is the form with the reason.
    """
    query_of(request)
    context, dashboard = request.app[CONTEXT], request.app[DASHBOARD]
    if context.access.open:
        context.access.caller(request.headers)
        return redirect(_ROOT)
    if is_foreign_form(request.headers, dashboard.public_url):
        message = f"Another site sent this form. Sign in here instead; {PROXY_ADVICE}."
        return document(_ROOT, message, 403)
    address = request.remote or ""
    try:
        cookie, session = dashboard.sessions.sign_in(await _token(request))
    except WrongToken as error:
        return _refused(dashboard, address, error)
    _log.event("signed_in", operator=session.operator, address=address)
    answer = redirect(_ROOT)
    answer.headers.add(hdrs.SET_COOKIE, _cookie(dashboard, cookie, SESSION_SECONDS))
    return answer


def _refused(dashboard: DashboardContext, address: str, error: WrongToken) -> web.Response:
    """Returns the form with the reason; 429 without the reason when an address tries too often.

    The limit applies to wrong tokens only: behind a proxy all browsers have one address, and no caller may prevent an
    operator from signing in. A token is too long to be guessed.
    """
    try:
        dashboard.limits.check(address)
    except TooManySignIns as too_many:
        answer = document(_ROOT, str(too_many), 429)
        answer.headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(too_many.retry_after_seconds)))
        return answer
    dashboard.limits.failed(address)
    means = "no operator was signed in; many such lines with one address may be an attack"
    _log.event("sign_in_refused", level=logging.WARNING, address=address, reason=str(error), means=means)
    return document(_ROOT, str(error), 401)


async def sign_out(request: web.Request, session: Session) -> web.Response:
    """Answers `POST /page/sign-out`: ends the session and deletes the browser's cookie."""
    query_of(request)
    dashboard = request.app[DASHBOARD]
    dashboard.sessions.end(session)
    _log.event("signed_out", operator=session.operator)
    answer = web.Response(status=204)
    answer.headers.add(hdrs.SET_COOKIE, _cookie(dashboard, "", 0))
    secured(answer)
    return answer


async def read_session(request: web.Request) -> web.Response:
    """Answers `GET /page/session` with the operator and the CSRF token. Raises Forbidden.

    Without a session `operator` is null, and `possible` is whether any operator token is configured.
    """
    query_of(request)
    context, dashboard = request.app[CONTEXT], request.app[DASHBOARD]
    try:
        session = session_of(request)
    except Unauthorized:
        return json_answer({"operator": None, "possible": dashboard.sessions.possible})
    return json_answer(
        {
            "operator": session.operator,
            "csrf": session.csrf,
            "open": context.access.open,
            "version": dashboard.version,
        }
    )


def _cookie(dashboard: DashboardContext, value: str, seconds: int) -> str:
    # Without a Path a browser uses the request's folder (RFC 6265, 5.1.4): /page, or /prefix/page behind a proxy.
    # So the cookie is sent to the page's own routes and never to the API.
    secure = "; Secure" if dashboard.secure else ""
    return f"{dashboard.sessions.cookie_name}={value}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


async def _token(request: web.Request) -> str:
    """Returns the form's token. Raises WrongToken if there is none, or if no operator token is configured."""
    if not request.app[DASHBOARD].sessions.possible:
        raise WrongToken("No operator token is configured. Set BRIDGE_OPERATOR_TOKENS and restart the bridge.")
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media_type != _FORM or (request.content_length or 0) > _MAX_FORM_BYTES:
        raise WrongToken("This request is not the sign-in form.")
    body = b""
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > _MAX_FORM_BYTES:
                raise WrongToken("This request is not the sign-in form.")
        values = parse_qs(body.decode(), max_num_fields=10).get("token", [""])
    except (HttpProcessingError, web.RequestPayloadError, ValueError):
        raise WrongToken("This request is not the sign-in form.") from None
    token = values[0].strip()
    if not token:
        raise WrongToken("Enter an operator token.")
    return token
