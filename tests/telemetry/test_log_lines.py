"""Attacks the log's way out: its order, whoever writes, and a stream that takes nothing more."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from bridge.telemetry import get_logger
from bridge.telemetry.log_handler import LineHandler
from bridge.telemetry.logs import JsonFormatter


class Stream(io.StringIO):
    """Remembers each write; refuses them while it is `full`."""

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


def tell(*numbers: int, level: int = logging.INFO) -> None:
    for number in numbers:
        log.event("counted", level=level, number=number)


async def test_the_lines_of_one_turn_are_one_write_and_the_next_turns_another(stream: Stream) -> None:
    tell(1, 2, 3)
    assert stream.writes == []
    await asyncio.sleep(0)
    assert stream.writes == [[1, 2, 3]]
    tell(4)
    await asyncio.sleep(0)
    assert stream.writes == [[1, 2, 3], [4]]


async def test_a_secret_is_taken_out_of_its_line_and_the_turns_others_are_as_ever(stream: Stream) -> None:
    log.event("counted", number=1)
    log.event("counted", number=2, said="Bearer abcdef0123456789")
    log.event("counted", number=3, odd={"a": [1]})
    await asyncio.sleep(0)
    first, second, third = map(json.loads, stream.text.splitlines())
    assert (first["number"], second["said"], third["odd"]) == (1, "Bearer [redacted]", {"a": [1]})
    assert list(first) == list(second)[:-1] == ["at", "level", "event", "logger", "number"]


async def test_a_warning_is_written_at_once_after_what_waits(stream: Stream) -> None:
    tell(1)
    tell(2, level=logging.WARNING)
    assert stream.writes == [[1, 2]]
    await asyncio.sleep(0)
    assert stream.writes == [[1, 2]]


async def test_a_thread_s_line_comes_after_those_that_were_there(stream: Stream) -> None:
    tell(1)
    await asyncio.to_thread(tell, 2)
    assert [number for write in stream.writes for number in write] == [1, 2]


def test_without_a_loop_each_line_is_written_as_it_comes(stream: Stream) -> None:
    tell(1, 2)
    assert stream.writes == [[1], [2]]


def test_what_waited_for_a_loop_that_is_gone_comes_with_the_next_line(stream: Stream) -> None:
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        tell(1)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(leave())
    tell(2)
    assert [number for write in stream.writes for number in write] == [1, 2]


def test_at_the_end_of_the_process_nothing_waits(stream: Stream) -> None:
    [handler] = [one for one in logging.getLogger("bridge.lines").handlers if isinstance(one, LineHandler)]

    async def tell_and_end() -> None:
        tell(1)
        handler.flush()  # as `logging.shutdown` does

    asyncio.run(tell_and_end())
    assert stream.writes == [[1]]


def test_a_full_disk_fails_nobody_and_is_told_once(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.full = True
    tell(1, 2)
    assert capsys.readouterr().err == "the log cannot be written: [Errno 28] No space left on device\n"
    stream.full = False
    tell(3)
    assert stream.writes == [[3]]
