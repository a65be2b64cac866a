"""Logs: one JSON object a line, or lines for eyes; whatever logs in this process goes through here.

A line of ours is `{"at", "level", "event", "logger", ...fields}`; one of a library's has the event `log` and its text
in `message`. Times are RFC 3339 UTC in milliseconds. Every text is redacted, and no field can make a line fail.
"""

import asyncio
import io
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum, StrEnum
from functools import lru_cache
from types import TracebackType
from typing import Any, Literal, TextIO, overload

import orjson

from bridge.core.model import Json
from bridge.telemetry.log_handler import LineFormatter, LineHandler
from bridge.telemetry.redaction import REDACTOR, Redactor

_FIELDS = "bridge_fields"  # the record's attribute that marks a line as ours
_OWN_KEYS = frozenset({"at", "level", "event", "logger", "message", "trace"})
_DEEPEST = 8  # levels of nesting: more is a cycle, or no log field
_SURE = frozenset({str, bool, type(None)})  # what orjson writes as it is
_TURNING = {mark: f"\\u{mark:04x}" for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # Unicode's UAX 9
_JSON_INT = 2**63  # orjson takes no larger integers


class Log:
    """A part's logger: events with fields instead of sentences."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def event(
        self, name: str, /, *, level: int = logging.INFO, trace: BaseException | None = None, **fields: object
    ) -> None:
        """Log that `name` happened, with its ids and numbers; `trace` adds an exception's traceback.

        Never raises for a field's sake. Costs 0.1 µs when the level is off, 4 µs when a line is written.
        """
        logger = self._logger
        if logger.isEnabledFor(level):
            told = None if trace is None else (type(trace), trace, trace.__traceback__)
            logger.handle(_Told(logger.name, level, name, told, fields))


class _Told(logging.LogRecord):
    """A record of ours: it does not look for its place in the code, which no line of ours shows."""

    def __init__(self, name: str, level: int, event: str, told: Any, fields: dict[str, object]) -> None:
        vars(self).update(_NOWHERE)
        self.name, self.msg, self.exc_info = name, event, told
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        setattr(self, _FIELDS, fields)


_NOWHERE = vars(logging.LogRecord("", 0, "", 0, "", None, None))


def get_logger(name: str) -> Log:
    """The logger of one part of the bridge, such as `poller`."""
    return Log(logging.getLogger(f"bridge.{name}"))


def configure_logging(
    level: str = "INFO",
    fmt: Literal["json", "console"] = "json",
    stream: TextIO | None = None,
    redactor: Redactor = REDACTOR,
) -> None:
    """Send everything that is logged in this process to `stream` (stdout), in one form; repeatable.

    That is Python's loggers, warnings, and exceptions that nobody caught, in threads, finalizers and asyncio (see
    `log_loop_errors`). ValueError for an unknown level.
    """
    stream = sys.stdout if stream is None else stream
    if isinstance(stream, io.TextIOWrapper):
        # A C locale must not make a line fail: JSON is UTF-8 wherever it is written.
        stream.reconfigure(encoding="utf-8" if fmt == "json" else None, errors="backslashreplace")
    handler = LineHandler(stream, JsonFormatter(redactor) if fmt == "json" else ConsoleFormatter(redactor))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in list(logging.root.manager.loggerDict):  # libraries that were quicker
        known = logging.getLogger(name)
        known.handlers.clear()
        known.propagate = True
    # APScheduler tells of every run of a job, and warns of every turn that is left out: of the poll tick 20 a second,
    # on a loop that is slow already. Jobs that fail are told by the clockwork; alembic tells of its plugins.
    for name, least in (("apscheduler", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(least)
    # What each record would look up for formats that we don't have.
    logging.logThreads = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread_death
    sys.unraisablehook = _log_unraisable


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log what asyncio reports (a task's exception that nobody fetched) as events of ours, with all it tells."""

    def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fields = {key: value for key, value in context.items() if key not in {"message", "exception"}}
        told = {"what": context.get("message"), **fields}
        _process_log.event("asyncio_error", level=logging.ERROR, trace=context.get("exception"), **told)

    loop.set_exception_handler(report)


_process_log = get_logger("process")


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    _process_log.event(
        "uncaught_exception", level=logging.CRITICAL, trace=error.with_traceback(where), kind=kind.__name__
    )


def _log_thread_death(died: threading.ExceptHookArgs) -> None:
    if died.exc_type is not SystemExit:  # as threading's own hook: a thread may leave that way
        thread = died.thread.name if died.thread is not None else None
        _process_log.event("thread_died", level=logging.CRITICAL, trace=died.exc_value, thread=thread)


def _log_unraisable(found: "sys.UnraisableHookArgs") -> None:
    _process_log.event(
        "unraisable_exception",
        level=logging.ERROR,
        trace=found.exc_value,
        what=found.err_msg or "Exception ignored in",
        where=found.object,
    )


class JsonFormatter(LineFormatter):
    """One JSON object a record."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line; never raises for what it holds."""
        return self.text_of([record])

    def text_of(self, records: Sequence[logging.LogRecord]) -> str:
        """Many as one text, which is looked through once."""
        fields = [told for record in records if (told := _simple_fields(record)) is not None]
        if len(fields) == len(records):
            with suppress(orjson.JSONEncodeError):  # a lone surrogate
                text = b"\n".join(map(orjson.dumps, fields)).decode()
                # JSON spells a secret in one of the ways that the redactor knows it by; no ASCII turns a line round.
                if text.isascii() and not self._redactor.suspects(text):
                    return text
        return "\n".join([orjson.dumps(as_fields(record, self._redactor)).decode() for record in records])


class ConsoleFormatter(LineFormatter):
    """For eyes: time, level, event, then the fields; a traceback on the lines after it."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; never raises for what it holds, and control characters are shown, not sent."""
        fields = as_fields(record, self._redactor)
        at, level, event, trace = (fields.pop(key, None) for key in ("at", "level", "event", "trace"))
        told = " ".join(f"{key}={_shown(value)}" for key, value in fields.items())
        line = f"{str(at)[11:23]} {str(level).upper():<8} {_shown(event)} {told}"
        return line if trace is None else f"{line}\n{trace}"


def as_fields(record: logging.LogRecord, redactor: Redactor = REDACTOR) -> dict[str, Json]:
    """A record as JSON values, redacted: the keys that every line has first."""
    given: dict[str, object] | None = getattr(record, _FIELDS, None)
    fields = _head(record)
    if given is None:
        fields |= {"event": "log", "logger": record.name, "message": redactor.clean(_readable(_message(record)))}
    else:
        fields |= {"event": redactor.clean(_readable(str(record.msg))), "logger": record.name.removeprefix("bridge.")}
        fields |= {(f"{key}_" if key in _OWN_KEYS else key): plain(value, redactor) for key, value in given.items()}
    if record.exc_info and record.exc_info[1] is not None:
        fields["trace"] = redactor.clean(_readable(_trace(record.exc_info[1])))
    if record.stack_info:
        fields["stack"] = redactor.clean(_readable(record.stack_info))
    return fields


def _head(record: logging.LogRecord) -> dict[str, Json]:
    return {"at": rfc3339(record.created), "level": record.levelname.lower()}


@overload
def rfc3339(seconds: float) -> str: ...
@overload
def rfc3339(seconds: None) -> None: ...
def rfc3339(seconds: float | None) -> str | None:
    """`2026-11-23T15:04:05.123Z` of Unix seconds; None of None."""
    return None if seconds is None else _moment_text(seconds)


@lru_cache(maxsize=256)  # what is registered together has two of its three moments in common
def _moment_text(seconds: float) -> str:
    second, microsecond = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second_text(second)}.{microsecond // 1000:03}Z"


@lru_cache(maxsize=256)  # lines come many to a second
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def _simple_fields(record: logging.LogRecord) -> dict[str, Json] | None:
    """A line of plain words and numbers, as nearly all of ours are; None when it needs a closer look."""
    given: dict[str, Any] | None = getattr(record, _FIELDS, None)
    if given is None or record.exc_info is not None or record.stack_info is not None or _OWN_KEYS & given.keys():
        return None
    if not _SURE.issuperset(map(type, given.values())) and not all(map(_is_simple, given.values())):
        return None
    fields = _head(record)
    fields["event"], fields["logger"] = record.msg, record.name.removeprefix("bridge.")
    fields.update(given)
    return fields


def _is_simple(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-_JSON_INT <= value < _JSON_INT)
    if kind is float:
        return math.isfinite(value)
    return kind in _SURE or issubclass(kind, StrEnum)


def plain(value: object, redactor: Redactor = REDACTOR, depth: int = 0) -> Json:
    """Any value as one that JSON holds, its texts redacted; never raises.

    Bytes are read as UTF-8, NaN and infinities become their names, what JSON has no form for its `str`.
    """
    match value:
        case Enum():
            return plain(value.value, redactor, depth)
        case None | bool():
            return value
        case int() if -_JSON_INT <= value < _JSON_INT:
            return int(value)
        case float() if math.isfinite(value):
            return float(value)
        case dict() | list() | tuple() | set() | frozenset():
            return _nested(value, redactor, depth + 1)
        case _:
            return redactor.clean(_readable(_text_of(value)))


def _nested(value: Any, redactor: Redactor, depth: int) -> Json:
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {str(plain(key, redactor, depth)): plain(item, redactor, depth) for key, item in value.copy().items()}
    return [plain(item, redactor, depth) for item in tuple(value)]


def _text_of(value: object) -> str:
    try:
        return bytes(value).decode(errors="backslashreplace") if isinstance(value, bytes | bytearray) else str(value)
    except Exception as error:  # noqa: BLE001  whatever a stranger's __str__ raises; the line says so
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  a library's wrong arguments; the line says so and shows both parts
        return f"{record.msg!r} {_text_of(record.args)} ({type(error).__name__} in formatting)"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception as failure:  # noqa: BLE001  an exception whose own text raises; the line says so
        return f"{type(error).__name__}, and {type(failure).__name__} in showing it"


def _readable(text: str) -> str:
    """Exact `str`; lone surrogates, which UTF-8 has no bytes for, and what turns a terminal's line are spelled out."""
    return text.encode(errors="backslashreplace").decode().translate(_TURNING)


def _shown(value: Json) -> str:
    if isinstance(value, str):
        bare = value.isprintable() and value != "" and not any(mark in value for mark in ' "=')
        return value if bare else orjson.dumps(value).decode() if value.isprintable() else ascii(value)
    return orjson.dumps(value).decode()
