"""Numbers, times and errors as the page's sentences have them. Pure."""

from datetime import UTC, datetime

from bridge.core.event import cut
from bridge.core.model import Problem

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 callback`, `2,048 callbacks`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def span(seconds: float) -> str:
    """A duration, short: `45 s`, `3 min`, `2 h 5 min`."""
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    for number, (size, unit) in enumerate(_UNITS):
        if left >= size:
            rest, below = left % size, _UNITS[number + 1 : number + 2]
            small = f" {rest // below[0][0]} {below[0][1]}" if below and rest >= below[0][0] else ""
            return f"{left // size} {unit}{small}"
    raise AssertionError("a minute is the smallest unit")


def clock(seconds: float) -> str:
    """A moment as logs have it: `02:13:05 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def size(count: float) -> str:
    """Bytes: `3.2 GiB`."""
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes all")


def told(problem: Problem | None) -> str:
    """An error as the end of a sentence, without a full stop of its own."""
    if problem is None:
        return "nothing was said"
    text = problem.message or str(problem.code or "nothing was said")
    return cut(text).strip().rstrip(".") or "nothing was said"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    first = text[:1] if text.startswith("amux") else text[:1].upper()
    return f"{first}{text[1:]}{'' if text.endswith(('.', '!', '?')) else '.'}"
