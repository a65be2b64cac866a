"""Logs: each line is one JSON object, or text for a console. All logging of this process passes through here.

A line of the bridge is `{"at", "level", "event", "logger", ...fields}`. A line of a library has the event `log`
and its text in `message`. Times are RFC 3339, UTC, with milliseconds. Every text is redacted. No field can make a line
fail.
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
from typing import Any, Literal, TextIO, TypeAlias, overload

import orjson

from bridge.core.model import Json
from bridge.telemetry.colour import has_colour
from bridge.telemetry.log_handler import FIELDS as _FIELDS
from bridge.telemetry.log_handler import LineFormatter, LineHandler
from bridge.telemetry.redaction import REDACTOR, Redactor

LogFormat: TypeAlias = Literal["json", "console", "auto"]
_OWN_KEYS = frozenset({"at", "level", "event", "logger", "message", "trace"})
_MAX_DEPTH = 8  # levels of nesting; a deeper value is a cycle, or should not be a log field
_JSON_TYPES = frozenset({str, bool, type(None)})  # orjson writes their values unchanged
_BIDI_CONTROLS = {
    mark: f"\\u{mark:04x}" for mark in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}  # Unicode's UAX 9
_JSON_INT = 2**63  # orjson refuses larger integers


class Log:
    """The logger of one part of the bridge. It logs events with fields, not sentences."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def event(
        self, name: str, /, *, level: int = logging.INFO, trace: BaseException | None = None, **fields: object
    ) -> None:
        """Logs the event `name` with its fields. `trace` adds an exception's traceback.

        No field makes it raise. It costs 0.1 µs if the level is disabled, and 4 µs if a line is written.
        """
        logger = self._logger
        if logger.isEnabledFor(level):
            exc_info = None if trace is None else (type(trace), trace, trace.__traceback__)
            logger.handle(_EventRecord(logger.name, level, name, exc_info, fields))


class _EventRecord(logging.LogRecord):
    """A record of the bridge. It does not look up the place of the call in the code, because no line shows it."""

    def __init__(self, name: str, level: int, event: str, exc_info: Any, fields: dict[str, object]) -> None:
        vars(self).update(_EMPTY_RECORD)
        self.name, self.msg, self.exc_info = name, event, exc_info
        self.levelno, self.levelname = level, logging.getLevelName(level)
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        setattr(self, _FIELDS, fields)


_EMPTY_RECORD = vars(logging.LogRecord("", 0, "", 0, "", None, None))


def get_logger(name: str) -> Log:
    """Returns the logger of one part of the bridge, such as `delivery`."""
    return Log(logging.getLogger(f"bridge.{name}"))


def chosen_format(fmt: LogFormat, stream: TextIO) -> Literal["json", "console"]:
    """Returns the format of the lines on a stream: for `auto`, `console` on a terminal."""
    if fmt == "auto":
        return "console" if stream.isatty() else "json"
    return fmt


def configure_logging(
    level: str = "INFO",
    fmt: LogFormat = "json",
    stream: TextIO | None = None,
    redactor: Redactor = REDACTOR,
) -> None:
    """Sends all logging of this process to `stream` (default: stdout) in one format. Can be called again.

    "All logging" includes Python's loggers, warnings, and uncaught exceptions, also of threads and finalizers. The
    errors of asyncio need `log_loop_errors`. The format `auto` is `console` if the stream is a terminal, else `json`.
    Raises ValueError for an unknown level.
    """
    stream = sys.stdout if stream is None else stream
    fmt = chosen_format(fmt, stream)
    if isinstance(stream, io.TextIOWrapper):
        # A C locale must not make a line fail. JSON is always UTF-8.
        stream.reconfigure(encoding="utf-8" if fmt == "json" else None, errors="backslashreplace")
    console = ConsoleFormatter(redactor, colour=has_colour(stream))
    handler = LineHandler(stream, JsonFormatter(redactor) if fmt == "json" else console)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, LineHandler):
            old.close()  # this ends its thread
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in list(logging.root.manager.loggerDict):  # libraries that configured logging before
        known = logging.getLogger(name)
        known.handlers.clear()
        known.propagate = True
    # APScheduler logs every run of a job, and warns of every run that it skips: 20 a second for the poll tick, when the
    # loop is already slow. Our scheduler logs failed jobs itself. Alembic logs its plugins.
    for name, lowest in (("apscheduler", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(lowest)
    # Each record would look these up, and no line shows them.
    logging.logThreads = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_thread_death
    sys.unraisablehook = _log_unraisable


def flush_logs() -> None:
    """Waits until the lines so far are written, at most 2 s. The process also does this at its end."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.flush()


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Logs asyncio's reports, such as a task's exception that was never retrieved, with all their fields."""

    def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        fields = {key: value for key, value in context.items() if key not in {"message", "exception"}}
        fields = {"what": context.get("message"), "means": "no code handled this error; the bridge continues", **fields}
        _process_log.event("asyncio_error", level=logging.ERROR, trace=context.get("exception"), **fields)

    loop.set_exception_handler(report)


_process_log = get_logger("process")


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    _process_log.event(
        "uncaught_exception",
        level=logging.CRITICAL,
        trace=error.with_traceback(where),
        kind=kind.__name__,
        means="the program ends",
    )


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:  # as in threading's own hook: this is a normal end of a thread
        thread = args.thread.name if args.thread is not None else None
        _process_log.event(
            "thread_died",
            level=logging.CRITICAL,
            trace=args.exc_value,
            thread=thread,
            means="the work of this thread is not done any more: restart the bridge",
        )


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    _process_log.event(
        "unraisable_exception",
        level=logging.ERROR,
        trace=args.exc_value,
        what=args.err_msg or "Exception ignored in",
        where=args.object,
        means="an object could not be cleaned up; the service continues",
    )


class JsonFormatter(LineFormatter):
    """Formats each record as one JSON object."""

    def __init__(self, redactor: Redactor = REDACTOR) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as a line. No content makes it raise."""
        return self.text_of([record])

    def text_of(self, records: Sequence[logging.LogRecord]) -> str:
        """Returns the records as one text, which is searched for secrets once."""
        simple = [fields for record in records if (fields := _simple_fields(record)) is not None]
        if len(simple) == len(records):
            with suppress(orjson.JSONEncodeError):  # a lone surrogate
                text = b"\n".join(map(orjson.dumps, simple)).decode()
                # The redactor also knows the JSON form of a secret. ASCII has no bidirectional controls.
                if text.isascii() and not self._redactor.suspects(text):
                    return text
        return "\n".join([orjson.dumps(as_fields(record, self._redactor)).decode() for record in records])


class ConsoleFormatter(LineFormatter):
    """Formats records for people: time, level, event, then the fields; a traceback follows on its own lines."""

    def __init__(self, redactor: Redactor = REDACTOR, *, colour: bool = False) -> None:
        super().__init__()
        self._redactor = redactor
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as text. Control characters are escaped. No content makes it raise."""
        fields = as_fields(record, self._redactor)
        at, level, event, trace = (fields.pop(key, None) for key in ("at", "level", "event", "trace"))
        shown = " ".join(f"{self._styled(f'{key}=', _DIM)}{_console_value(value)}" for key, value in fields.items())
        time_of_day = self._styled(str(at)[11:23], _DIM)
        level_name = self._styled(f"{str(level).upper():<8}", _style_of(record.levelno))
        line = f"{time_of_day} {level_name} {self._styled(_console_value(event), _BOLD)} {shown}"
        return line if trace is None else f"{line}\n{trace}"

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colour and style else text


_BOLD, _DIM, _YELLOW, _RED = "1", "2", "33", "31"


def _style_of(level: int) -> str:
    if level >= logging.ERROR:
        return _RED
    return _YELLOW if level >= logging.WARNING else ""


def as_fields(record: logging.LogRecord, redactor: Redactor = REDACTOR) -> dict[str, Json]:
    """Returns a record as redacted JSON values. The keys that every line has come first."""
    own_fields: dict[str, object] | None = getattr(record, _FIELDS, None)
    fields = _head(record)
    if own_fields is None:
        fields |= {"event": "log", "logger": record.name, "message": redactor.clean(_readable(_message(record)))}
    else:
        fields |= {"event": redactor.clean(_readable(str(record.msg))), "logger": record.name.removeprefix("bridge.")}
        fields |= {
            (f"{key}_" if key in _OWN_KEYS else key): json_value(value, redactor) for key, value in own_fields.items()
        }
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
    """Returns Unix seconds as `2026-11-23T15:04:05.123Z`, and None for None."""
    return None if seconds is None else _time_text(seconds)


@lru_cache(maxsize=256)  # watches that are registered together share two of their three times
def _time_text(seconds: float) -> str:
    second, microsecond = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second_text(second)}.{microsecond // 1000:03}Z"


@lru_cache(maxsize=256)  # many lines are written in one second
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def _simple_fields(record: logging.LogRecord) -> dict[str, Json] | None:
    """Returns the fields of a line that has only plain strings and numbers, as most have. None for any other line."""
    own_fields: dict[str, Any] | None = getattr(record, _FIELDS, None)
    if (
        own_fields is None
        or record.exc_info is not None
        or record.stack_info is not None
        or _OWN_KEYS & own_fields.keys()
    ):
        return None
    if not _JSON_TYPES.issuperset(map(type, own_fields.values())) and not all(map(_is_simple, own_fields.values())):
        return None
    fields = _head(record)
    fields["event"], fields["logger"] = record.msg, record.name.removeprefix("bridge.")
    fields.update(own_fields)
    return fields


def _is_simple(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-_JSON_INT <= value < _JSON_INT)
    if kind is float:
        return math.isfinite(value)
    return kind in _JSON_TYPES or issubclass(kind, StrEnum)


def json_value(value: object, redactor: Redactor = REDACTOR, depth: int = 0) -> Json:
    """Returns any value as a JSON value with redacted texts. Never raises.

    Bytes are decoded as UTF-8. NaN and infinities become their names. Sets become lists. Other values that JSON does
    not have become their `str`. A value below eight levels of nesting becomes "...".
    """
    match value:
        case Enum():
            return json_value(value.value, redactor, depth)
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
    if depth > _MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        return {
            str(json_value(key, redactor, depth)): json_value(item, redactor, depth)
            for key, item in value.copy().items()
        }
    return [json_value(item, redactor, depth) for item in tuple(value)]


def _text_of(value: object) -> str:
    try:
        return bytes(value).decode(errors="backslashreplace") if isinstance(value, bytes | bytearray) else str(value)
    except Exception as error:  # noqa: BLE001  a foreign __str__ may raise anything; the line says so
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  a library passed wrong arguments; the line shows both parts
        return f"{record.msg!r} {_text_of(record.args)} ({type(error).__name__} in formatting)"


def _trace(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except Exception as failure:  # noqa: BLE001  the exception's own __str__ raises; the line says so
        return f"{type(error).__name__} that cannot be shown: {type(failure).__name__}"


def _readable(text: str) -> str:
    """Returns a plain `str`. Lone surrogates, which UTF-8 cannot encode, and bidirectional controls are escaped."""
    return text.encode(errors="backslashreplace").decode().translate(_BIDI_CONTROLS)


def _console_value(value: Json) -> str:
    if isinstance(value, str):
        bare = value.isprintable() and value != "" and not any(mark in value for mark in ' "=')
        return value if bare else orjson.dumps(value).decode() if value.isprintable() else ascii(value)
    return orjson.dumps(value).decode()
