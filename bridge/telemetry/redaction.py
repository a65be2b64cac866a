"""Taking secrets out of text: those we know by heart, and what looks like one.

Redact before cutting a text to length: half a secret is not recognised.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MARK = "[redacted]"
SHORTEST_SECRET = 6  # characters; shorter ones are found in any text, and redacting them would tell them

# What a value is made of: all up to white space, quotes, and the marks that end it in JSON, URLs and headers.
_VALUE = r"""[^\s"'\\,;&<>\]}]"""
_PATTERNS = (
    (re.compile(r"whs(?:ec|k)_(?:[A-Za-z0-9+/_-]|%2[BFbf]|\\/){16,}(?:=|%3[Dd]){0,2}"), MARK),
    (re.compile(rf"\bBearer(\s+|%20|\+)(?!\[redacted){_VALUE}{{6,}}"), rf"Bearer\1{MARK}"),
    # In lower case they are words as well, and amux's messages repeat prompts: a token here holds a digit or "=".
    # Looking for it is bounded, as a text that repeats the word would be read once for each.
    (
        re.compile(rf"\b(bearer|basic)(\s+|%20|\+)(?={_VALUE}{{0,64}}[0-9=]){_VALUE}{{6,}}", re.IGNORECASE),
        rf"\1\2{MARK}",
    ),
    (re.compile(r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{6,}"), MARK),  # not the end of "task-..."
    (re.compile(rf"([?&]signature=)(?!\[redacted){_VALUE}+"), rf"\1{MARK}"),  # a content link is as good as a token
    (re.compile(r"""(://)[^\s/?#@"'\\]+@"""), rf"\1{MARK}@"),  # user and password of a URL
)
_HINTS = ("whsec_", "whsk_", "bearer", "basic", "sk-", "signature=", "@")  # each pattern needs one of them
_FRONT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*@")
_PERCENT = re.compile(r"%[0-9A-F]{2}")


class Redactor:
    """Replaces secrets by `[redacted]`. Any thread may clean while one adds."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Know one more secret; one of fewer than 6 characters is passed over."""
        known = self._known | _spellings(secret)
        self._known, self._pattern = known, _any_of(known)

    def suspects(self, text: str) -> bool:
        """Whether `clean` might change the text, or any text that it is joined of by white space."""
        folded = text.casefold()  # as IGNORECASE: the long s counts as one
        for hint in _HINTS:  # loops: `any` over a generator takes half as long again, for every line
            if hint in folded:
                return True
        for secret in self._known:  # noqa: SIM110
            if secret in text:
                return True
        return False

    def clean(self, text: str, extra: Iterable[str] = ()) -> str:
        """The text without the secrets that are known, those in `extra`, and what looks like a key or token."""
        extra = tuple(extra)
        if not extra and not self.suspects(text):
            return text  # nearly always: looking for words takes a tenth of what the patterns do
        if self._pattern is not None:
            text = self._pattern.sub(MARK, text)
        for spelling in _longest_first(frozenset().union(*map(_spellings, extra))):
            text = text.replace(spelling, MARK)  # a pattern for one text would cost more than it saves
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


REDACTOR = Redactor()  # the process's own: log lines come from everywhere, also from libraries


def redact(text: str, extra: Iterable[str] = ()) -> str:
    """The text without the process's secrets and without those in `extra` (such as a watch's header values)."""
    return REDACTOR.clean(text, extra)


def without_query(url: str) -> str:
    """The URL as it may be logged: no query, fragment or user info, which is where callbacks carry tokens.

    Never raises, whatever the text.
    """
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    front = _FRONT.match(bare)
    return bare if front is None else f"{front[1] or ''}//{bare[front.end() :]}"


def _spellings(secret: str) -> frozenset[str]:
    """A secret as texts may repeat it: as it is, percent-encoded, in JSON, and without its prefix or scheme."""
    bodies = {secret, secret.strip(), secret.rpartition(" ")[2]}  # "Basic abc": the last is "abc"
    bodies |= {body.partition("_")[2] for body in bodies if body.startswith(("whsec_", "whsk_"))}
    spelled = {body for body in bodies if len(body) >= SHORTEST_SECRET}
    for body in tuple(spelled):
        in_json = json.dumps(body, ensure_ascii=False)[1:-1]
        in_url = quote(body, safe="", errors="replace")
        spelled |= {
            in_json,
            in_json.replace("/", "\\/"),
            json.dumps(body)[1:-1],
            in_url,
            _PERCENT.sub(lambda found: found[0].lower(), in_url),
        }
        spelled |= {quote(body, errors="replace"), quote_plus(body, errors="replace")}
    return frozenset(spelled)


def _any_of(secrets: frozenset[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, _longest_first(secrets)))) if secrets else None


def _longest_first(secrets: frozenset[str]) -> list[str]:
    # Where one secret begins another, nothing of the longer one may be left.
    return sorted(secrets, key=len, reverse=True)
