"""When a credential has a batch lane, how often batches are sent and how large they are, and what a record means."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amux.paths import LIVE_PLATFORMS
from bridge.core.batch_lane import (
    LONGEST_NO_ROUTE_SECONDS,
    MAX_PLATFORMS,
    PROBE_TASKS,
    SECONDS_FOR_A_TASK,
    TARGET_BYTES,
    BatchAnswer,
    BatchFailed,
    BatchObservation,
    BatchPolicy,
    BatchRequest,
    BatchTooLarge,
    BatchUnchanged,
    LaneHealth,
    LaneState,
    NoBatchRoute,
    Platforms,
    Reading,
    TaskMissing,
    TooManyTasks,
    batch_cost,
    batch_interval,
    batch_spacing,
    begun_on_time,
    health_after,
    may_exceed_single_reads,
    no_denser_than_single_reads,
    reading_after_record,
)
from bridge.core.model import TaskRecord, TaskStatus
from bridge.core.schedule import LONGEST_THROTTLE, PollPolicy

POLICY = BatchPolicy()
MAX_INTERVAL = PollPolicy().max_interval
NEW = LaneHealth(POLICY.size)
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, platform="50")
NO_ROUTE = NoBatchRoute("http_404", "no such route")
BROKEN = BatchFailed("http_503", "overloaded")


def good(records: int = 10, size: int = 8_600) -> BatchAnswer:
    return BatchAnswer({f"task_{number}": RUNNING for number in range(records)}, size)


def after(health: LaneHealth, observation: BatchObservation, now: float, asked: int = 10) -> LaneHealth:
    """Returns the health after a request that was sent as soon as that was allowed."""
    began = max(now, health.since)
    return health_after(health, BatchRequest(asked, began, began), observation, POLICY, MAX_INTERVAL)


def pauses(observation: BatchObservation, times: int) -> list[float]:
    health, found = NEW, []
    for _ in range(times):
        health = after(health, observation, max(health.asks_at, 0.0))
        found.append(health.asks_at - health.since)
    return found


# --- whether there is a lane --------------------------------------------------------------------------------------


def test_a_new_credential_may_be_asked_at_once_and_has_no_lane() -> None:
    assert NEW.may_ask(0.0)
    assert not NEW.is_open


def test_an_answer_that_is_the_same_as_the_last_one_counts_as_one_that_was_read() -> None:
    first = after(NEW, good(500, 430_000), 1.0, asked=500)
    unchanged = after(first, BatchUnchanged(450_000, 500, lambda: NO_ROUTE), 2.0, asked=500)
    assert unchanged == after(first, good(500, 450_000), 2.0, asked=500)
    assert unchanged.record_bytes == 880.0


def test_a_record_opens_the_lane() -> None:
    health = after(NEW, good(), 1.0)
    assert (health.state, health.since) == (LaneState.OPEN, 1.0)
    assert health.may_ask(1.0)


def test_without_the_route_a_credential_is_asked_again_after_a_minute_doubling_to_an_hour() -> None:
    assert pauses(NO_ROUTE, 8) == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    health = after(NEW, NO_ROUTE, 0.0)
    assert health.state is LaneState.ABSENT
    assert [health.may_ask(now) for now in (0.0, 59.9, 60.0)] == [False, False, True]


def test_errors_pause_the_lane_for_the_longest_interval_doubling_to_a_minute() -> None:
    assert pauses(BROKEN, 5) == [15.0, 30.0, 60.0, 60.0, 60.0]
    slow = health_after(NEW, BatchRequest(1, 0.0, 0.0), BROKEN, POLICY, 90.0)
    assert slow.asks_at == 90.0


@pytest.mark.parametrize(("asked_for", "pause"), [(1.0, 15.0), (100.0, 100.0), (1e9, LONGEST_THROTTLE)])
def test_a_retry_after_can_only_make_the_pause_longer_up_to_five_minutes(asked_for: float, pause: float) -> None:
    assert pauses(BatchFailed("http_429", "slow down", asked_for), 1) == [pause]


def test_a_good_answer_after_errors_begins_the_pauses_anew() -> None:
    failing = after(after(NEW, BROKEN, 0.0), BROKEN, 15.0)
    again = after(after(failing, good(), 50.0), BROKEN, 60.0)
    assert again.asks_at == 75.0


def test_requests_that_began_before_the_present_state_change_nothing() -> None:
    health = after(NEW, BROKEN, 10.0)
    for observation in (good(), BROKEN, NO_ROUTE, BatchTooLarge(1)):
        assert health_after(health, BatchRequest(10, 9.9, 11.0), observation, POLICY, MAX_INTERVAL) is health


@given(st.lists(st.sampled_from([good(), BROKEN, NO_ROUTE, BatchTooLarge(16 << 20)]), max_size=40))
def test_a_lane_is_asked_again_within_an_hour_whatever_happens(observations: list[BatchObservation]) -> None:
    health, now = NEW, 0.0
    for observation in observations:
        health = after(health, observation, now)
        now = max(now + 1.0, health.asks_at)
        assert health.may_ask(now)
        assert health.may_ask(health.since + LONGEST_NO_ROUTE_SECONDS)
        assert 1 <= health.size <= POLICY.size
        assert health.is_open or health.state is LaneState.UNKNOWN or health.message


# --- how much and how often ---------------------------------------------------------------------------------------


def test_answers_of_a_usual_weight_leave_the_batches_full() -> None:
    health = after(NEW, good(500, 428_000), 0.0, 500)
    assert health.size == 500


def test_batches_of_fat_records_shrink_until_an_answer_has_about_a_mebibyte() -> None:
    health = NEW
    for now in range(8):
        asked = health.size
        health = after(health, good(asked, asked * 10_240), float(now), asked)
    assert health.size == TARGET_BYTES // 10_240


def test_an_answer_that_is_too_long_halves_the_batch_until_one_fits() -> None:
    health, sizes = NEW, []
    for now in range(4):
        health = after(health, BatchTooLarge(16 << 20), float(now), health.size)
        sizes.append(health.size)
    assert sizes == [250, 125, 62, 31]
    assert health.state is LaneState.UNKNOWN
    assert after(NEW, BatchTooLarge(16 << 20), 0.0, 1).size == 1
    half = after(NEW, BatchTooLarge(16 << 20), 0.0, 2)
    assert (half.state, half.size, half.record_bytes) == (LaneState.UNKNOWN, 1, 8 << 20)


def test_an_answer_that_is_too_long_for_one_task_is_a_failure_of_the_route() -> None:
    for health in (NEW, after(NEW, good(), 0.0)):
        found = after(health, BatchTooLarge(16 << 20), 1.0, 1)
        assert (found.state, found.asks_at) == (LaneState.FAILING, 1.0 + MAX_INTERVAL)
        assert (found.since, found.size, found.record_bytes) == (1.0, 1, 16 << 20)
        assert found.message == "amux answered with more than 16 MiB for one task"


def test_a_refusal_for_its_size_halves_an_open_lane_s_batches_for_good() -> None:
    health, sizes = after(NEW, good(), 0.0), []
    assert health.size == POLICY.size
    while health.is_open:
        health = after(health, TooManyTasks("413"), 1.0, health.size)
        sizes.append(health.size)
    assert sizes == [250, 125, 62, 31, PROBE_TASKS, PROBE_TASKS]
    assert (health.state, health.asks_at) == (LaneState.ABSENT, 61.0)
    health = after(NEW, good(), 0.0)
    health = after(health, TooManyTasks("413"), 1.0, 500)
    for number in range(10):
        health = after(health, good(250, 250 * 860), 2.0 + number, 250)
    assert health.size == 250
    health = after(after(health, BROKEN, 20.0), good(), 40.0)
    assert (health.state, health.size) == (LaneState.OPEN, 250)


def test_one_missing_task_closes_no_lane_that_works_and_opens_none() -> None:
    health = after(NEW, good(), 0.0)
    assert after(health, TaskMissing("none of 1"), 1.0, 1) == health
    assert after(NEW, TaskMissing("none of 1"), 1.0, 1).state is LaneState.ABSENT


def test_a_refusal_of_a_probe_for_its_size_shows_that_there_is_no_route() -> None:
    assert after(NEW, TooManyTasks("413"), 0.0, PROBE_TASKS).state is LaneState.ABSENT


def test_batches_grow_again_at_most_twofold() -> None:
    health = after(after(NEW, good(), 0.0), BatchTooLarge(16 << 20), 1.0, 16)
    assert health.size == 8
    sizes = []
    for now in range(2, 30):
        health = after(health, good(health.size, health.size * 800), float(now), health.size)
        sizes.append(health.size)
    assert sizes[-1] == POLICY.size
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(sizes))


@pytest.mark.parametrize(
    ("seconds", "interval"), [(0.02, 2.0), (0.5, 2.0), (1.0, 4.0), (2.5, 10.0), (10.0, 15.0), (100.0, 15.0)]
)
def test_a_batch_that_takes_long_makes_the_next_rarer(seconds: float, interval: float) -> None:
    assert batch_interval(POLICY, seconds, MAX_INTERVAL) == interval


@given(st.integers(1, 2_000_000), st.integers(1, 500), st.floats(0.01, 60))
def test_each_task_is_read_once_in_an_interval_by_batches_that_are_full(tasks: int, size: int, interval: float) -> None:
    spacing = batch_spacing(interval, tasks, size)
    assert spacing <= max(interval, size * SECONDS_FOR_A_TASK) * (1 + 1e-9)
    assert min(tasks, size) / spacing == pytest.approx(min(tasks / interval, 1 / SECONDS_FOR_A_TASK))


def test_a_million_tasks_are_read_in_less_than_30_seconds() -> None:
    spacing = batch_spacing(POLICY.interval, 1_000_000, POLICY.size)
    assert 1_000_000 / POLICY.size * spacing < 0.95 * 30, "the rest is for timers that fire late"


@given(st.lists(st.floats(1.25, 16.5), min_size=1, max_size=300), st.floats(0.1, 60), st.integers(1, 500))
def test_batches_are_never_more_requests_nor_more_load_than_single_reads_of_the_same_tasks(
    delays: list[float], interval: float, size: int
) -> None:
    rate, asked = sum(1 / delay for delay in delays), min(size, len(delays))
    wanted = spacing = batch_spacing(interval, len(delays), size)
    if may_exceed_single_reads(spacing, len(delays), asked, max(delays)):
        spacing = no_denser_than_single_reads(spacing, rate, asked)
    assert 1 / spacing <= rate * (1 + 1e-9)
    assert batch_cost(asked) / spacing <= rate * (1 + 1e-9), "amux needs no more CPU than for single reads"
    assert spacing <= max(wanted, asked / rate) * (1 + 1e-9), "no task is read later than singly"


@given(st.integers(1, 500), st.integers(0, 500), st.floats(0.1, 100))
def test_a_batch_takes_the_place_of_the_single_reads_that_are_due(asked: int, due: int, rate: float) -> None:
    seconds = no_denser_than_single_reads(0.0, rate, asked, due)
    assert batch_cost(asked) <= due + seconds * rate + 1e-6
    assert seconds == pytest.approx(max(0.0, (batch_cost(asked) - due) / rate)), "no longer than that needs"


@pytest.mark.parametrize(
    ("tasks", "milliseconds"), [(1, 0.67), (50, 7.9), (100, 12.5), (200, 10.6), (500, 23.0), (1_000, 35.0)]
)
def test_a_batch_counts_as_at_least_what_it_was_measured_to_cost(tasks: int, milliseconds: float) -> None:
    assert batch_cost(tasks) * 0.67 >= milliseconds
    assert 1 <= batch_cost(tasks) <= tasks


def test_a_batch_costs_as_single_reads_do_up_to_a_limit() -> None:
    assert [batch_cost(tasks) for tasks in (1, 2, 50, 500)] == pytest.approx([1, 1.23, 12.27, 35])


def test_one_task_alone_is_asked_as_often_as_singly_and_many_every_two_seconds() -> None:
    for tasks, delay, expected in (
        (1, 5.0, 5.0),
        (1, 15.0, 15.0),
        (10, 15.0, 4.605),
        (60, 15.0, 3.6425),
        (200, 15.0, 2.0),
    ):
        spacing = batch_spacing(2.0, tasks, 500)
        assert no_denser_than_single_reads(spacing, tasks / delay, tasks) == pytest.approx(expected)


# --- what a record means ------------------------------------------------------------------------------------------

NEW_KEY = Platforms(LIVE_PLATFORMS)
SEEN = NEW_KEY.with_tested("50")


@pytest.mark.parametrize("platform", sorted(LIVE_PLATFORMS))
@pytest.mark.parametrize(
    ("status", "unconfirmed", "counts"),
    [
        (TaskStatus.IN_PROGRESS, False, True),
        (TaskStatus.COMPLETED, False, True),
        (TaskStatus.FAILED, False, False),  # amux's row may have kept the error of a single request to the vendor
        (TaskStatus.FAILED, True, True),  # amux's row confirms a failure
    ],
)
def test_a_live_task_is_read_singly_and_its_row_can_confirm_a_failure(
    platform: str,
    status: TaskStatus,
    unconfirmed: bool,  # noqa: FBT001
    counts: bool,  # noqa: FBT001
) -> None:
    record = TaskRecord(status, platform=platform)
    assert reading_after_record(NEW_KEY, record, unconfirmed=unconfirmed) == (Reading.LIVE, counts)


@pytest.mark.parametrize("platform", ["50", "55", "999", None])
def test_one_task_of_each_other_platform_is_read_singly_once(platform: str | None) -> None:
    running = TaskRecord(TaskStatus.IN_PROGRESS, platform=platform)
    failed = TaskRecord(TaskStatus.FAILED, platform=platform)
    assert reading_after_record(NEW_KEY, running, unconfirmed=False) == (Reading.TEST, True)
    assert reading_after_record(NEW_KEY, failed, unconfirmed=False) == (Reading.TEST, False)
    tested = NEW_KEY.with_tested(platform)
    assert reading_after_record(tested, running, unconfirmed=False) == (Reading.BATCH, True)
    assert reading_after_record(tested, failed, unconfirmed=False) == (Reading.BATCH, True)


def test_a_platform_that_has_answered_live_is_live_whatever_was_tested() -> None:
    platforms = SEEN.with_live("50")
    assert reading_after_record(platforms, RUNNING, unconfirmed=False) == (Reading.LIVE, True)
    assert platforms.live >= LIVE_PLATFORMS


def test_a_failure_that_is_not_amuxs_row_is_asked_about_singly() -> None:
    strange = TaskRecord(TaskStatus.FAILED, platform="50", live=True)
    assert reading_after_record(SEEN, strange, unconfirmed=True) == (Reading.TEST, False)


def test_a_server_that_invents_platforms_gets_no_more_tests_than_there_may_be_platforms() -> None:
    platforms = NEW_KEY
    for number in range(1_000, 1_000 + MAX_PLATFORMS):
        platforms = platforms.with_tested(str(number))
    assert (
        reading_after_record(platforms, TaskRecord(TaskStatus.QUEUED, platform="x"), unconfirmed=False)[0]
        is Reading.BATCH
    )


# --- exact values -----------------------------------------------------------------------------------------------------


def test_a_request_that_began_with_the_present_state_counts() -> None:
    health = LaneHealth(10, LaneState.OPEN, since=5.0)
    found = health_after(health, BatchRequest(10, 5.0, 6.0), BROKEN, POLICY, MAX_INTERVAL)
    assert (found.state, found.since, found.failures, found.message) == (LaneState.FAILING, 6.0, 1, "overloaded")


def test_failures_are_counted_anew_when_the_state_changes() -> None:
    failing = after(after(NEW, BROKEN, 0.0), BROKEN, 15.0)
    absent = after(failing, NO_ROUTE, 60.0)
    assert (absent.state, absent.failures, absent.asks_at) == (LaneState.ABSENT, 1, 120.0)


def test_the_weight_of_a_record_is_the_mean_of_the_last_answer_and_those_before() -> None:
    opened = after(NEW, good(1, 900), 0.0)
    assert (opened.state, opened.record_bytes) == (LaneState.OPEN, 900.0)
    assert after(opened, good(500, 50_000), 1.0).record_bytes == 500.0
    assert after(opened, good(50, 5_000), 1.0).record_bytes == 860.0  # a tenth of a full batch
    assert after(opened, BatchTooLarge(1_000), 1.0, 10).record_bytes == 100.0


@pytest.mark.parametrize(("record_bytes", "size"), [(4_400, 250), (3_900, 250), (6_400, 197), (2_000, 338)])
def test_a_size_that_changes_little_is_kept_so_that_the_same_tasks_stay_together(record_bytes: int, size: int) -> None:
    opened = after(NEW, good(500, 500 * 4_194), 0.0, asked=500)
    assert (opened.size, after(opened, good(250, 250 * record_bytes), 1.0, asked=250).size) == (250, size)


def test_a_route_that_works_again_keeps_the_limit_of_its_size() -> None:
    health = after(after(NEW, good(), 0.0), TooManyTasks("413"), 1.0, 500)
    health = after(health, BROKEN, 2.0)
    assert after(health, good(), health.asks_at).most == 250


def test_a_batch_has_at_least_one_id_and_no_more_than_an_answer_of_a_mebibyte_holds() -> None:
    assert after(NEW, good(1, 2 * TARGET_BYTES), 0.0).size == 1
    many = BatchPolicy(size=10 * TARGET_BYTES)
    request = BatchRequest(many.size, 0.0, 0.0)
    assert health_after(NEW, request, good(10, 10), many, MAX_INTERVAL).size == TARGET_BYTES


def test_batches_that_are_as_many_as_single_reads_do_not_exceed_them() -> None:
    assert may_exceed_single_reads(2.0, 7, 1, 15.0)
    assert not may_exceed_single_reads(3.0, 5, 1, 15.0)
    assert may_exceed_single_reads(2.0, 100, 100, 15.0)
    assert not may_exceed_single_reads(2.0, 200, 200, 15.0)


@pytest.mark.parametrize(("platform", "reading"), [("54", Reading.LIVE), ("50", Reading.TEST)])
def test_a_live_failure_in_a_batch_does_not_count(platform: str, reading: Reading) -> None:
    failed = TaskRecord(TaskStatus.FAILED, platform=platform, live=True)
    platforms = Platforms(LIVE_PLATFORMS, tested=frozenset({"50"}))
    assert reading_after_record(platforms, failed, unconfirmed=True) == (reading, False)


@pytest.mark.parametrize(("tasks", "spacing"), [(0, 2.0), (1, 2.0), (2, 2.0), (500, 2.0), (501, 2.0 * 500 / 501)])
def test_all_tasks_that_fit_in_one_batch_are_read_once_in_an_interval(tasks: int, spacing: float) -> None:
    assert batch_spacing(2.0, tasks, 500) == pytest.approx(spacing)


def test_a_tested_platform_is_recorded_unless_it_is_live() -> None:
    platforms = NEW_KEY.with_tested("50").with_tested(None).with_tested("24").with_tested("7").with_live("7")
    assert platforms.recorded == {"50", ""}


@pytest.mark.parametrize(("was_due", "counted_from"), [(10.0, 10.0), (9.75, 9.75), (9.74, 10.0), (3.0, 10.0)])
def test_a_batch_that_begins_late_by_less_than_a_spacing_makes_the_next_no_later(
    was_due: float, counted_from: float
) -> None:
    assert begun_on_time(was_due, 10.0, 0.25) == counted_from
