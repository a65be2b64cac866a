"""How log lines are written: their order, writes from threads, and a stream that fails."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from bridge.telemetry import get_logger, log_handler
from bridge.telemetry.log_handler import LineHandler
from bridge.telemetry.logs import JsonFormatter


class Stream(io.StringIO):
    """Records each write, and refuses writes while it is `full`."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[list[int]] = []
        self.text = ""
        self.full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        self.text += text
        self.writes.append([json.loads(line)["number"] for line in text.splitlines()])
        return len(text)


@pytest.fixture
def stream() -> Iterator[Stream]:
    stream = Stream()
    handler = LineHandler(stream, JsonFormatter())
    logger = logging.getLogger("bridge.lines")
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True


log = get_logger("lines")


def log_numbers(*numbers: int, level: int = logging.INFO) -> None:
    for number in numbers:
        log.event("counted", level=level, number=number)


async def written(stream: Stream, count: int) -> list[list[int]]:
    """Returns the writes as soon as there are at least `count`."""
    while len(stream.writes) < count:
        await asyncio.sleep(0.001)
    return stream.writes


async def test_lines_wait_for_each_other_and_are_one_write(stream: Stream) -> None:
    log_numbers(1, 2, 3)
    assert stream.writes == []
    assert await written(stream, 1) == [[1, 2, 3]]
    log_numbers(4)
    assert await written(stream, 2) == [[1, 2, 3], [4]]


async def test_many_lines_do_not_wait(stream: Stream) -> None:
    log_numbers(*range(2 * log_handler.MAX_WAITING))
    assert list(map(len, stream.writes)) == [log_handler.MAX_WAITING] * 2


async def test_a_secret_is_redacted_and_the_other_lines_of_the_text_are_unchanged(stream: Stream) -> None:
    log.event("counted", number=1)
    log.event("counted", number=2, said="Bearer abcdef0123456789")
    log.event("counted", number=3, odd={"a": [1]})
    await written(stream, 1)
    first, second, third = map(json.loads, stream.text.splitlines())
    assert (first["number"], second["said"], third["odd"]) == (1, "Bearer [redacted]", {"a": [1]})
    assert list(first) == list(second)[:-1] == ["at", "level", "event", "logger", "number"]


async def test_a_warning_is_written_at_once_after_the_waiting_lines(stream: Stream) -> None:
    log_numbers(1)
    log_numbers(2, level=logging.WARNING)
    assert stream.writes == [[1, 2]]
    log_numbers(3)
    assert await written(stream, 2) == [[1, 2], [3]]


async def test_a_line_of_a_thread_is_written_after_the_waiting_lines(stream: Stream) -> None:
    log_numbers(1)
    await asyncio.to_thread(log_numbers, 2)
    assert [number for write in stream.writes for number in write] == [1, 2]


def test_without_a_loop_each_line_is_written_at_once(stream: Stream) -> None:
    log_numbers(1, 2)
    assert stream.writes == [[1], [2]]


def test_lines_that_waited_for_a_closed_loop_are_written_with_the_next_line(stream: Stream) -> None:
    loop = asyncio.new_event_loop()

    async def log_one() -> None:
        log_numbers(1)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(log_one())
    log_numbers(2)
    assert [number for write in stream.writes for number in write] == [1, 2]


def test_a_flush_writes_the_waiting_lines(stream: Stream) -> None:
    [handler] = [one for one in logging.getLogger("bridge.lines").handlers if isinstance(one, LineHandler)]

    async def log_and_flush() -> None:
        log_numbers(1)
        handler.flush()  # `logging.shutdown` does the same at the end of the process

    asyncio.run(log_and_flush())
    assert stream.writes == [[1]]


def test_a_full_disk_raises_nothing_and_is_reported_once(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.full = True
    log_numbers(1, 2)
    assert capsys.readouterr().err == "the log cannot be written: [Errno 28] No space left on device\n"
    stream.full = False
    log_numbers(3)
    assert stream.writes == [[3]]
