"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which headers of a request are kept and passed on.

The bridge adds no span to the trace. It passes the caller's context to the receiver unchanged.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_TRACESTATE: Final = 512  # characters: every program should pass on at least this many
_MAX_MEMBERS: Final = 32
_LARGE_MEMBER: Final = 128  # characters: the standard removes larger members first if a list is too long
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER = re.compile(
    r"(?P<key>[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The context of one trace. `state` is None if the caller sent none, or a malformed one."""

    parent: str
    state: str | None = None

    def headers(self) -> dict[str, str]:
        """Returns the headers of a request that continues the trace."""
        return {"traceparent": self.parent} | ({} if self.state is None else {"tracestate": self.state})


def read_trace(parents: Sequence[str], states: Sequence[str]) -> TraceContext | None:
    """Returns the context in the values of a request's `traceparent` and `tracestate` headers.

    A malformed `traceparent`, or several, is dropped with its `tracestate`; a malformed `tracestate` is dropped alone.
    """
    parent = _parent(parents[0].strip(" \t")) if len(parents) == 1 else None
    return None if parent is None else TraceContext(parent, _state(states))


def _parent(text: str) -> str | None:
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, parent, flags, rest = match.groups()
    if version == "ff" or not trace.strip("0") or not parent.strip("0"):
        return None
    if version == "00":
        return text if rest is None else None
    # A later version is passed on as version 00, with its flag "sampled", as the standard requires.
    return f"00-{trace}-{parent}-{int(flags, 16) & 1:02x}"


def _state(values: Sequence[str]) -> str | None:
    """Returns the list's members, shortened to 512 characters as the standard says; None for a malformed list."""
    members = [member for value in values for part in value.split(",") if (member := part.strip(" \t"))]
    matches = [_MEMBER.fullmatch(member) for member in members]
    keys = {match["key"] for match in matches if match is not None}
    if not members or len(members) > _MAX_MEMBERS or len(keys) < len(members):
        return None
    for number in [number for number, member in enumerate(members) if len(member) > _LARGE_MEMBER][::-1]:
        if _length(members) > MAX_TRACESTATE:
            del members[number]
    while _length(members) > MAX_TRACESTATE:
        del members[-1]
    return ",".join(members) or None


def _length(members: Sequence[str]) -> int:
    return sum(map(len, members)) + len(members) - 1


def log_fields(trace: TraceContext | None) -> dict[str, Any]:
    """Returns the trace as fields of a log line."""
    return {} if trace is None else trace.headers()


def without_own(trace: Mapping[str, str], headers: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the trace's headers, or none if the watch's own headers contain one of them."""
    own = {name.lower() for name in headers}
    return {} if own & trace.keys() else trace
