"""Who may: apps and operators by their tokens; everyone on this machine when no token is configured."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from multidict import CIMultiDictProxy

from bridge.core.targets import is_loopback
from bridge.web.errors import Forbidden, Unauthorized

DEFAULT_APP = "default"
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_SAME_SITE = frozenset({"same-origin", "none"})  # "none": the user's own doing, such as an address typed in


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `app` is None for an operator, who registers nothing; `sees` is None for who sees every app's."""

    name: str
    app: str | None
    sees: str | None

    @property
    def key(self) -> str:
        """What limits count by; an operator may bear an app's name."""
        return f"app {self.name}" if self.app is not None else f"operator {self.name}"

    def registering(self) -> str:
        """The app that a new watch belongs to. Raises Forbidden for operators."""
        if self.app is None:
            raise Forbidden("operators see, cancel and resend; only apps register")
        return self.app


_ANYONE = Caller(DEFAULT_APP, DEFAULT_APP, None)


class Access:
    """Tells callers by what `tokens` (token → app) and `operator_tokens` (token → name) say.

    With neither, everyone who is local is app `default` and sees all, and a browser that another site has turned
    against the bridge is refused: by `Host` (a name of the site's own that leads here), `Origin`, `Sec-Fetch-Site`.
    """

    def __init__(
        self, tokens: Mapping[str, str], operator_tokens: Mapping[str, str], public_url: str | None = None
    ) -> None:
        self._key = secrets.token_bytes(32)
        apps = {self._digest(token): (token, Caller(app, app, app)) for token, app in tokens.items()}
        operators = {self._digest(token): (token, Caller(name, None, None)) for token, name in operator_tokens.items()}
        self._known = {digest: (token.encode(), caller) for digest, (token, caller) in (apps | operators).items()}
        public = urlsplit(public_url or "")
        self._public_host = public.hostname
        self._public_origin = f"{public.scheme}://{public.netloc}".lower() if public_url else None

    @property
    def open(self) -> bool:
        """Whether no token is configured at all."""
        return not self._known

    def caller(self, headers: CIMultiDictProxy[str]) -> Caller:
        """Who sent these headers. Raises Unauthorized, or Forbidden for a request that is not local."""
        if self.open:
            self._check_local(headers)
            return _ANYONE
        given = headers.getall("Authorization", [])
        if len(given) != 1:
            raise Unauthorized("give a token once, as Authorization: Bearer <token>")
        scheme, _, token = given[0].partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("give a token as Authorization: Bearer <token>")
        token = token.strip(" ")
        # The digest is under a key that nobody knows, so the time of its look-up tells nothing of any token.
        expected, caller = self._known.get(self._digest(token), (b"", None))
        if caller is None or not hmac.compare_digest(expected, _as_bytes(token)):
            raise Unauthorized("this token is not known here")
        return caller

    def _digest(self, token: str) -> bytes:
        return hashlib.blake2b(_as_bytes(token), key=self._key, digest_size=16).digest()

    def _check_local(self, headers: CIMultiDictProxy[str]) -> None:
        hosts = headers.getall("Host", [])
        host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if host is None or not (is_loopback(host[1].strip("[]")) or host[1].lower() == self._public_host):
            raise Forbidden("without tokens this bridge answers to a loopback Host or to BRIDGE_PUBLIC_URL's only")
        for site in headers.getall("Sec-Fetch-Site", []):
            if site.lower() not in _SAME_SITE:
                raise Forbidden("without tokens this bridge refuses what a browser sends for another site")
        for origin in headers.getall("Origin", []):
            if origin.lower().partition("://")[2] != hosts[0].lower() and origin.lower() != self._public_origin:
                raise Forbidden("without tokens this bridge refuses requests of another origin")


def _as_bytes(text: str) -> bytes:
    """Bytes of whatever a header holds; aiohttp makes lone surrogates of those that are not UTF-8."""
    return text.encode(errors="surrogatepass")
