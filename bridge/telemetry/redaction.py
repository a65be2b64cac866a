"""Redaction: removes known secrets, and text that looks like a secret, from texts.

Redact a text before you cut it to a length, because a part of a secret is not recognised.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

MARK = "[redacted]"
SHORTEST_SECRET = 6  # characters; shorter ones also occur by chance, and redacting them would reveal them

# The characters of a value: all except white space, quotes, and those that end a value in JSON, URLs and headers.
_VALUE = r"""[^\s"'\\,;&<>\]}]"""
_PATTERNS = (
    (re.compile(r"whs(?:ec|k)_(?:[A-Za-z0-9+/_-]|%2[BFbf]|\\/){16,}(?:=|%3[Dd]){0,2}"), MARK),
    (re.compile(rf"\bBearer(\s+|%20|\+)(?!\[redacted){_VALUE}{{6,}}"), rf"Bearer\1{MARK}"),
    # In lower case these are also ordinary words, and amux's messages repeat prompts. So a token here must contain a
    # digit or "=". The look-ahead is limited: otherwise a text would be read once more for each time it has the word.
    (
        re.compile(rf"\b(bearer|basic)(\s+|%20|\+)(?={_VALUE}{{0,64}}[0-9=]){_VALUE}{{6,}}", re.IGNORECASE),
        rf"\1\2{MARK}",
    ),
    (re.compile(r"(?<![A-Za-z0-9_-])sk-[A-Za-z0-9_-]{6,}"), MARK),  # not the end of "task-..."
    (re.compile(rf"([?&]signature=)(?!\[redacted){_VALUE}+"), rf"\1{MARK}"),  # a content link works like a token
    (re.compile(r"""(://)[^\s/?#@"'\\]+@"""), rf"\1{MARK}@"),  # user and password in a URL
)
_HINTS = (
    "whsec_",
    "whsk_",
    "bearer",
    "basic",
    "sk-",
    "signature=",
    "@",
)  # each pattern can only match a text that contains one of these
_SCHEME_AND_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//[^/]*@")
_PERCENT = re.compile(r"%[0-9A-F]{2}")


class Redactor:
    """Replaces secrets by `[redacted]`. It can be used by several threads."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Adds a known secret. A secret of fewer than 6 characters is ignored."""
        known = self._known | _forms(secret)
        self._known, self._pattern = known, _any_of(known)

    def suspects(self, text: str) -> bool:
        """Returns whether `clean` might change the text.

        The text may be several texts joined by white space. The result is then true if it is true for any of them.
        """
        folded = text.casefold()  # like IGNORECASE, which treats the long s as an s
        for hint in _HINTS:  # a loop: `any` with a generator takes 1.5 times as long, for every line
            if hint in folded:
                return True
        for secret in self._known:  # noqa: SIM110
            if secret in text:
                return True
        return False

    def clean(self, text: str, extra: Iterable[str] = ()) -> str:
        """Returns the text without known secrets, the secrets in `extra`, and what looks like a key or a token."""
        extra = tuple(extra)
        if not extra and not self.suspects(text):
            return text  # nearly always; `suspects` takes a tenth of the time of the patterns
        if self._pattern is not None:
            text = self._pattern.sub(MARK, text)
        for form in _longest_first(frozenset().union(*map(_forms, extra))):
            text = text.replace(form, MARK)  # a pattern for one text would cost more than it saves
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


REDACTOR = Redactor()  # one for the process, because libraries write log lines too


def redact(text: str, extra: Iterable[str] = ()) -> str:
    """Returns the text without the process's secrets and those in `extra`, such as a watch's header values."""
    return REDACTOR.clean(text, extra)


def without_query(url: str) -> str:
    """Returns the URL as it may be logged: without query, fragment and user info, which may contain tokens.

    Never raises, even if the text is not a URL.
    """
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    front = _SCHEME_AND_USER.match(bare)
    return bare if front is None else f"{front[1] or ''}//{bare[front.end() :]}"


def _forms(secret: str) -> frozenset[str]:
    """Returns the forms of a secret in texts: unchanged, percent-encoded, in JSON, without its prefix or scheme."""
    bodies = {secret, secret.strip(), secret.rpartition(" ")[2]}  # "Basic abc": the last one is "abc"
    bodies |= {body.partition("_")[2] for body in bodies if body.startswith(("whsec_", "whsk_"))}
    forms = {body for body in bodies if len(body) >= SHORTEST_SECRET}
    for body in tuple(forms):
        in_json = json.dumps(body, ensure_ascii=False)[1:-1]
        in_url = quote(body, safe="", errors="replace")
        forms |= {
            in_json,
            in_json.replace("/", "\\/"),
            json.dumps(body)[1:-1],
            in_url,
            _PERCENT.sub(lambda match: match[0].lower(), in_url),
        }
        forms |= {quote(body, errors="replace"), quote_plus(body, errors="replace")}
    return frozenset(forms)


def _any_of(secrets: frozenset[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, _longest_first(secrets)))) if secrets else None


def _longest_first(secrets: frozenset[str]) -> list[str]:
    # If one secret is the start of another, no part of the longer one may remain.
    return sorted(secrets, key=len, reverse=True)
