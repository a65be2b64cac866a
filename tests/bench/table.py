"""The results of the benchmarks as rows of one table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TITLES = ("benchmark", "what", "bridge", "bare loop", "ratio", "target", "")


@dataclass(frozen=True)
class Row:
    """One figure. `measured` and `target` have the same unit. The target is a minimum if `at_least`, else a maximum."""

    bench: str
    what: str
    bridge: str
    bare: str = ""
    measured: float | None = None
    target: float | None = None
    at_least: bool = False
    unit: str = ""

    @property
    def used(self) -> float | None:
        """The share of the target that is used: 1 is the limit, less is better."""
        if self.measured is None or self.target is None:
            return None
        if self.at_least:
            return self.target / self.measured if self.measured else float("inf")
        return self.measured / self.target if self.target else float(self.measured > 0)

    @property
    def verdict(self) -> str:
        if self.used is None:
            return ""
        return "holds" if self.used <= (0.0 if self.target == 0 else 1.0) else "MISSED"

    def cells(self) -> tuple[str, ...]:
        limit = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:g}{self.unit}"
        measured = "" if self.measured is None else f"{self.measured:.3g}{self.unit}"
        return self.bench, self.what, self.bridge, self.bare, measured, limit, self.verdict


def table(rows: Iterable[Row]) -> str:
    """Returns the rows as text with aligned columns."""
    lines: list[Sequence[str]] = [_TITLES, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])
