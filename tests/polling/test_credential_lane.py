"""The queue of one credential's batch lane: the order of its tasks, tasks that leave, and the state of a new lane."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amux.paths import LIVE_PLATFORMS
from bridge.core.batch_lane import BatchPolicy, LaneHealth, Platforms
from bridge.polling.state import Credential, CredentialLane, Phase, PolledTask, next_poll_of

POLICY = BatchPolicy(size=40, interval=3.0)


class Lane:
    """A lane with tasks that are named by numbers."""

    def __init__(self, count: int = 0) -> None:
        self.credential = Credential("name", "key")
        self.lane = CredentialLane(self.credential, POLICY)
        self.tasks = [PolledTask(f"row{number}", f"task{number}", self.credential) for number in range(9)]
        for task in self.tasks[:count]:
            self.lane.append(task)

    def popped(self) -> list[int]:
        """Takes all tasks from the queue, and returns their numbers in this order."""
        return [self.tasks.index(task) for task in iter(self.lane.pop, None)]


def test_a_new_lane_has_no_tasks_and_may_be_asked_at_once() -> None:
    credential = Credential("name", "key")
    lane = CredentialLane(credential, POLICY)
    assert lane.credential is credential
    assert (lane.health, lane.platforms) == (LaneHealth(40), Platforms(LIVE_PLATFORMS))
    assert (lane.tasks, lane.waiting, lane.in_requests, lane.requests, lane.pop()) == (0, 0, 0, 0, None)
    assert (lane.began, lane.next_at, lane.single_until, lane.entry) == (-inf, -inf, -inf, 0)
    assert (lane.spacing, lane.round_seconds) == (3.0, 3.0)
    assert (lane.to_release, lane.released, lane.released_from) == (0, 0, 0.0)


def test_tasks_come_out_in_the_order_in_which_they_were_added() -> None:
    lane = Lane(3)
    assert {task.phase for task in lane.tasks[:3]} == {Phase.BATCHED}
    assert (lane.lane.waiting, lane.popped(), lane.lane.waiting) == (3, [0, 1, 2], 0)


def test_tasks_that_are_put_back_come_first_and_in_their_order() -> None:
    lane = Lane(2)
    lane.lane.put_back(lane.tasks[5:8])
    assert {task.phase for task in lane.tasks[5:8]} == {Phase.BATCHED}
    assert (lane.lane.waiting, lane.popped(), lane.lane.waiting) == (5, [5, 6, 7, 0, 1], 0)


def test_the_tasks_of_a_lane_are_those_that_wait_and_those_that_are_read() -> None:
    lane = Lane(2).lane
    lane.in_requests = 5
    assert lane.tasks == 7


def test_a_task_that_left_and_came_back_three_times_comes_out_once_and_at_its_last_place() -> None:
    lane = Lane(3)
    for _ in range(3):
        lane.lane.remove(lane.tasks[0])
        lane.lane.append(lane.tasks[0])
    lane.lane.remove(lane.tasks[1])
    assert (lane.lane.waiting, lane.popped(), lane.lane.waiting) == (2, [2, 0], 0)
    lane.lane.append(lane.tasks[1])
    assert lane.popped() == [1]


@given(st.lists(st.tuples(st.sampled_from(["append", "put_back", "remove", "pop"]), st.integers(0, 8))))
def test_whatever_happens_each_task_comes_out_once_and_none_that_has_left(steps: list[tuple[str, int]]) -> None:
    lane, expected = Lane(), list[int]()
    for step, number in steps:
        task = lane.tasks[number]
        if step == "pop":
            found = lane.lane.pop()
            assert found is (lane.tasks[expected.pop(0)] if expected else None)
        elif step == "remove" and number in expected:
            lane.lane.remove(task)
            expected.remove(number)
        elif step == "append" and number not in expected:
            lane.lane.append(task)
            expected.append(number)
        elif step == "put_back" and number not in expected and task not in lane.lane.stale:
            lane.lane.put_back([task])
            expected.insert(0, number)
        assert lane.lane.waiting == len(expected)
    assert lane.popped() == expected
    assert not lane.lane.stale


def test_clearing_drops_the_tasks_and_keeps_what_is_known_about_the_route() -> None:
    lane = Lane(3)
    made = lane.lane
    made.remove(lane.tasks[0])
    made.health, made.entry, made.to_release, made.released = LaneHealth(7), 5, 3, 2
    made.clear()
    assert (made.waiting, made.entry, made.to_release, made.released, made.health) == (0, 0, 0, 0, LaneHealth(7))
    made.append(lane.tasks[0])
    assert lane.popped() == [0]


@pytest.mark.parametrize(
    ("phase", "next_at", "shown"),
    [
        (Phase.BATCHED, 120.0, 120.0),
        (Phase.BATCHED, 104.0, 108.0),
        (Phase.SCHEDULED, 120.0, 108.0),
    ],
)
def test_a_task_in_a_lane_is_shown_with_the_next_batch(phase: Phase, next_at: float, shown: float) -> None:
    lane = Lane(1)
    task = lane.tasks[0]
    lane.credential.lane, lane.lane.next_at = lane.lane, next_at
    task.phase, task.due = phase, 108.0
    assert next_poll_of(task, 100.0) == shown
