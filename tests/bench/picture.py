"""A chart of the figures that have a target: how much of the target each one uses."""

from collections.abc import Sequence
from html import escape

from tests.bench.table import Row

_LINE, _LEFT, _UNIT, _RIGHT = (
    30,
    460,
    220,
    260,
)  # pixels: the height of a line; the widths of labels, a whole target, figures
_MOST = 2.0  # targets: longer bars are cut
_HOLDS, _MISSED, _INK, _RULE = "#2f7d5b", "#b3402e", "#1f2328", "#8c959f"


def picture(rows: Sequence[Row]) -> str:
    """Returns an SVG with a bar for each figure and the line that it must not cross."""
    drawn = [(row, row.used) for row in rows if row.used is not None]
    height = _LINE * (len(drawn) + 2)
    width = int(_LEFT + _UNIT * _MOST + _RIGHT)
    limit = _LEFT + _UNIT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<style>text { font: 13px system-ui, sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(limit, 20, "the target", "middle", _RULE),
    ]
    for number, (row, used) in enumerate(drawn, 1):
        top = _LINE * number
        length = max(1.0, min(used, _MOST) * _UNIT)
        colour = _MISSED if row.verdict == "MISSED" else _HOLDS
        parts += [
            _text(_LEFT - 10, top + 19, f"{row.bench}: {row.what}"[:72], "end", _INK),
            f'<rect x="{_LEFT}" y="{top + 5}" width="{length:.1f}" height="{_LINE - 10}" rx="3" fill="{colour}"/>',
            _text(_LEFT + _UNIT * _MOST + 10, top + 19, "  ".join(row.cells()[4:6]), "start", _INK),
        ]
    line = f'<path d="M{limit} 28V{height - _LINE + 5}" stroke="{_INK}" stroke-dasharray="4 3"/>'
    return "\n".join([*parts, line, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str, colour: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
