"""The queue of a lane: which items are taken together, and when the mark of a group still holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.polling.task_queue import FULL_SHARE, TaskQueue

Queue = TaskQueue[int, str]


def queue(*groups: tuple[range, str | None]) -> Queue:
    made = Queue()
    for items, mark in groups:
        made.extend(items, mark)
    return made


def all_taken(queue: Queue, most: int) -> list[tuple[list[int], str | None]]:
    """Takes all items, up to `most` at a time. Returns what each `take` returned."""
    return list(iter(lambda: queue.take(most), ([], None)))


def test_full_groups_are_taken_as_they_were_added() -> None:
    made = queue((range(50), "a"), (range(50, 99), "b"), (range(99, 149), "c"))
    assert [(len(items), mark) for items, mark in all_taken(made, 50)] == [(50, "a"), (49, "b"), (50, "c")]
    assert made.waiting == 0


def test_groups_with_too_few_items_are_filled_from_the_next_ones_and_lose_their_marks() -> None:
    made = queue((range(6), "a"), (range(6, 16), "b"), (range(16, 26), "c"))
    assert all_taken(made, 10) == [(list(range(10)), None), (list(range(10, 20)), None), (list(range(20, 26)), None)]


def test_the_last_group_keeps_its_mark_even_if_it_is_small() -> None:
    assert all_taken(queue((range(10), "a"), (range(10, 13), "b")), 10)[0] == (list(range(10)), "a")
    assert all_taken(queue((range(3), "b")), 10) == [([0, 1, 2], "b")]


def test_a_group_that_is_larger_than_a_request_is_divided_and_loses_its_mark() -> None:
    assert all_taken(queue((range(10), "a")), 5) == [([0, 1, 2, 3, 4], None), ([5, 6, 7, 8, 9], None)]


def test_a_group_that_an_item_has_left_loses_its_mark() -> None:
    made = queue((range(10), "a"), (range(10, 20), "b"))
    made.remove(13)
    assert all_taken(made, 10) == [(list(range(10)), "a"), ([10, 11, 12, 14, 15, 16, 17, 18, 19], None)]
    assert not made.stale


def test_an_item_that_came_back_does_not_bring_the_mark_back() -> None:
    made = queue((range(3), "a"))
    made.remove(1)
    made.append(1)
    assert all_taken(made, 10) == [([0, 2, 1], None)]


def test_single_items_form_a_group_without_a_mark() -> None:
    made = queue((range(2), "a"))
    for item in (5, 6):
        made.append(item)
    made.extend((8, 9), "b")
    made.append(7)
    assert [(list(group.items), group.mark) for group in made.groups] == [
        ([0, 1], "a"),
        ([5, 6], None),
        ([8, 9], "b"),
        ([7], None),
    ]
    assert made.take(2) == ([0, 1], "a")
    assert made.take(2) == ([5, 6], None)


def test_no_item_is_added_to_a_group_that_was_taken() -> None:
    made = Queue()
    made.append(1)
    assert made.take(5) == ([1], None)
    made.append(2)
    made.clear()
    made.append(3)
    assert (made.take(5), made.waiting) == (([3], None), 0)


def test_items_that_are_put_back_have_no_mark() -> None:
    made = queue((range(2), "a"))
    items, mark = made.take(2)
    made.put_back(items)
    made.put_back(())
    assert (mark, made.take(2)) == ("a", ([0, 1], None))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(0, 9)),
        st.tuples(st.just("remove"), st.integers(0, 60)),
        st.tuples(st.just("take"), st.integers(1, 9)),
        st.tuples(st.sampled_from(["append", "put_back"]), st.just(1)),
    ),
    max_size=40,
)


@given(STEPS)
def test_items_come_out_in_their_order_and_a_mark_says_which_items_they_are(steps: list[tuple[str, int]]) -> None:
    made: TaskQueue[int, tuple[int, ...]] = TaskQueue()
    expected, numbers = list[int](), iter(range(1_000))
    for step, number in steps:
        match step:
            case "extend":
                added = [next(numbers) for _ in range(number)]
                made.extend(added, tuple(added))
                expected += added
            case "append":
                expected.append(next(numbers))
                made.append(expected[-1])
            case "put_back":
                expected.insert(0, next(numbers))
                made.put_back(expected[:1])
            case "remove" if expected:
                made.remove(expected.pop(number % len(expected)))
            case "take":
                items, mark = made.take(number)
                assert items == expected[: len(items)]
                assert mark is None or mark == tuple(items)
                assert len(items) <= number
                assert items or not expected
                del expected[: len(items)]
        assert made.waiting == len(expected)
    assert [item for items, _ in iter(lambda: made.take(4), ([], None)) for item in items] == expected
    assert not made.stale


@pytest.mark.parametrize(("groups", "size"), [(40, 490), (40, 491), (40, 500), (3, 350), (2, 10)])
def test_requests_are_at_most_two_percent_more_than_with_full_groups(groups: int, size: int) -> None:
    made = queue(*((range(first * size, (first + 1) * size), "a") for first in range(groups)))
    requests = len(all_taken(made, 500))
    assert requests <= max(-(-groups * size // 500), groups * size / 500 / FULL_SHARE)
