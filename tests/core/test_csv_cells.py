"""Cells of CSV files: a text that a spreadsheet program would run is marked as text."""

import pytest

from bridge.core.csv_cells import safe_cell


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", '=HYPERLINK("http://x")']
)
def test_a_formula_becomes_text(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""),
        ("", ""),
        ("a=1", "a=1"),
        (-5, "-5"),
        (2.5, "2.5"),
        ("'=1", "'=1"),
        ("ü", "ü"),
        ("X=1", "X=1"),
        ("\v=1", "\v=1"),
    ],
)
def test_other_values_stay_as_they_are(value: object, cell: str) -> None:
    assert safe_cell(value) == cell
