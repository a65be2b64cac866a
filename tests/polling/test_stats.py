"""Statistics over all tasks: which fail, which are late, which wait for their key."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.model import KeyRefused, TaskRecord, TaskStatus, TransientError
from bridge.core.schedule import PollPolicy
from bridge.polling.state import Credential, Phase, PolledTask
from bridge.polling.stats import FAILING_FROM, LATE_SECONDS, MAX_POLL_SECONDS, PollingStats, polling_stats

NOW = 1000.0
KEY = Credential("configured", None, configured=True)
BAD_GATEWAY = TransientError("http_502", "amux answered 502")
BLOCKED_KEY = Credential("blocked", "sk-blocked")
BLOCKED_KEY.blocked = True


def task(row: str, *, due: float = NOW + 5, failures: int = 0, credential: Credential = KEY) -> PolledTask:
    made = PolledTask(row, f"task_{row}", credential)
    made.due = due
    for _ in range(failures):
        made.note(BAD_GATEWAY, NOW)
    return made


def stats_of(tasks: Sequence[PolledTask], now: float, max_rows: int) -> PollingStats:
    """Returns the statistics of tasks that are read in two parts."""
    parts = tasks[: len(tasks) // 2], tasks[len(tasks) // 2 :]
    return polling_stats(parts, Counter(task.credential.name for task in tasks), now, max_rows)


def test_tasks_without_problems_are_only_counted() -> None:
    seen = task("a")
    seen.note(TaskRecord(TaskStatus.IN_PROGRESS), NOW)
    stats = stats_of([seen, task("b", failures=FAILING_FROM - 1)], NOW, 9)
    assert stats == PollingStats(2, 0, 0, 0, 0, {}, {}, {"configured": 2}, [])


def test_failing_tasks_are_counted_by_error_and_listed_worst_first() -> None:
    stats = stats_of([task("a", failures=2), task("b", failures=9), task("c")], NOW, 9)
    assert (stats.failing, stats.errors, stats.stuck) == (2, {"http_502": 2}, ["b", "a"])
    assert stats.messages == {"http_502": "amux answered 502"}
    assert stats_of([task("a", failures=2), task("b", failures=9)], NOW, 1).stuck == ["b"]


def test_a_poll_is_late_when_it_has_been_due_for_long_or_does_not_end() -> None:
    waiting = task("a", due=NOW - LATE_SECONDS - 1)
    hanging = task("b", due=NOW - 999)
    hanging.phase, hanging.started = Phase.POLLING, NOW - MAX_POLL_SECONDS - 9
    in_time = task("c", due=NOW - LATE_SECONDS + 1)
    unwritten = task("d", due=NOW - 999)
    unwritten.phase = Phase.WRITING
    stats = stats_of([waiting, hanging, in_time, unwritten], NOW, 9)
    assert (stats.late, stats.stuck, stats.unwritten) == (2, ["b", "a"], 1)


@given(st.permutations(range(12)), st.integers(0, 14))
def test_of_many_late_tasks_the_worst_are_listed_and_all_are_counted(seconds: list[int], most: int) -> None:
    tasks = [task(f"{each:02}", due=NOW - LATE_SECONDS - 1 - each) for each in seconds]
    stats = stats_of(tasks, NOW, most)
    assert stats.late == 12
    assert stats.stuck == [f"{each:02}" for each in reversed(range(12))][:most]


def test_tasks_of_a_paused_key_are_blocked_and_not_stuck() -> None:
    key = Credential("own", "sk-own")
    probe = task("a", failures=5, credential=key)
    key.probe = probe
    key.apply_answer(probe, KeyRefused("Invalid token"), NOW, PollPolicy(5, 5, 15, 1.2))
    stats = stats_of([probe, task("b", due=NOW - 999, credential=key)], NOW, 9)
    assert (stats.blocked, stats.failing, stats.late, stats.stuck) == (2, 0, 0, [])
    assert stats.blocked_rows == ("a", "b")
    assert stats.keys == {"own": 2}


# --- the same counts as by the definition -------------------------------------------------------------------------

SECONDS = st.floats(-2 * MAX_POLL_SECONDS, 2 * MAX_POLL_SECONDS)


@st.composite
def any_task(draw: st.DrawFn) -> PolledTask:
    made = task(
        str(draw(st.integers(0, 99))), due=NOW + draw(SECONDS), credential=draw(st.sampled_from([KEY, BLOCKED_KEY]))
    )
    made.phase = draw(st.sampled_from(Phase))
    made.failures = draw(st.integers(0, 4))
    made.started = draw(st.none() | SECONDS.map(lambda seconds: NOW + seconds))
    return made


def is_late(task: PolledTask) -> bool:
    if task.phase is Phase.POLLING:
        return task.started is not None and NOW - task.started > MAX_POLL_SECONDS
    return task.phase in {Phase.SCHEDULED, Phase.BATCHED} and NOW - task.due > LATE_SECONDS


@given(st.lists(any_task(), max_size=20))
def test_each_task_is_counted_once_whatever_its_state_is(tasks: list[PolledTask]) -> None:
    blocked = [one for one in tasks if one.credential.blocked]
    failing = [one for one in tasks if one not in blocked and one.failures >= FAILING_FROM]
    late = [one for one in tasks if one not in blocked and one not in failing and is_late(one)]
    stats = stats_of(tasks, NOW, len(tasks))
    assert stats == PollingStats(
        tasks=len(tasks),
        failing=len(failing),
        late=len(late),
        blocked=len(blocked),
        unwritten=sum(one.phase is Phase.WRITING for one in tasks),
        errors={"unknown": len(failing)} if failing else {},
        messages={"unknown": None} if failing else {},
        keys=Counter(one.credential.name for one in tasks),
        stuck=stats.stuck,
        blocked_rows=tuple(one.row for one in blocked),
    )
    assert Counter(stats.stuck) == Counter(one.row for one in failing + late)
