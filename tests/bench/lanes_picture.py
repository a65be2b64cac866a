"""Draws what a watch costs in both lanes, as a table and as a picture."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import log10

_COLUMN, _PANEL, _LEFT, _BAR = 460, 190, 70, 250  # pixels: a panel's width and height, its labels, its longest bar
_LINE = 17
_DECADES = 4.0  # bars are logarithmic: a value of a ten thousandth of the largest has no length
_BATCH, _SINGLE, _INK, _PALE = "#2f7d5b", "#8a6fb0", "#1f2328", "#59636e"


@dataclass(frozen=True)
class Costs:
    """Costs of one watch in a minute: requests, bytes of answers, CPU milliseconds of the bridge and of the stand-in.

    `delay` is the mean time in seconds from a task's end to the poll that saw it. Each time counts as at most 30 s.
    `late` is the number of ends that no poll had seen 30 s after the measurement.
    """

    requests: float
    received: float
    ours: float
    upstreams: float
    delay: float
    late: int


@dataclass(frozen=True)
class Sides:
    """The same watches in the batch lane and in the single lane."""

    watches: int
    batch: Costs
    single: Costs


_FIGURES: Sequence[tuple[str, str, Callable[[Costs], float]]] = (
    ("requests a watch and minute", "", lambda costs: costs.requests),
    ("answers a watch and minute", "kB", lambda costs: costs.received / 1000),
    ("CPU of the bridge a watch and minute", "ms", lambda costs: costs.ours),
    ("CPU of the stand-in a watch and minute", "ms", lambda costs: costs.upstreams),
    ("from a task's end to its poll, at most 30 s, mean", "s", lambda costs: costs.delay),
)


def _text_of(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def lanes_table(sides: Sequence[Sides]) -> str:
    """Returns a table in Markdown: a line for each figure, a column for each number of watches, "batch / single"."""
    lines = [
        "| batches / singly | " + " | ".join(f"{side.watches:,} watches" for side in sides) + " |",
        "|---|" + "--:|" * len(sides),
    ]
    for name, unit, figure in _FIGURES:
        cells = (f"{_text_of(figure(side.batch))} / {_text_of(figure(side.single))}" for side in sides)
        lines.append(f"| {name}{f' ({unit})' if unit else ''} | " + " | ".join(cells) + " |")
    cells = (f"{side.batch.late} / {side.single.late}" for side in sides)
    lines.append("| ends that no poll had seen 30 s later | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def lanes_picture(sides: Sequence[Sides]) -> str:
    """Returns an SVG with a panel for each figure. A panel has two bars for each number of watches."""
    rows = (len(_FIGURES) + 1) // 2
    width, height = 2 * _COLUMN, rows * _PANEL + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text { font: 13px system-ui, sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, (name, unit, figure) in enumerate(_FIGURES):
        parts += _panel(sides, figure, f"{name}{f', {unit}' if unit else ''}", place % 2 * _COLUMN, place // 2 * _PANEL)
    parts += _legend(_COLUMN, (rows - 1) * _PANEL)
    return "\n".join([*parts, "</svg>", ""])


def _panel(sides: Sequence[Sides], figure: Callable[[Costs], float], title: str, x: int, y: int) -> Iterator[str]:
    most = max(figure(costs) for side in sides for costs in (side.batch, side.single))
    yield _text(x + 12, y + 24, title, _INK, weight="bold")
    for place, side in enumerate(sides):
        top = y + 32 + place * (2 * _LINE + 3)
        yield _text(x + _LEFT, top + _LINE + 4, f"{side.watches:,}", _INK, anchor="end")
        for line, (costs, colour) in enumerate(((side.single, _SINGLE), (side.batch, _BATCH))):
            value, at = figure(costs), top + line * _LINE
            length = _length(value, most)
            yield f'<rect x="{x + _LEFT + 10}" y="{at + 2}" width="{length:.1f}" height="{_LINE - 3}" fill="{colour}"/>'
            yield _text(x + _LEFT + 16 + length, at + _LINE - 4, _text_of(value), _INK)


def _length(value: float, most: float) -> float:
    if value <= 0 or most <= 0:
        return 1.0
    return max(1.0, _BAR * (1 + log10(value / most) / _DECADES))


def _legend(x: int, y: int) -> Iterator[str]:
    for line, (name, colour) in enumerate((("each task singly", _SINGLE), ("in batches of up to 500", _BATCH))):
        yield f'<rect x="{x + _LEFT + 10}" y="{y + 52 + line * 24}" width="16" height="16" fill="{colour}"/>'
        yield _text(x + _LEFT + 34, y + 65 + line * 24, name, _INK)
    yield _text(x + _LEFT + 10, y + 118, "The numbers at the left are active watches.", _PALE)
    yield _text(x + _LEFT + 10, y + 138, "The scales are logarithmic.", _PALE)


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start", weight: str = "normal") -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y}" {style}>{escape(text)}</text>'
