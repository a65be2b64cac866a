"""The attempts of one delivery: which of them repeat the last result, and what changed between two answers. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from bridge.core.model import Attempt
from bridge.web.dashboard.formatting import message_of

SHOWN_AROUND: Final = 24  # characters shown before and after the difference between two answers
SHOWN_DIFFERENCE: Final = 300  # characters of the difference


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between an attempt and the attempt before it. `name` is what differs: `result` or `answer`."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class NumberedAttempt:
    """An attempt with its number, counted from 1, and what changed since the attempt before it."""

    number: int
    attempt: Attempt
    changes: Sequence[Change] = ()


def numbered(attempts: Sequence[Attempt], first_number: int) -> list[NumberedAttempt]:
    """Returns the attempts, oldest first, each with its number and its changes. The first attempt has no changes."""
    if not attempts:
        return []
    following = (
        NumberedAttempt(first_number + place, after, changes(before, after))
        for place, (before, after) in enumerate(pairwise(attempts), 1)
    )
    return [NumberedAttempt(first_number, attempts[0]), *following]


def runs(attempts: Sequence[NumberedAttempt], requested_at: Sequence[float] = ()) -> list[list[NumberedAttempt]]:
    """Returns the attempts in groups: consecutive attempts with the same result are one group.

    A request to send again, at one of `requested_at` (Unix seconds), ends a group.
    """
    groups: list[list[NumberedAttempt]] = []
    for one in attempts:
        if groups and _continues(groups[-1][-1].attempt, one.attempt, requested_at):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _continues(before: Attempt, after: Attempt, requested_at: Sequence[float]) -> bool:
    if any(before.started_at < at <= after.started_at for at in requested_at):
        return False
    return result_of(before) == result_of(after)


def result_of(attempt: Attempt) -> str:
    """Returns the result without the answer's body: `answered 500`, or why there was no answer."""
    if attempt.status_code is not None:
        return f"answered {attempt.status_code}"
    return f"no answer: {message_of(attempt.error)}"


def changes(before: Attempt, after: Attempt) -> list[Change]:
    """Returns the differences between two attempts: in the result, and in the bodies of the answers."""
    found = []
    if result_of(before) != result_of(after):
        found.append(Change("result", result_of(before), result_of(after)))
    old, new = before.body or "", after.body or ""
    if old != new:
        found.append(Change("answer", *_differing_parts(old, new)))
    return found


def _differing_parts(old: str, new: str) -> tuple[str, str]:
    """Returns the parts of two texts that differ, with a few characters around them."""
    start = _common_length(old, new)
    end = _common_length(old[start:][::-1], new[start:][::-1])
    return _around(old, start, len(old) - end), _around(new, start, len(new) - end)


def _common_length(one: str, other: str) -> int:
    """Returns the length of the common beginning of two texts, in characters.

    It is a binary search: for 4 KiB it makes 12 comparisons of slices. A loop over characters would make 4,096.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _around(text: str, start: int, end: int) -> str:
    first, last = max(0, start - SHOWN_AROUND), min(len(text), end + SHOWN_AROUND, start + SHOWN_DIFFERENCE)
    return f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"
