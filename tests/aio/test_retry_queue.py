"""Items whose write failed: one pause for all, a probe before a retry, and the beginning and end of an outage."""

import logging
from dataclasses import dataclass, field

import pytest

from bridge.aio.retry_queue import RetryQueue
from bridge.core.errors import StoreUnavailable
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

DOWN = StoreUnavailable("disk is full")


@dataclass
class QueueHarness:
    """A queue whose clock the test sets, with a store that is up or down."""

    now: float = 100.0
    up: bool = False
    probes: int = 0
    recoveries: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue: RetryQueue[str, int] = RetryQueue(
            self.probe,
            OutageLog(get_logger("test"), "down", "up", means="wait"),
            clock=lambda: self.now,
            on_recovery=lambda: self.recoveries.append(self.now),
        )

    async def probe(self) -> None:
        self.probes += 1
        if not self.up:
            raise DOWN

    def fail(self, key: str, item: int) -> None:
        self.queue.add(key, item, retried=False)
        self.queue.report_failure(DOWN, unwritten=len(self.queue))

    def in_outage(self) -> bool:
        return self.queue.outage

    def seconds_until_due(self) -> float:
        start = self.now
        while not self.queue.due:
            self.now += 0.25
        return self.now - start


@pytest.fixture
def harness() -> QueueHarness:
    return QueueHarness()


async def test_all_items_are_retried_together_after_one_probe(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    harness.now += 0.25
    harness.fail("b", 2)
    assert not harness.queue.due
    assert harness.seconds_until_due() == 0.25
    harness.up = True
    assert await harness.queue.take_due() == [1, 2]
    assert (harness.probes, len(harness.queue)) == (1, 0)


async def test_the_pause_doubles_up_to_five_seconds_while_probes_fail(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    pauses = []
    for _ in range(6):
        pauses.append(harness.seconds_until_due())
        assert await harness.queue.take_due() == []
    assert pauses == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


async def test_the_pause_doubles_once_for_all_items_of_a_failed_retry(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    harness.fail("b", 2)
    harness.up = True
    harness.seconds_until_due()
    for key, item in zip(("a", "b"), await harness.queue.take_due(), strict=True):
        harness.queue.add(key, item, retried=True)
    assert harness.seconds_until_due() == 1.0
    assert not harness.in_outage()  # the store accepts writes; it refuses only these items


async def test_an_outage_lasts_from_a_failed_write_until_a_write_or_a_probe_succeeds(
    harness: QueueHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert not harness.in_outage()
    harness.fail("a", 1)
    assert harness.in_outage()
    harness.queue.report_success()
    assert not harness.in_outage()
    harness.fail("a", 1)
    harness.up = True
    harness.seconds_until_due()
    await harness.queue.take_due()
    assert not harness.in_outage()
    assert len(harness.recoveries) == 2
    assert [record.getMessage() for record in caplog.records] == ["down", "up"] * 2


async def test_a_failed_probe_begins_an_outage_as_well(harness: QueueHarness) -> None:
    harness.queue.add("a", 1, retried=True)
    harness.seconds_until_due()
    assert await harness.queue.take_due() == []
    assert harness.in_outage()


async def test_an_item_can_make_the_retry_due_at_once(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    assert not harness.queue.retry_now("b")
    assert not harness.queue.due
    assert harness.queue.retry_now("a")
    assert harness.queue.due


async def test_no_second_retry_begins_during_a_probe(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    harness.seconds_until_due()
    due_during_probe: list[bool] = []

    async def probe() -> None:
        due_during_probe.append(harness.queue.due)

    harness.queue._probe = probe
    assert await harness.queue.take_due() == [1]
    assert due_during_probe == [False]


async def test_a_probe_that_raises_an_unexpected_error_is_not_repeated_at_once(harness: QueueHarness) -> None:
    harness.fail("a", 1)
    harness.seconds_until_due()

    async def probe() -> None:
        raise RuntimeError

    harness.queue._probe = probe
    with pytest.raises(RuntimeError):
        await harness.queue.take_due()
    assert not harness.queue.due
    assert len(harness.queue) == 1
