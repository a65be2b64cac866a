"""Operators' sessions: a signed cookie that names its token by a keyed fingerprint, and dies with it.

The cookie says who and until when, under a key that every replica derives from the same root. Kept is only which were
ended by signing out, by the replica that was asked and until it stops: the browser has forgotten such a cookie anyway.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bridge.core.errors import BridgeError

SESSION_SECONDS: Final = 12 * 3600
KEY_PURPOSE: Final = "operators' page"
COOKIE_PREFIX: Final = "amux_bridge_"
CSRF_HEADER: Final = "X-CSRF-Token"

_COOKIE = re.compile(r"([0-9a-f]{32})\.([0-9]{10,11})\.([0-9a-f]{32})\.([0-9a-f]{64})")
_OPEN = "open"


class WrongToken(BridgeError):
    """A token that signs nobody in; the message says why, for the form."""

    code = "unauthorized"


@dataclass(frozen=True, slots=True)
class Session:
    """An operator, until when (Unix seconds; None where no sign-in is needed), and what proves a change to be his."""

    operator: str
    expires_at: float | None
    csrf: str

    def proved_by(self, given: str) -> bool:
        """Whether a request's token is this session's; in constant time."""
        return hmac.compare_digest(self.csrf.encode(), given.encode(errors="surrogatepass"))


class Sessions:
    """Begins sessions and knows them again.

    `key` is 32 secret bytes that all replicas share; `operators` and `apps` are token → name, as the settings have
    them; `now` gives Unix seconds by the clock that replicas share.
    """

    def __init__(
        self, key: bytes, operators: Mapping[str, str], apps: Mapping[str, str], *, now: Callable[[], float]
    ) -> None:
        self._key = key
        self._now = now
        # Looked up by a digest under a key that nobody knows, so the time it takes tells nothing of any token.
        self._operators = {self._fingerprint(token): name for token, name in operators.items()}
        self._apps = {self._fingerprint(token) for token in apps}
        self._ended: dict[str, float] = {}  # by CSRF token, which is a session's own: when it would have been over
        # A browser keeps cookies by host, not by port: two bridges on one machine must not sign each other out.
        self.cookie = COOKIE_PREFIX + self._mac("cookie", "")[:8]

    @property
    def possible(self) -> bool:
        """Whether any operator's token is configured."""
        return bool(self._operators)

    def sign_in(self, token: str) -> tuple[str, Session]:
        """The cookie's value and the session of an operator's token. Raises WrongToken."""
        fingerprint = self._fingerprint(token)
        if fingerprint in self._apps:
            raise WrongToken("This is an app's token. The page takes an operator's, from BRIDGE_OPERATOR_TOKENS.")
        if fingerprint not in self._operators:
            raise WrongToken("This token is not known here.")
        expires = int(self._now()) + SESSION_SECONDS
        body = f"{fingerprint}.{expires}.{secrets.token_hex(16)}"
        value = f"{body}.{self._mac('session', body)}"
        return value, Session(self._operators[fingerprint], float(expires), self._mac("csrf", body))

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie's value; None when it is not ours, over, or its token is no longer configured."""
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
        """Know a session no longer; one of everyone on this machine stays."""
        now = self._now()
        self._ended = {csrf: expires for csrf, expires in self._ended.items() if expires > now}
        if session.expires_at is not None:
            self._ended[session.csrf] = session.expires_at

    def is_over(self, session: Session) -> bool:
        """Whether a session has been ended, or its hours have passed."""
        return session.csrf in self._ended or (session.expires_at is not None and session.expires_at <= self._now())

    def anyone(self) -> Session:
        """The session of everyone on this machine, where no token is configured at all."""
        return Session("anyone on this machine", None, self._mac("csrf", _OPEN))

    def _fingerprint(self, token: str) -> str:
        return self._mac("token", token)[:32]

    def _mac(self, use: str, text: str) -> str:
        return hmac.digest(self._key, f"{use}\n{text}".encode(errors="surrogatepass"), "sha256").hex()
