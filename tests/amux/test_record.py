"""The unusual forms of amux's records: which part is the record, what its fields may hold, and broken JSON."""

from typing import Any

import pytest

from bridge.amux.lenient_json import clean, read_json
from bridge.core.model import Problem, TaskRecord, TaskStatus, TransientError
from tests.amux.records import DONE, TASK, URL, read, record_of

# --- which part is the record -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"code": "success", "data": {"task_id": TASK, "status": "running", "data": {"status": "succeeded"}}},
        {"status": 200, "data": {"status": "running"}},
        {"status": "success", "data": {"task_id": TASK, "status": "running"}},
        {"task_id": TASK, "status": "running", "data": {"status": "succeeded"}},
        {"task_id": TASK, "status": "running", "data": {"output": {"url": URL}}},
        {"id": 7, "status": "running", "data": "succeeded"},
    ],
)
def test_the_record_is_the_object_with_the_tasks_status(body: Any) -> None:
    assert record_of(body)._replace(live=False) == TaskRecord(TaskStatus.IN_PROGRESS)


@pytest.mark.parametrize("task_id", ["task_other", "TASK_1:A", "x"])
def test_a_record_of_another_task_is_a_transient_error(task_id: str) -> None:
    for body in (DONE | {"task_id": task_id}, {"data": DONE | {"task_id": task_id}}):
        assert read(body) == TransientError("wrong_task", "amux answered with the record of another task")


@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"task_id": None},
        {"task_id": ""},
        {"task_id": 17},
        {"task_id": f" {TASK[:2]}\0{TASK[2:]}"},
        {"id": 17},
        {"id": "cgt-2026"},
        {"id": "task_of_an_amux_behind_amux"},
        {"id": "task_other", "task_id": TASK},
    ],
)
def test_a_record_that_names_no_other_task_is_accepted(ids: Any) -> None:
    assert record_of({"status": "completed"} | ids).status is TaskStatus.COMPLETED


# --- statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (TaskStatus.COMPLETED, "completed succeeded success succeed done"),
        (TaskStatus.FAILED, "failed failure fail error cancelled canceled expired timeout timed_out rejected aborted"),
        (TaskStatus.QUEUED, "queued not_start submitted pending"),
        (TaskStatus.IN_PROGRESS, "in_progress processing running"),
    ],
)
def test_every_status_word_is_known_in_any_case(status: TaskStatus, words: str) -> None:
    for word in words.split():
        for spelled in (word, word.upper(), word.title(), f" {word}\n", f"{word[:1]}\0{word[1:]}"):
            observation = record_of({"status": spelled})
            assert (observation.status, observation.raw_status) == (status, None)


@pytest.mark.parametrize("word", ["unknown", "UNKNOWN", "Preparing", "rendering…", "completed?"])
def test_an_unknown_status_word_ends_no_watch(word: str) -> None:
    assert record_of({"status": word, "url": URL, "progress": "100%"}) == TaskRecord(
        TaskStatus.UNKNOWN, 100, raw_status=word.lower()
    )


# --- errors, progress, times ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "message", "expected"),
    [
        ({"error": {"code": 50001, "message": "m"}}, "top", Problem(50001, "m")),
        ({"error": {"code": "E1", "message": "m"}, "fail_reason": "f"}, "top", Problem("E1", "m")),
        ({"error": {"code": "E1"}, "fail_reason": "f"}, "top", Problem("E1", "f")),
        ({"error": {"code": "E1", "message": ""}}, "top", Problem("E1", "top")),
        ({"error": {"code": True, "message": {"a": 1}}}, "top", Problem(None, "top")),
        ({"error": {"code": "", "message": "m"}}, "", Problem(None, "m")),
        ({"error": {"code": 10**30, "message": "m"}}, "", Problem(None, "m")),
        ({"error": {"code": 1.5, "message": "m"}}, "", Problem(None, "m")),
        ({"error": "text"}, "top", Problem(None, "text")),
        ({"error": None, "fail_reason": "f"}, "top", Problem(None, "f")),
        ({"error": [], "fail_reason": ""}, "top", Problem(None, "top")),
        ({"fail_reason": "a\0b\ud800c"}, "", Problem(None, "ab\ufffdc")),
        ({}, "", Problem(None, None)),
        ({}, None, Problem(None, None)),
    ],
)
def test_a_failure_has_its_reason(record: Any, message: Any, expected: Problem) -> None:
    failed = {"task_id": TASK, "status": "failed"} | record
    assert record_of({"code": "success", "message": message, "data": failed}).error == expected


@pytest.mark.parametrize(
    ("vendors", "code"),
    [
        ({"error": {"code": "E1"}}, "E1"),
        ({"err_code": "E2"}, "E2"),
        ({"base_resp": {"status_code": 1026}}, 1026),
        ({"base_resp": {"status_code": 0}, "output": {"code": "E3"}}, "E3"),
        ({"base_resp": {"status_code": 0}}, None),
        ({"err_code": "", "error": "text", "code": 17}, None),
        ({"error": {"code": ["E1"]}}, None),
    ],
)
def test_the_code_of_a_failure_may_be_in_the_vendors_body(vendors: Any, code: str | int | None) -> None:
    row = {"status": "FAILURE", "fail_reason": "why"}
    assert record_of({"code": "success", "data": row | {"data": vendors}}).error == Problem(code, "why")
    assert record_of({"data": row | {"error": {"code": 0}, "data": vendors}}).error == Problem(0, "why")


def test_a_bare_record_has_its_reason_in_its_message() -> None:
    assert record_of({"status": "failed", "message": "m"}).error == Problem(None, "m")


@pytest.mark.parametrize(
    ("value", "progress"),
    [
        (0, 0),
        (30, 30),
        (100, 100),
        (30.7, 30),
        (130, 100),
        (-5, 0),
        ("30%", 30),
        (" 30.5 % ", 30),
        ("7", 7),
        ("900%", 100),
        ("3\x000%", 30),
        (10**20, 100),
        (10**400, None),
        (True, None),
        (None, None),
        ("", None),
        ("half", None),
        ("-5%", None),
        ("٣٠%", None),
        ("9" * 50, None),
        ([30], None),
    ],
)
def test_progress_is_per_cent_or_none(value: Any, progress: int | None) -> None:
    for word in ("running", "completed", "failed"):
        assert record_of({"status": word, "progress": value}).progress == progress


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"finish_time": 1_795_446_245}, 1_795_446_245.0),
        ({"completed_at": 1_795_446_245.5}, 1_795_446_245.5),
        ({"finish_time": 1_795_446_245_678}, 1_795_446_245.678),
        ({"finish_time": 0, "completed_at": 7}, 7.0),
        ({"finish_time": -1}, None),
        ({"finish_time": True}, None),
        ({"finish_time": "1795446245"}, None),
        ({"finish_time": 10**18}, None),
        ({"updated_at": 1_795_446_245}, None),
    ],
)
def test_the_time_of_the_end_is_read_where_amux_gives_it(record: Any, expected: float | None) -> None:
    assert record_of(DONE | record).finished_at == expected
    assert record_of(DONE | record | {"status": "running"}).finished_at is None


# --- JSON with errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vendor",
    [
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 400,
        b"9" * 5000,
        b"-" + b"9" * 5000,
        rb'"\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\0b"',
        b'"a\nb"',
        b"[" * 900 + b"]" * 900,
    ],
)
def test_json_with_errors_of_vendors_is_read(vendor: bytes) -> None:
    body = b'{"data":{"data":%b,"progress":NaN,"status":"completed","metadata":{"fps":%b}}}' % (vendor, vendor)
    assert record_of(body) == TaskRecord(TaskStatus.COMPLETED)
    assert record_of(b"\xef\xbb\xbf" + body) == TaskRecord(TaskStatus.COMPLETED)


def test_values_that_json_cannot_hold_are_replaced() -> None:
    assert read_json(b'[NaN, Infinity, 9%s, "\\ud800", "\xff"]' % (b"9" * 4400)) == [
        None,
        None,
        None,
        "\ud800",
        "\ufffd",
    ]
    assert read_json(b"\xef\xbb\xbf[1e999]") == [float("inf")]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 5000 + b"]" * 5000, b"nan", b"\xff\xfe[\0]\0", b"[] []"])
def test_text_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  JSONDecodeError or a plain ValueError
        read_json(body)


def test_texts_are_cleaned() -> None:
    assert clean("a\0b\ud800\udfffc\U0001f600") == "ab\ufffd\ufffdc\U0001f600"
