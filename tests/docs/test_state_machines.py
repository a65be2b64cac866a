"""The tables of docs/state-machines.md, compared with the decisions of the code, row by row."""

import re
from collections.abc import Mapping
from math import inf

import pytest

from bridge.core import delivery, watch
from bridge.core.credential import CredentialState
from bridge.core.fairness import attempts_at_a_time
from bridge.core.model import (
    NO_REFUSALS,
    UNSEEN,
    Answer,
    Answered,
    DeliveryState,
    EventType,
    KeyRefused,
    NoAnswer,
    Observation,
    PollRejected,
    RefusedTarget,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    TaskStatus,
    Throttled,
    TransientError,
    WatchState,
)
from bridge.core.receivers import health_of
from bridge.core.schedule import LONGEST_PAUSE, LONGEST_THROTTLE, PollPolicy, RetryPolicy
from bridge.polling.state import Credential, PolledTask
from bridge.store.row_mapping import SUPERSEDED
from tests.docs.harness import DOCS, section, table_rows

PAGE = DOCS / "state-machines.md"
# Maps the words of the tables to observations. Some words mean several observations.
OBSERVATIONS: Mapping[str, tuple[Observation, ...]] = {
    "a record: completed": (TaskRecord(TaskStatus.COMPLETED),),
    "a record: failed": (TaskRecord(TaskStatus.FAILED),),
    "a live answer: failed": (TaskRecord(TaskStatus.FAILED, live=True),),
    "a record: queued, in progress or an unknown word": tuple(
        TaskRecord(status, raw_status="word")
        for status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS, TaskStatus.UNKNOWN)
    ),
    "not found": (TaskNotFound("no such task"),),
    "forbidden": (TaskForbidden("not yours"),),
    "rejected": (PollRejected("bad_request", "no"),),
    "the key is refused": (KeyRefused("no"),),
    "429": (Throttled("slower"),),
    "no usable answer": (TransientError("http_502", "bad gateway"),),
    "a record, not found, forbidden or rejected": (
        TaskRecord(TaskStatus.QUEUED),
        TaskNotFound("no such task"),
        TaskForbidden("not yours"),
        PollRejected("bad_request", "no"),
    ),
    "anything but a refused key and 429": (
        TaskRecord(TaskStatus.QUEUED),
        TaskNotFound("no"),
        TransientError("html", "a page"),
    ),
}
UNREACHED = NoAnswer("connection_refused", "no connection")
ANSWERS: Mapping[str, tuple[Answer, ...]] = {
    "2xx": (Answered(200), Answered(204), Answered(299)),
    "410": (Answered(410),),
    "none: a rule or a literal address refuses the target": (RefusedTarget("not allowed"),),
    "any other status": (Answered(302), Answered(400), Answered(404), Answered(429), Answered(500)),
    "none: no connection, no DNS answer, a timeout": (UNREACHED,),
}
POLLS, RETRIES = PollPolicy(), RetryPolicy()


def rows(heading: str) -> list[list[str]]:
    return table_rows(section(PAGE, heading))


# --- watch --------------------------------------------------------------------------------------------------------


def settled_after(observation: Observation, times: int, age: float) -> watch.Ending | None:
    """Returns how a watch of this age ends, or None, after this many equal observations, one interval apart."""
    snapshot, refusals, failure = UNSEEN, NO_REFUSALS, None
    seen = observation
    for number in range(times):
        now = number * POLLS.interval
        observation, failure = watch.confirm_failure(failure, seen, now, now, POLLS.interval)
        snapshot, refusals = watch.snapshot_after(snapshot, observation), watch.refusals_after(refusals, observation)
    return watch.ending_after(snapshot, refusals, observation, 0.0, age)


POLLED_ROWS = [row for row in rows("## Watch") if not row[1].startswith(("the deadline", "cancelled"))]


@pytest.mark.parametrize(("state", "seen", "following", "outcome", "event"), POLLED_ROWS)
def test_an_observation_ends_a_watch_as_the_table_says(
    state: str, seen: str, following: str, outcome: str, event: str
) -> None:
    words = seen if seen in OBSERVATIONS else seen.partition(",")[0]
    times = int((re.findall(r"(\d+) times", seen) or ["1"])[0])
    [youngest] = re.findall(r"at least (\d+) s", seen) or ["0"]
    assert state == WatchState.ACTIVE
    for observation in OBSERVATIONS[words]:
        ending = settled_after(observation, times, float(youngest))
        if following == WatchState.ACTIVE:
            assert settled_after(observation, 100, inf) is None
            continue
        assert following == WatchState.SETTLED
        assert ending is not None
        assert (ending.outcome.value, f"`video.{ending.outcome}`") == (outcome, event)
        assert EventType(event.strip("`"))
        assert times == 1 or settled_after(observation, times - 1, inf) is None
        assert youngest == "0" or settled_after(observation, 100, float(youngest) - 1) is None


def test_the_deadline_and_the_app_end_a_watch_as_the_table_says() -> None:
    deadlines = [row for row in rows("## Watch") if row[1].startswith("the deadline")]
    for row, failure in zip(deadlines, (None, watch.UnconfirmedFailure(0.0, None, None)), strict=True):
        assert ("awaits confirmation" in row[1]) is (failure is not None)
        outcome = watch.deadline_ending(UNSEEN, failure, None, 60.0).outcome
        assert row[2:] == [WatchState.SETTLED, outcome.value, f"`video.{outcome}`"]
    [cancelled] = [row for row in rows("## Watch") if row[1].startswith("cancelled")]
    assert cancelled[2:] == [WatchState.CANCELLED, "", ""]


def test_the_table_of_watches_has_every_state_and_every_observation() -> None:
    found = rows("## Watch")
    assert {state for row in found for state in (row[0], row[2])} == set(WatchState)
    covered = [
        type(seen)
        for _, words, *_ in found
        for seen in OBSERVATIONS.get(words) or OBSERVATIONS.get(words.partition(",")[0], ())
    ]
    assert set(covered) == set(Observation.__args__)


def test_a_record_sets_the_counts_to_zero_and_other_answers_keep_them() -> None:
    counted = watch.refusals_after(NO_REFUSALS, TaskNotFound("no"))
    assert watch.refusals_after(counted, TaskRecord(TaskStatus.QUEUED)) == NO_REFUSALS
    for words in ("the key is refused", "429", "no usable answer"):
        assert watch.refusals_after(counted, OBSERVATIONS[words][0]) == counted


# --- delivery -----------------------------------------------------------------------------------------------------


ANSWERED_ROWS = [row for row in rows("## Delivery") if not row[1].startswith("(")]


@pytest.mark.parametrize(("state", "answer", "following", "code"), ANSWERED_ROWS)
def test_an_answer_moves_a_delivery_as_the_table_says(state: str, answer: str, following: str, code: str) -> None:
    words = re.sub(r"[,;] (attempts are|no attempt is) left$", "", answer)
    last = len(RETRIES.delays) + 1
    attempts = [last] if "no attempt is left" in answer else [1, last - 1]
    states = {delivery.Delivered: "delivered", delivery.RetryAt: "pending", delivery.Dead: "dead"}
    assert state == DeliveryState.PENDING
    for made in attempts:
        for given in ANSWERS[words]:
            verdict = delivery.on_answer(given, made, 0.0, RETRIES, 0.0)
            assert states[type(verdict)] == following
            if isinstance(verdict, delivery.Delivered):
                assert code == ""
                continue
            expected = code.strip("`")
            if isinstance(given, Answered):
                expected = expected.replace("<status>", str(given.status))
            elif isinstance(given, NoAnswer):
                expected = given.code
            assert verdict.error is not None
            assert verdict.error.code == expected


def test_the_table_of_deliveries_has_every_state_and_the_moves_without_an_answer() -> None:
    found = rows("## Delivery")
    assert {state for row in found for state in (row[0], row[2])} == set(DeliveryState)
    others = {(row[0], row[1]): row[2:] for row in found if row[1].startswith("(")}
    assert others == {
        ("pending", "(a status event, and its watch ended)"): ["dead", f"`{SUPERSEDED.code}`"],
        ("pending", "(its receiver is paused by an operator)"): ["pending", ""],
        ("dead", "(a retry was requested)"): ["pending", ""],
        ("delivered", "(a retry was requested)"): ["pending", ""],
    }


def test_the_schedule_of_attempts_and_the_limit_of_a_failing_receiver_are_those_of_the_code() -> None:
    found = " ".join(section(PAGE, "## Delivery").split())
    shown = [f"{delay:g}" for delay in RETRIES.delays]
    assert f"{', '.join(shown[:-1])} and {shown[-1]} seconds, so a delivery has {len(shown) + 1} attempts" in found
    assert f"fails {delivery.FAILURES_UNTIL_PROBING} times in a row gets one attempt at a time" in found
    for failures, most in ((delivery.FAILURES_UNTIL_PROBING, 1), (delivery.FAILURES_UNTIL_PROBING - 1, 8)):
        assert attempts_at_a_time(health_of(failures, answered=True), 8) == most
    [statuses] = re.findall(r"No answer, ([\d, and]+) count as such a failure", found)
    for status in range(200, 600):
        failures = delivery.host_failures_after(Answered(status), 1)
        assert failures == (2 if str(status) in statuses else 0)
    assert delivery.host_failures_after(UNREACHED, 1) == 2


# --- task ---------------------------------------------------------------------------------------------------------


def test_the_table_of_tasks_has_every_status_and_says_which_are_terminal() -> None:
    found = rows("## Task")
    assert [status for status, _ in found] == [status.value for status in TaskStatus]
    assert {status for status, meaning in found if meaning.startswith("terminal")} == set(watch.TERMINAL)


# --- credential ---------------------------------------------------------------------------------------------------

# The words of the table in the order of the states in the code, which have other names in the log.
STATES = dict(zip(("good", "paused", "throttled"), CredentialState, strict=True))
AS_SCHEDULED = "as scheduled"
SLOWEST = "one poll, after a delay that doubles up to 60 s, or `Retry-After` up to 300 s"


def credential_in(state: str) -> tuple[Credential, PolledTask]:
    """Returns a credential that is in this state at time 0, and the task whose poll probes it."""
    credential = Credential("name", None)
    task = PolledTask("row", "task", credential)
    if state != "good":
        words = {"paused": "the key is refused", "throttled": "429"}[state]
        credential.apply_answer(task, OBSERVATIONS[words][0], 0.0, POLLS)
        credential.probe = task
    return credential, task


def delay_of(words: str) -> tuple[float, ...]:
    """Returns the delays in seconds that a row allows for a key that was refused or throttled once before."""
    if words == AS_SCHEDULED:
        return (-inf,)
    phrases = {
        "`BRIDGE_POLL_MAX_INTERVAL_SECONDS`": POLLS.max_interval,
        "`Retry-After` or the poll interval": POLLS.interval,
        "a delay that doubles up to 60 s": POLLS.interval * 2,
    }
    return tuple(seconds for phrase, seconds in phrases.items() if phrase in words)


@pytest.mark.parametrize(("state", "answer", "following", "next_poll"), rows("## Credential"))
def test_an_answer_moves_a_credential_as_the_table_says(
    state: str, answer: str, following: str, next_poll: str
) -> None:
    for observation in OBSERVATIONS[answer]:
        credential, task = credential_in(state)
        before = credential.health.resumes_at
        credential.apply_answer(task, observation, 0.0, POLLS)
        assert credential.health.state is STATES[following]
        delay = credential.health.resumes_at
        if "the same delay" in next_poll:
            assert delay == before
        elif (state, answer) == ("paused", "the key is refused"):
            assert delay == before * 2
            assert POLLS.pause_after(100) == LONGEST_PAUSE == 60
        else:
            assert delay in delay_of(next_poll)


def test_the_longest_delays_of_a_throttled_credential_are_those_of_the_table() -> None:
    [row] = [row for row in rows("## Credential") if row[:2] == ["throttled", "429"]]
    assert row[3] == SLOWEST
    assert POLLS.throttle_after(None, 100) == 60
    assert POLLS.throttle_after(10_000.0, 1) == LONGEST_THROTTLE == 300


def test_the_table_of_credentials_has_every_state() -> None:
    assert {state for row in rows("## Credential") for state in (row[0], row[2])} == set(STATES)
