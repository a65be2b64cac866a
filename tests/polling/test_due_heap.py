"""The order in which tasks become due."""

from math import inf
from random import Random

import pytest

from bridge.polling.due_heap import DueHeap
from bridge.polling.state import Credential, PolledTask


def tasks(count: int) -> list[PolledTask]:
    credential = Credential("configured", None, configured=True)
    return [PolledTask(f"tsk_{number}", f"task_{number}", credential) for number in range(count)]


@pytest.mark.parametrize("seconds", [0.5, 5.0, 300.0])
@pytest.mark.parametrize("seed", range(10))
def test_tasks_come_in_the_order_of_their_due_times_after_any_calls(seed: int, seconds: float) -> None:
    random, heap, now = Random(seed), DueHeap(), 5_000.0
    known = tasks(40)
    expected: dict[PolledTask, tuple[float, int]] = {}  # when each task is due; of equal times the first comes first
    for number in range(3_000):
        now += random.choice([0.0, 0.0, random.random() * seconds / 40])
        task = random.choice(known)
        call = random.random()
        if call < 0.5:
            due = random.choice([now, now - 1.0, float(int(now) + 1), now + random.random() * seconds])
            heap.put(task, due)
            expected[task] = (due, number)
        elif call < 0.6:
            heap.remove(task)
            expected.pop(task, None)
        else:
            first = min(expected, key=lambda each: expected[each], default=None)
            if first is not None and expected[first][0] > now:
                first = None
            assert heap.pop_due(now) is first
            if first is not None:
                del expected[first]
        if random.random() < 0.3:
            assert heap.next_due() == min((due for due, _ in expected.values()), default=inf)


def test_tasks_of_one_second_and_of_distant_ones_are_all_taken() -> None:
    heap, known = DueHeap(), tasks(200)
    for place, task in enumerate(reversed(known)):
        heap.put(task, 1_000.0 * (199 - place))
    heap.put(known[3], 2_999.5)  # the earlier entry is stale
    assert heap.next_due() == 0.0
    assert [heap.pop_due(1e9) for _ in known] == known
    assert heap.pop_due(1e9) is None
