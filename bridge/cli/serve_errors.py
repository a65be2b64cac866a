"""Writes the errors that stop `serve` in the form of its log lines, also before the settings are read."""

import json
import sys
from datetime import UTC, datetime
from typing import Final

from bridge.core.errors import BadSetting

_SETTING: Final = "BRIDGE_LOG_FORMAT"


def as_json_lines(sentences: str, code: int) -> str:
    """Returns each line of `sentences` as one JSON object with the keys of a log line."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"at": at, "level": "error", "event": "start_refused", "logger": "cli"}
    lines = (head | {"reason": sentence, "exit_code": code} for sentence in sentences.splitlines())
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def writes_json() -> bool:
    """Returns whether the log's format is `json`: by BRIDGE_LOG_FORMAT, or else because stdout is not a terminal."""
    try:
        from bridge.settings.parsers import log_format
        from bridge.settings.settings import ENV_FILE
        from bridge.settings.variables import find, read_variables

        fmt = log_format(find(read_variables(ENV_FILE), {_SETTING}).values.get(_SETTING))
    except (BadSetting, ImportError):  # this setting is the error, or a package is missing
        fmt = None
    return not sys.stdout.isatty() if fmt not in {"json", "console"} else fmt == "json"
