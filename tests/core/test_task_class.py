"""Classes of tasks: their names, and the limit of their number."""

import pytest

from bridge.core.learned_schedule import MIN_ENDS, History, merged, with_end
from bridge.core.schedule import PollPolicy
from bridge.core.task_class import (
    MAX_CLASSES,
    OTHER,
    ClassHistory,
    TaskEnd,
    check_model,
    class_by_app,
    class_by_credential,
    class_by_record,
    class_to_remove,
    model_by_app,
    platform_by_record,
    with_task_end,
)

POLICY = PollPolicy()


def end(name: str, until: float = 90.0) -> TaskEnd:
    return TaskEnd(name, until - 5.0, until, 8)


def full(ends: int = 1) -> dict[str, ClassHistory]:
    """Returns as many classes as there may be besides OTHER. The first class has the oldest end."""
    weights = (0.0, 1.0, *History().weights[2:])
    names = range(MAX_CLASSES - 1)
    return {f"class {number:03}": ClassHistory(History(weights, ends, 0.0, 5.0), number) for number in names}


def test_the_names_of_classes_are_short_and_differ_by_their_origin() -> None:
    assert class_by_record("54", "seedance") == "amux 54 seedance"
    assert class_by_record(None, None) is None
    assert class_by_record("54", None) == "amux 54 -"
    assert class_by_record(None, "seedance") == "amux - seedance"
    assert class_by_app("seedance") != class_by_credential("seedance")
    assert len(class_by_record("9" * 500, "m" * 500) or "") < 300


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        (class_by_record("54", "seedance 1 pro"), "54"),
        (class_by_record("54", None), "54"),
        (class_by_record(None, "54 pro"), None),
        (class_by_app("54 pro"), None),
        (class_by_app("amux 54 pro"), None),
        (class_by_credential("54"), None),
        (OTHER, None),
    ],
)
def test_the_platform_in_a_class_that_amux_named_is_read_back(name: str, platform: str | None) -> None:
    assert platform_by_record(name) == platform


@pytest.mark.parametrize("model", ["", "m" * 192, "two\nlines", "\0", "zero\u200bwidth", "line\u2028end"])
def test_a_model_is_1_to_191_printable_characters(model: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 191 printable characters"):
        check_model(model)
    assert check_model("可灵 v2") == "可灵 v2"
    assert check_model("m" * 191)
    assert check_model("m") == "m"


def test_the_model_in_a_class_that_an_app_named_is_read_back() -> None:
    assert model_by_app(class_by_app("app app x")) == "app app x"
    assert model_by_app(class_by_credential("app x")) is None
    assert model_by_app("an app x") is None


def test_an_end_changes_its_own_class_only_while_there_is_room() -> None:
    classes = {"a": ClassHistory(History(), 1.0)}
    changed = with_task_end(classes, end("b"), POLICY, 7.0)
    assert changed.keys() == {"b"}
    new = changed["b"]
    assert new is not None
    assert (new.history.ends, new.last_end_at) == (1, 7.0)


def test_an_end_is_added_to_the_history_of_its_class_as_it_was() -> None:
    known = ClassHistory(with_end(History(), 50.0, 60.0, 9, POLICY), 1.0)
    late = TaskEnd("a", 85.0, 90.0, 3, polled_from=40.0, poll_seconds=2.0)
    changed = with_task_end({"a": known, "b": ClassHistory()}, late, POLICY, 7.0)
    assert changed == {"a": ClassHistory(with_end(known.history, 85.0, 90.0, 3, POLICY, 40.0, 2.0), 7.0)}


def test_a_new_class_takes_the_place_of_the_one_with_the_oldest_end() -> None:
    classes = full()
    changed = with_task_end(classes, end("new"), POLICY, 1_000.0)
    assert changed["class 000"] is None
    assert changed.keys() == {"class 000", OTHER, "new"}
    other = changed[OTHER]
    assert other is not None
    assert (other.history.ends, other.history.mean_polls) == (1, 5.0)


@pytest.mark.parametrize(("of_other", "of_oldest"), [(3.0, 0.0), (3.0, 5.0)])
def test_the_shared_class_has_the_later_one_of_both_times(of_other: float, of_oldest: float) -> None:
    classes = {name: ClassHistory(one.history, one.last_end_at + of_oldest) for name, one in full().items()}
    shared = ClassHistory(History(ends=4), of_other)
    changed = with_task_end(classes | {OTHER: shared}, end("new"), POLICY, 1_000.0)
    both = merged(shared.history, classes["class 000"].history)
    assert changed[OTHER] == ClassHistory(both, max(of_other, of_oldest))


def test_an_end_of_the_shared_class_itself_is_counted_in_it() -> None:
    classes = full()
    changed = with_task_end(classes, end(OTHER), POLICY, 1_000.0)
    assert changed.keys() == {"class 000", OTHER}
    other = changed[OTHER]
    assert other is not None
    assert (other.history.ends, other.last_end_at) == (2, 1_000.0)


def test_the_class_with_the_oldest_end_is_removed_whatever_its_name() -> None:
    classes = full()
    classes["class 000"] = ClassHistory(classes["class 000"].history, 9_000.0)
    assert class_to_remove(classes) == "class 001"
    classes["class 002"] = ClassHistory(History(ends=1), 1.0)  # as old as class 001
    assert class_to_remove(classes) == "class 001"


def test_a_class_that_is_used_stays_while_another_has_too_few_ends() -> None:
    classes = full(MIN_ENDS)
    classes["class 200"] = ClassHistory(History(ends=MIN_ENDS - 1), 200)
    assert class_to_remove(classes) == "class 200"
    del classes["class 200"]
    assert class_to_remove(classes) is None


def test_there_are_never_more_classes_than_allowed() -> None:
    classes: dict[str, ClassHistory] = {}
    for number in range(2 * MAX_CLASSES):
        for name, one in with_task_end(classes, end(f"junk {number}"), POLICY, float(number)).items():
            if one is None:
                del classes[name]
            else:
                classes[name] = one
    assert len(classes) == MAX_CLASSES
    assert classes[OTHER].history.ends == MAX_CLASSES + 1
    assert sum(one.history.ends for one in classes.values()) == 2 * MAX_CLASSES
