"""The names and fields of all log events, read from the source of the bridge."""

import ast
from collections.abc import Iterator
from pathlib import Path

from bridge.core.credential import CredentialChange

BRIDGE = Path(__file__).parents[1] / "bridge"


def log_events() -> set[str]:
    """Returns the names of all log events: from calls of a logger's `event`, from OutageLogs, and of credentials."""
    names = {name for path in BRIDGE.rglob("*.py") for name in _names_in(ast.parse(path.read_text()))}
    return names | {f"credential_{change.value}" for change in CredentialChange}


def warnings_without_means() -> list[str]:
    """Returns where a log call has the level WARNING or above but no field `means`, as `path:line`."""
    return [
        f"{path.relative_to(BRIDGE)}:{node.lineno}"
        for path in sorted(BRIDGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event"
        if _is_warning(node) and not {"means", None} & {keyword.arg for keyword in node.keywords}
    ]


def _is_warning(call: ast.Call) -> bool:
    levels = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == "level"]
    return any(name in level for level in levels for name in ("WARNING", "ERROR", "CRITICAL"))


def _names_in(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event":
            yield from _texts(node.args[:1])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "OutageLog":
            yield from _texts(node.args[1:])


def _texts(arguments: list[ast.expr]) -> Iterator[str]:
    for argument in arguments:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
