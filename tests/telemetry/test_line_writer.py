"""A thread writes log lines to a pipe, so a slow or missing reader delays nothing."""

import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from bridge.telemetry import get_logger, line_writer
from bridge.telemetry.log_handler import LineHandler
from bridge.telemetry.logs import JsonFormatter

log = get_logger("piped")
LINE_BYTES = 1_000


@dataclass
class Pipe:
    """A pipe. The log writes to it, and the test reads from it."""

    reader: int
    handler: LineHandler

    def log(self, count: int) -> None:
        for number in range(count):
            log.event("counted", number=number, text="x" * LINE_BYTES)

    def read_all(self) -> list[Any]:
        """Closes the log and returns its lines, as parsed JSON."""
        found: list[bytes] = []

        def read() -> None:
            while data := os.read(self.reader, 1 << 16):
                found.append(data)

        reading = threading.Thread(target=read)
        reading.start()
        self.handler.close()
        self.handler._stream.close()
        reading.join()
        return [json.loads(line) for line in b"".join(found).splitlines()]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(line_writer, "MAX_WAITING_BYTES", 100 * LINE_BYTES)
    reader, writer = os.pipe()
    handler = LineHandler(os.fdopen(writer, "w"), JsonFormatter())
    logger = logging.getLogger("bridge.piped")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    made = Pipe(reader, handler)
    yield made
    logger.removeHandler(handler)
    logger.propagate = True
    os.close(made.reader)  # first, because this ends a write that hangs
    handler.close()
    handler._stream.close()


def test_a_full_pipe_holds_nothing_up_and_the_lost_lines_are_counted(pipe: Pipe) -> None:
    pipe.log(1_000)  # ten times what the queue holds: without a thread this call would never return
    lines = pipe.read_all()
    written = [line["number"] for line in lines if line["event"] == "counted"]
    lost = [line["count"] for line in lines if line["event"] == "log_lines_dropped"]
    assert len(written) + sum(lost) == 1_000
    assert sum(lost) >= 500  # the pipe holds 65 lines, the queue 100, and the thread may have taken 100 earlier
    assert len(written) >= 80  # about what the queue holds, if the thread did not run before the last line
    assert written == sorted(written)
    assert [line["level"] for line in lines if line["event"] != "counted"] == ["warning"] * len(lost)


def test_a_flush_waits_for_what_was_logged(pipe: Pipe) -> None:
    pipe.log(3)
    pipe.handler.flush()
    lines = os.read(pipe.reader, 1 << 16).splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]


def test_a_flush_does_not_wait_for_a_reader_that_takes_nothing(pipe: Pipe) -> None:
    writer = pipe.handler._writer
    assert writer is not None
    pipe.log(1_000)
    assert not writer.flush(0.01)


def test_lines_after_the_end_are_written_at_once(pipe: Pipe) -> None:
    """The interpreter may log while it shuts down, when its threads no longer run."""
    pipe.handler.close()
    pipe.log(1)
    assert json.loads(os.read(pipe.reader, 1 << 16))["number"] == 0


def test_a_reader_that_is_gone_is_reported_once_and_raises_nothing(
    pipe: Pipe, capfd: pytest.CaptureFixture[str]
) -> None:
    os.close(pipe.reader)
    for _ in range(3):
        pipe.log(1)
        pipe.handler.flush()
    assert capfd.readouterr().err == "the log cannot be written: [Errno 32] Broken pipe\n"
    pipe.reader = os.open(os.devnull, os.O_RDONLY)  # the fixture closes it
