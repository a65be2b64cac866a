"""An outage is logged when it begins, at intervals while it lasts, and when it ends."""

import logging
import math

import pytest

from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def outage_log(*, repeat_seconds: float = 30.0, repeat_on_new_reason: bool = False) -> OutageLog:
    return OutageLog(
        get_logger("test"),
        "down",
        "up",
        means="wait",
        repeat_seconds=repeat_seconds,
        repeat_on_new_reason=repeat_on_new_reason,
    )


def test_an_outage_is_logged_once_then_twice_a_minute_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    log = outage_log()
    for second in range(61):
        log.failed("disk is full", 1000.0 + second, unwritten=second)
    log.recovered()
    log.recovered()
    assert [line.getMessage() for line in caplog.records] == ["down", "down", "down", "up"]
    fields = [line.__dict__["bridge_fields"] for line in caplog.records]
    assert fields[0] == {"reason": "disk is full", "failures": 1, "means": "wait", "unwritten": 0}
    assert [line["failures"] for line in fields] == [1, 31, 61, 61]


def test_each_outage_is_logged_even_soon_after_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    log = outage_log(repeat_seconds=math.inf)
    for _ in range(2):
        log.failed("disk is full", 1000.0)
        log.failed("disk is full", 9000.0)
        log.recovered()
    assert [line.getMessage() for line in caplog.records] == ["down", "up"] * 2


def test_a_new_reason_is_logged_at_once_if_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    log = outage_log(repeat_on_new_reason=True)
    for reason in ("one", "one", "two", "two", "one"):
        log.failed(reason, 1000.0, level=logging.WARNING)
    assert [line.__dict__["bridge_fields"]["reason"] for line in caplog.records] == ["one", "two", "one"]
    assert {line.levelno for line in caplog.records} == {logging.WARNING}


def test_a_new_reason_is_not_logged_at_once_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    log = outage_log()
    for reason in ("one", "two"):
        log.failed(reason, 1000.0)
    assert len(caplog.records) == 1


def test_an_outage_that_two_parts_see_is_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    log = outage_log()
    log.failed("disk is full", 1000.0, part="reads")
    log.failed("disk is full", 1001.0, part="writes")
    log.recovered(part="reads")
    log.failed("disk is full", 1002.0, part="writes")
    log.recovered(part="reads")
    log.recovered(part="writes")
    assert [line.getMessage() for line in caplog.records] == ["down", "up"]
