"""Cells of a CSV file that spreadsheet programs open. Some of them run a cell that looks like a formula."""

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: object) -> str:
    """Returns a value as a cell. A text that would be a formula begins with an apostrophe, which marks it as text.

    Source: OWASP, CSV injection. Spaces before the sign do not protect.
    """
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, str) and text.lstrip(" \n").startswith(_FORMULA_SIGNS):
        return f"'{text}"
    return text
