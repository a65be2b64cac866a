"""Operators' sessions: a signed cookie with a keyed fingerprint of the operator's token.

The cookie contains the fingerprint and the expiry time. Every replica derives the same signing key, so every replica
accepts it. A session ends when its token is removed from the settings. The only stored state are the sessions that
were signed out: the replica that handled the sign-out keeps them in memory. This is enough, because the browser
deletes the cookie at the same time.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bridge.core.errors import BridgeError
from bridge.web.auth import Caller

SESSION_SECONDS: Final = 12 * 3600
KEY_PURPOSE: Final = "operators' page"
COOKIE_PREFIX: Final = "amux_bridge_"
CSRF_HEADER: Final = "X-CSRF-Token"

_COOKIE = re.compile(r"([0-9a-f]{32})\.([0-9]{10,11})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_OPEN = "open"


class WrongToken(BridgeError):
    """The token is not an operator's. The sign-in form shows the message."""

    code = "unauthorized"


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in operator. `expires_at` is in Unix seconds, None if no sign-in is needed. `csrf` is the CSRF token."""

    operator: str
    expires_at: float | None
    csrf: str

    @property
    def caller(self) -> Caller:
        """The operator as a caller of the API, who sees every app's watches and registers none."""
        return Caller(self.operator, None, None)

    def has_csrf_token(self, token: str) -> bool:
        """Returns whether a request's CSRF token is this session's. The comparison takes constant time."""
        return hmac.compare_digest(self.csrf.encode(), token.encode(errors="surrogatepass"))


class Sessions:
    """Creates, reads and ends sessions.

    `key` is 32 secret bytes that all replicas share. `operators` and `apps` map tokens to names, as in the settings.
    `now` returns Unix seconds of the clock that all replicas share.
    """

    def __init__(
        self, key: bytes, operators: Mapping[str, str], apps: Mapping[str, str], *, now: Callable[[], float]
    ) -> None:
        self._key = key
        self._now = now
        # Tokens are looked up by a keyed digest, so the time of a look-up reveals nothing about any token.
        self._operators = {self._fingerprint(token): name for token, name in operators.items()}
        self._apps = {self._fingerprint(token) for token in apps}
        self._ended: dict[str, float] = {}  # signed-out sessions: CSRF token (unique to a session) -> expiry time
        # Browsers store cookies by host, not by port: two bridges on one machine need different cookie names.
        self.cookie_name = COOKIE_PREFIX + self._mac("cookie", "")[:8]

    @property
    def possible(self) -> bool:
        """Whether any operator token is configured."""
        return bool(self._operators)

    def sign_in(self, token: str) -> tuple[str, Session]:
        """Returns the cookie's value and a new session for an operator token. Raises WrongToken for any other token."""
        fingerprint = self._fingerprint(token)
        if fingerprint in self._apps:
            raise WrongToken("This is an app token. Use an operator token from BRIDGE_OPERATOR_TOKENS.")
        if fingerprint not in self._operators:
            raise WrongToken("This token is not valid.")
        expires = int(self._now()) + SESSION_SECONDS
        body = f"{fingerprint}.{expires}.{secrets.token_hex(16)}"
        value = f"{body}.{self._mac('session', body)}"
        return value, Session(self._operators[fingerprint], float(expires), self._mac("csrf", body))

    def read(self, cookie: str | None) -> Session | None:
        """Returns the session of a cookie's value.

        Returns None if the cookie is invalid, the session has ended, or its token is no longer configured.
        """
        parts = _COOKIE.fullmatch(cookie or "")
        if parts is None:
            return None
        body = f"{parts[1]}.{parts[2]}.{parts[3]}"
        if not hmac.compare_digest(self._mac("session", body), parts[4]):
            return None
        operator, csrf = self._operators.get(parts[1]), self._mac("csrf", body)
        if operator is None or float(parts[2]) <= self._now() or csrf in self._ended:
            return None
        return Session(operator, float(parts[2]), csrf)

    def end(self, session: Session) -> None:
        """Ends a session on this replica. The session of `anyone` cannot be ended."""
        now = self._now()
        self._ended = {csrf: expires for csrf, expires in self._ended.items() if expires > now}
        if session.expires_at is not None:
            self._ended[session.csrf] = session.expires_at

    def is_over(self, session: Session) -> bool:
        """Returns whether a session was signed out on this replica or has expired."""
        return session.csrf in self._ended or (session.expires_at is not None and session.expires_at <= self._now())

    def anyone(self) -> Session:
        """Returns the session of every local caller, for a bridge without any configured token."""
        return Session("anyone on this machine", None, self._mac("csrf", _OPEN))

    def _fingerprint(self, token: str) -> str:
        return self._mac("token", token)[:32]

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.digest(self._key, f"{purpose}\n{text}".encode(errors="surrogatepass"), "sha256").hex()
