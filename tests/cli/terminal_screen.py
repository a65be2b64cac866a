"""A terminal for tests: what a person sees after a program has written its output, scrolled lines included."""

import re

_TOKENS = re.compile(r"\x1b\[\??([0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")


def shown_lines(output: str, lines: int, columns: int) -> list[str]:
    """Returns every line of a terminal of this size, the oldest first. Raises ValueError for an unknown sequence."""
    screen, scrolled = [""] * lines, list[str]()
    row = column = 0
    for number, command, carriage_return, line_feed, character in _TOKENS.findall(output):
        if command == "F":
            row, column = max(0, row - int(number or 1)), 0
        elif command == "J":
            screen[row] = screen[row][:column]
            screen[row + 1 :] = [""] * (lines - row - 1)
        elif command and command not in "mhl":
            raise ValueError(f"unknown sequence: {command}")
        elif carriage_return:
            column = 0
        if line_feed or (character and column == columns):
            column = column if line_feed else 0
            if row == lines - 1:
                scrolled.append(screen.pop(0))
                screen.append("")
            else:
                row += 1
        if character:
            screen[row] = screen[row][:column].ljust(column) + character + screen[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in [*scrolled, *screen]]
