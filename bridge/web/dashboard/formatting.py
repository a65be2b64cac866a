"""Numbers, times and errors, formatted for the page's sentences. Pure."""

from datetime import UTC, datetime

from bridge.core.event import cut
from bridge.core.model import Problem
from bridge.store.records import DeliveryView
from bridge.store.row_mapping import SUPERSEDED

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_NO_REASON = "no reason was given"


def quantity(count: int, one: str, many: str | None = None) -> str:
    """Returns a number with its noun: `1 callback`, `2,048 callbacks`. `many` defaults to `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """Returns a duration in at most two units: `45 s`, `3 min`, `2 h 5 min`. A negative one is `0 s`."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    for number, (unit_seconds, unit) in enumerate(_UNITS):
        if left >= unit_seconds:
            rest, below = left % unit_seconds, _UNITS[number + 1 : number + 2]
            small = f" {rest // below[0][0]} {below[0][1]}" if below and rest >= below[0][0] else ""
            return f"{left // unit_seconds} {unit}{small}"
    raise AssertionError("a minute is the smallest unit")


def relative_time(at: float, now: float) -> str:
    """Returns the time from `now` until `at`, as `in 5 min`, or `now` if `at` has passed."""
    return f"in {span(at - now)}" if at > now else "now"


def clock(seconds: float) -> str:
    """Returns Unix seconds as a time of day: `02:13:05 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def size(count: float) -> str:
    """Returns a number of bytes as text: `3.2 GiB`."""
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes every size")


def message_of(problem: Problem | None) -> str:
    """Returns an error's message, or else its code, without the final full stop. Returns a placeholder for None."""
    if problem is None:
        return _NO_REASON
    text = problem.message or str(problem.code or _NO_REASON)
    return cut(text).strip().rstrip(".") or _NO_REASON


def sentence(text: str) -> str:
    """Returns a text with a capital letter and a full stop. The name amux keeps its small letter."""
    text = text.strip()
    first = text[:1] if text.startswith("amux") else text[:1].upper()
    return f"{first}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"


def is_superseded(delivery: DeliveryView) -> bool:
    """Returns whether a delivery is a status event that was not sent because its watch became final first."""
    return delivery.last_error is not None and delivery.last_error.code == SUPERSEDED.code
