"""What a look at all tasks finds: which fail, which are late, which wait for their key."""

from bridge.core.model import KeyRefused, TaskRecord, TaskStatus, TransientError
from bridge.core.schedule import PollPolicy
from bridge.polling.state import Credential, Phase, PolledTask
from bridge.polling.stats import FAILING_FROM, LATE_SECONDS, LONGEST_POLL_SECONDS, PollingStats, polling_stats

NOW = 1000.0
KEY = Credential("configured", None, configured=True)
BAD_GATEWAY = TransientError("http_502", "amux answered 502")


def task(row: str, *, due: float = NOW + 5, failures: int = 0, credential: Credential = KEY) -> PolledTask:
    made = PolledTask(row, f"task_{row}", credential)
    made.due = due
    for _ in range(failures):
        made.note(BAD_GATEWAY, NOW)
    return made


def test_tasks_that_fare_well_are_counted_and_no_more() -> None:
    seen = task("a")
    seen.note(TaskRecord(TaskStatus.IN_PROGRESS), NOW)
    found = polling_stats([seen, task("b", failures=FAILING_FROM - 1)], NOW, 9)
    assert found == PollingStats(2, 0, 0, 0, 0, {}, {}, {"configured": 2}, [])


def test_failing_tasks_are_told_by_their_error_the_worst_first() -> None:
    found = polling_stats([task("a", failures=2), task("b", failures=9), task("c")], NOW, 9)
    assert (found.failing, found.errors, found.stuck) == (2, {"http_502": 2}, ["b", "a"])
    assert found.messages == {"http_502": "amux answered 502"}
    assert polling_stats([task("a", failures=2), task("b", failures=9)], NOW, 1).stuck == ["b"]


def test_a_poll_is_late_when_it_is_due_for_long_or_does_not_end() -> None:
    waiting = task("a", due=NOW - LATE_SECONDS - 1)
    hanging = task("b", due=NOW - 999)
    hanging.phase, hanging.started = Phase.POLLING, NOW - LONGEST_POLL_SECONDS - 9
    in_time = task("c", due=NOW - LATE_SECONDS + 1)
    unwritten = task("d", due=NOW - 999)
    unwritten.phase = Phase.WRITING
    found = polling_stats([waiting, hanging, in_time, unwritten], NOW, 9)
    assert (found.late, found.stuck, found.unwritten) == (2, ["b", "a"], 1)


def test_tasks_of_a_resting_key_wait_for_it_and_are_not_stuck() -> None:
    key = Credential("own", "sk-own")
    probe = task("a", failures=5, credential=key)
    key.probe = probe
    key.judge(probe, KeyRefused("Invalid token"), NOW, PollPolicy(5, 5, 15, 1.2))
    found = polling_stats([probe, task("b", due=NOW - 999, credential=key)], NOW, 9)
    assert (found.held, found.failing, found.late, found.stuck) == (2, 0, 0, [])
    assert found.resting == ("a", "b")
    assert found.keys == {"own": 2}
