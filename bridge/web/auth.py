"""Authentication: a token names an app or an operator. Without configured tokens every local caller is accepted."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohttp import hdrs
from multidict import CIMultiDictProxy

from bridge.core.audit import Actor, Role
from bridge.core.headers import header_bytes
from bridge.core.targets import is_loopback
from bridge.web.errors import Forbidden, Unauthorized

DEFAULT_APP = "default"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
# Values of Sec-Fetch-Site. "none": the user started the request, for example by typing the address.
SAME_SITE = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    `app` is the app that its new watches belong to, None for an operator, who cannot register any. `visible_app` is
    the app whose watches it may see, None for the watches of every app.
    """

    name: str
    app: str | None
    visible_app: str | None

    @property
    def actor(self) -> Actor:
        """The caller in the form of the audit trail."""
        return Actor(self.name, Role.APP if self.app is not None else Role.OPERATOR)

    @property
    def key(self) -> str:
        """The key that rate limits count by. It has the role, because an operator and an app may have the same name."""
        return f"app {self.name}" if self.app is not None else f"operator {self.name}"

    def check_is_operator(self) -> None:
        """Raises Forbidden for an app. Without configured tokens every caller counts as an operator."""
        if self.visible_app is not None:
            raise Forbidden("only operators can do this; use a token of BRIDGE_OPERATOR_TOKENS")

    def require_app(self, action: str = "register watches") -> str:
        """Returns the caller's app. Raises Forbidden for operators, with the action that only apps can do."""
        if self.app is None:
            raise Forbidden(f"operators can read, cancel and retry; only apps can {action}")
        return self.app


_ANYONE = Caller(DEFAULT_APP, DEFAULT_APP, None)


class Access:
    """Finds the caller of a request by `tokens` (token → app) and `operator_tokens` (token → operator's name).

    Without any token, every local caller is app `default` and sees every watch. Another site could then use a local
    browser to attack the bridge. Three headers prevent this: `Host` (the site may own a name that resolves to this
    machine), `Origin` and `Sec-Fetch-Site`.
    """

    def __init__(
        self, tokens: Mapping[str, str], operator_tokens: Mapping[str, str], public_url: str | None = None
    ) -> None:
        self._key = secrets.token_bytes(32)
        apps = {self._digest(token): (token, Caller(app, app, app)) for token, app in tokens.items()}
        operators = {self._digest(token): (token, Caller(name, None, None)) for token, name in operator_tokens.items()}
        self._callers = {digest: (token.encode(), caller) for digest, (token, caller) in (apps | operators).items()}
        self.open = not self._callers  # no token is configured
        public = urlsplit(public_url or "")
        self._public_host = public.hostname
        self._public_origin = f"{public.scheme}://{public.netloc}".lower() if public_url else None

    def caller(self, headers: CIMultiDictProxy[str]) -> Caller:
        """Returns the caller who sent these headers.

        Raises Unauthorized; without tokens, Forbidden for a request that is not local.
        """
        if self.open:
            self._check_local(headers)
            return _ANYONE
        values = headers.getall(hdrs.AUTHORIZATION, [])
        if len(values) != 1:
            raise Unauthorized("send one Authorization header: Authorization: Bearer <token>")
        scheme, _, token = values[0].partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("send the token as Authorization: Bearer <token>")
        token = token.strip(" ")
        # The digest uses a random key, so the time of this look-up reveals nothing about any token.
        expected, caller = self._callers.get(self._digest(token), (b"", None))
        if caller is None or not hmac.compare_digest(expected, header_bytes(token)):
            raise Unauthorized("this token is not known")
        return caller

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(header_bytes(token), key=self._key, digest_size=16).digest()

    def _check_local(self, headers: CIMultiDictProxy[str]) -> None:
        hosts = headers.getall(hdrs.HOST, [])
        host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if host is None or not (is_loopback(host[1].strip("[]")) or host[1].lower() == self._public_host):
            raise Forbidden(
                "without tokens the Host header must be a loopback address or the host of BRIDGE_PUBLIC_URL"
            )
        for site in headers.getall("Sec-Fetch-Site", []):
            if site.lower() not in SAME_SITE:
                raise Forbidden("without tokens the bridge refuses requests that a browser sends for another site")
        for origin in headers.getall(hdrs.ORIGIN, []):
            if origin.lower().partition("://")[2] != hosts[0].lower() and origin.lower() != self._public_origin:
                raise Forbidden(
                    "without tokens the bridge refuses requests whose Origin is another site; behind a proxy, set "
                    "BRIDGE_PUBLIC_URL to the URL that the browser shows"
                )
