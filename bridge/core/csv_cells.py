"""Cells of a CSV file for spreadsheet programs. Some programs run a cell that looks like a formula."""

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: object) -> str:
    """Returns a value as a cell. A text that would be a formula begins with an apostrophe, which marks it as text.

    Source: OWASP, CSV injection. A cell with spaces before the sign is a formula too.
    """
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, str) and text.lstrip(" \n").startswith(_FORMULA_SIGNS):
        return f"'{text}"
    return text
