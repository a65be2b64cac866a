"""Searches for watches by free text: which texts are allowed, and whether a watch contains one. Case is ignored.

A text matches a part of a watch's ids (its own, its task's, its events'), a part of the host and path of its callback
URL, or a part of a string or number in its context. The query of a callback URL may contain a secret: it is not
searched.
Callback URLs are compared in a normal form (RFC 3986, section 6.2), so that every spelling of a URL finds it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from bridge.core.errors import BridgeError
from bridge.core.ids import (
    EVENT_ID_PATTERN,
    EVENT_ID_PREFIX,
    EVENT_ID_SUFFIXES,
    TASK_ID_PATTERN,
    WATCH_ID_PATTERN,
    WATCH_ID_PREFIX,
    watch_id_text,
)
from bridge.core.registration import read_json
from bridge.core.targets import DEFAULT_PORTS, MAX_URL_CHARACTERS, bracketed, split_authority

MAX_TEXT = MAX_URL_CHARACTERS  # a callback URL as it was registered

_WRAPPING = re.compile(r"\A[\s\"'`<>()\[\]{},;]+|[\s\"'`<>()\[\]{},;]+\Z")  # people copy these together with an id
_URL = re.compile(r"(?:https?:/)?/|[^/?#\s]*[.:][^?#\s]*[?#]|[^?#\s]+\?[^?#=\s]+=", re.IGNORECASE)
_WATCH_ID = re.compile(rf"(?<![A-Za-z0-9]){WATCH_ID_PATTERN}(?![A-Za-z0-9])", re.IGNORECASE)
_EVENT_ID = re.compile(rf"(?<![A-Za-z0-9]){EVENT_ID_PATTERN}(?![A-Za-z0-9])", re.IGNORECASE)
_TASK_ID = re.compile(TASK_ID_PATTERN)
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})")
_IDS_IN_A_TEXT = 20


@dataclass(frozen=True, slots=True)
class UrlPart:
    """A part of callback URLs in their normal form: the whole `text`, and the parts of it in `host` and in `path`.

    `host` is empty if the text does not show where a host ends; `path` is then the whole text.
    """

    text: str
    host: str
    path: str


@dataclass(frozen=True, slots=True)
class SearchText:
    """A text to search for.

    `given` is the original text, and `text` the same in folded case. `place` is the text that is searched in callback
    URLs: the text without a query, or None if no part of it can be in a URL. `url_parts` has `place` in the normal
    form, once for each way to read it as a part of a URL. `number` is the text as JSON writes it, if it is a number.
    `watch_ids` and `event_ids` are whole ids in the text; `task_id` is the text if it can be a task id. Indexes find
    these ids in watches of any age.
    """

    given: str
    text: str
    place: str | None
    number: str | None = None
    watch_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    task_id: str | None = None
    in_apps: bool = False
    url_parts: tuple[UrlPart, ...] = ()

    @classmethod
    def of(cls, pasted: str, *, in_apps: bool = False) -> "SearchText":
        """Returns the search for a pasted text, without the white space, quotes and brackets around it.

        With `in_apps`, the names of apps are searched too. Raises ValueError for a text that cannot be searched for.
        """
        text = _WRAPPING.sub("", pasted) or pasted.strip()
        if not 1 <= len(text) <= MAX_TEXT or "\0" in text or not _is_unicode(text):
            raise ValueError(f"must be 1 to {MAX_TEXT:,} characters, without NUL")
        place = _place(text)
        return cls(
            text,
            text.casefold(),
            place,
            _number(text),
            _ids(_WATCH_ID, text),
            _ids(_EVENT_ID, text),
            text if _TASK_ID.fullmatch(text) else None,
            in_apps,
            () if place is None else tuple(_url_parts(place)),
        )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _place(text: str) -> str | None:
    """Returns the part of a text that can be in a callback URL without its query."""
    before = re.split(r"[?#]", text)[0]
    if before == text or _URL.match(text):
        return before.casefold() or None
    return None


def _url_parts(place: str) -> Iterator[UrlPart]:
    """Yields each way to read a text as a part of a callback URL: with a host at its beginning, or without a host."""
    decoded = unquote(place).casefold()
    yield UrlPart(decoded, "", decoded)
    scheme, has_scheme, rest = place.partition("://")
    if not has_scheme or scheme not in DEFAULT_PORTS:
        scheme, rest = "", place
    authority, slash, path = rest.partition("/")
    if not scheme and not any(mark in authority for mark in ".:"):
        return  # a single word is not a whole host
    try:
        host, _, port = split_authority(authority)
    except BridgeError:
        return
    default_ports = (DEFAULT_PORTS[scheme],) if scheme else DEFAULT_PORTS.values()
    host = bracketed(host) if port is None or port in default_ports else f"{bracketed(host)}:{port}"
    path = slash + unquote(path).casefold()
    yield UrlPart(f"{scheme}://{host}{path}" if scheme else host + path, host, path)


def _number(text: str) -> str | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = orjson.dumps(float(text)).decode()  # null for one that is too large
    return number if number not in {text, "null"} else None


def _ids(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    found = dict.fromkeys(one.lower() for one in pattern.findall(text)[:_IDS_IN_A_TEXT])
    return tuple(found)


@dataclass(frozen=True, slots=True)
class SearchedWatch:
    """The fields of a watch that are searched. `context` is JSON."""

    id: str
    task_id: str
    callback_url: str
    host: str
    context: bytes
    app: str


def matches(search: SearchText, watch: SearchedWatch) -> bool:
    """Whether a watch contains the text."""
    text = search.text
    if text in watch.id or text in watch.task_id.casefold() or _in_event_id(text, watch.id):
        return True
    place = search.place
    if place is not None and (place in before_query(watch.callback_url).casefold() or place in watch.host):
        return True
    if search.url_parts and _has_part(search, watch):
        return True
    if search.in_apps and text in watch.app.casefold():
        return True
    return _in_values(search, read_json(watch.context))


def _in_event_id(text: str, watch_id: str) -> bool:
    """Whether a text is a part of an event's id: a prefix, the rest of the watch's id, and a letter for the type."""
    without_type = EVENT_ID_PREFIX + watch_id.removeprefix(WATCH_ID_PREFIX)
    return text in without_type or (text[-1] in EVENT_ID_SUFFIXES and without_type.endswith(text[:-1]))


def _has_part(search: SearchText, watch: SearchedWatch) -> bool:
    """Whether the normal form of a watch's callback URL contains the text."""
    scheme, _, rest = before_query(watch.callback_url).partition("://")
    host = watch.host.removesuffix(f":{DEFAULT_PORTS.get(scheme.lower())}")
    url = f"{scheme}://{host}/{unquote(rest.partition('/')[2])}".casefold()
    return any(part.text in url for part in search.url_parts)


def before_query(url: str) -> str:
    """Returns a callback URL up to its query. A callback URL has no fragment."""
    return url.partition("?")[0]


def _in_values(search: SearchText, context: Any) -> bool:
    """Whether a string or a number in a JSON value contains the text. A context may have a thousand levels."""
    waiting = [context]
    while waiting:
        match waiting.pop():
            case str() as value:
                found = search.text in value.casefold()
            case dict() as members:
                waiting += members.values()
                continue
            case list() as elements:
                waiting += elements
                continue
            case bool() | None:
                continue
            case int() as value:
                found = search.text in str(value)
            case value:
                written = orjson.dumps(value).decode()
                found = search.text in written or search.number == written
        if found:
            return True
    return False


def first_id_at(unix_seconds: float) -> str:
    """Returns the smallest watch id of a time: ids begin with their time in milliseconds."""
    milliseconds = min(max(int(unix_seconds * 1000), 0), (1 << 48) - 1)
    return WATCH_ID_PREFIX + watch_id_text(milliseconds << 80)
