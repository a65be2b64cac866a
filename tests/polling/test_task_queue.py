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


def test_a_group_whose_items_have_filled_others_does_not_count() -> None:
    made = queue((range(97), None), *((range(n, n + 98), "a") for n in range(100, 9_700, 100)))
    made.append(99)
    assert made.take(100) == ([*range(97), 99], None)
    assert {(len(items), mark) for items, mark in all_taken(made, 100)} == {(98, "a")}


def test_a_group_that_is_larger_than_a_request_is_divided_and_loses_its_mark() -> None:
    assert all_taken(queue((range(10), "a")), 5) == [([0, 1, 2, 3, 4], None), ([5, 6, 7, 8, 9], None)]


def test_a_smaller_size_makes_few_more_requests() -> None:
    made = queue(*((range(first * 500, first * 500 + 500), "a") for first in range(8)))
    assert len(all_taken(made, 400)) <= 11


def test_a_large_group_that_many_items_have_left_is_taken_in_full_parts() -> None:
    made = queue((range(10_000), None))
    for item in range(0, 10_000, 2):
        made.remove(item)
    assert [len(items) for items, _ in all_taken(made, 500)] == [500] * 10


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


def test_single_items_form_a_group_without_a_mark_until_it_is_taken() -> None:
    made = queue((range(2), "a"))
    made.append(5)
    made.extend((8, 9), "b")
    made.append(6)
    assert [(group.items, group.mark) for group in made.groups] == [([0, 1], "a"), ([5, 6], None), ([8, 9], "b")]
    assert (made.take(2), made.take(2)) == (([0, 1], "a"), ([5, 6], None))
    made.append(7)
    assert (made.take(2), made.take(2)) == (([8, 9], "b"), ([7], None))


def test_single_items_that_come_all_the_time_destroy_few_marks() -> None:
    made: Queue = TaskQueue()
    for first in range(0, 50_000, 500):
        made.extend(range(first, first + 500), "a")
    marked = 0
    for turn in range(1_000):
        items, mark = made.take(500)
        marked += mark is not None
        made.extend(items, "a")
        if turn % 3 == 0:
            made.append(100_000 + turn)
    assert marked > 900


def test_an_item_that_never_stays_in_its_group_comes_out_once_a_round() -> None:
    made = queue(*((range(first, first + 499), None) for first in range(0, 40 * 499, 499)))
    odd, reads, marked = -1, 0, 0
    made.rejoin(odd)
    for _ in range(400):
        items, mark = made.take(500)
        marked += mark is not None
        made.extend([item for item in items if item != odd], None if odd in items else "a")
        if odd in items:
            reads += 1
            made.rejoin(odd)
    assert reads in {9, 10}
    assert marked >= 350


def test_a_new_item_waits_a_round_even_if_all_items_are_added_again_singly() -> None:
    made = queue((range(5_000), None))  # as after a start
    for turn in range(150):
        items, _ = made.take(50)
        if -1 in items:
            break
        for item in items:
            made.rejoin(item)
        if turn == 10:
            made.append(-1)
    assert turn in range(100, 115)


def test_new_single_items_fill_groups_that_are_not_full_the_newest_first() -> None:
    made = queue((range(9), None), (range(10, 20), None), *((range(n, n + 10), None) for n in range(100, 500, 10)))
    for item in (50, 51):
        made.append(item)
    assert made.take(10) == ([*range(9), 51], None)
    assert made.take(10) == (list(range(10, 20)), None)
    made.remove(50)
    assert [len(items) for items, _ in all_taken(made, 10)] == [10] * 40


def test_a_group_with_a_mark_is_filled_only_if_it_is_small() -> None:
    made = queue((range(9), "a"), *((range(n, n + 10), "b") for n in range(100, 500, 10)))
    made.append(50)
    assert made.take(10) == (list(range(9)), "a")
    made = queue((range(4), "a"), *((range(n, n + 10), "b") for n in range(100, 1100, 10)))
    made.append(50)
    assert made.take(10) == ([0, 1, 2, 3, 50], None)


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
        st.tuples(st.sampled_from(["append", "rejoin", "put_back", "pop"]), st.just(1)),
    ),
    max_size=40,
)


@given(STEPS)
def test_each_item_comes_out_once_and_a_mark_says_which_items_they_are(steps: list[tuple[str, int]]) -> None:
    made: TaskQueue[int, tuple[int, ...]] = TaskQueue()
    waiting, front, numbers = list[int](), list[int](), iter(range(1_000))
    for step, number in steps:
        match step:
            case "extend":
                added = [next(numbers) for _ in range(number)]
                made.extend(added, tuple(added))
                waiting += added
            case "append" | "rejoin":
                waiting.append(next(numbers))
                (made.append if step == "append" else made.rejoin)(waiting[-1])
            case "put_back":
                front.insert(0, next(numbers))
                waiting.append(front[0])
                made.put_back(front[:1])
            case "remove" if waiting:
                made.remove(removed := waiting.pop(number % len(waiting)))
                front = [each for each in front if each != removed]
            case "take" | "pop":
                items, mark = (
                    made.take(number) if step == "take" else ([each for each in [made.pop()] if each is not None], None)
                )
                assert mark is None or mark == tuple(items)
                assert len(items) <= number
                assert items or not waiting
                assert items[: len(front)] == front[: len(items)]
                del front[: len(items)]
                for item in items:
                    waiting.remove(item)
        assert made.waiting == len(waiting)
    assert sorted(item for items, _ in iter(lambda: made.take(4), ([], None)) for item in items) == sorted(waiting)
    assert not made.stale
    assert not made.groups


@pytest.mark.parametrize(("groups", "size"), [(40, 480), (40, 490), (40, 500), (3, 300), (2, 10)])
def test_requests_are_at_most_three_percent_more_than_with_full_groups(groups: int, size: int) -> None:
    made = queue(*((range(first * size, (first + 1) * size), "a") for first in range(groups)))
    requests = len(all_taken(made, 500))
    assert requests <= max(-(-groups * size // 500), groups * size / 500 / FULL_SHARE)
