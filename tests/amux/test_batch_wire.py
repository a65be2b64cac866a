"""Answers of the batch route: order, duplicates, foreign ids, changed forms and half answers."""

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amux.batch_wire import LENIENT_BYTES, MAX_ROWS, Asked, observe_batch
from bridge.amux.key_removal import KeyRemoval
from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchObservation, NoBatchRoute, TaskMissing, TooManyTasks
from bridge.core.model import TaskStatus
from tests.amux.records import records_in

JSON = "application/json; charset=utf-8"
BASE_URL = "https://api.example"
IDS = ("task_1", "task_2", "task_3")
ASKED = Asked(frozenset(IDS), BASE_URL, KeyRemoval("sk-amux-0123456789abcdef"))


def row(task_id: str, status: str = "IN_PROGRESS", **more: Any) -> dict[str, Any]:
    return {"id": 7, "task_id": task_id, "platform": "50", "status": status, "progress": "30%", "data": {}, **more}


def read(rows: Any, **more: Any) -> BatchObservation:
    return read_bytes(orjson.dumps({"code": "success", "message": "", "data": rows, **more}))


def read_bytes(body: bytes, status: int = 200, kind: str = JSON) -> BatchObservation:
    return observe_batch(status, kind, body, ASKED)


def statuses(observation: BatchObservation) -> dict[str, TaskStatus]:
    return {task_id: record.status for task_id, record in records_in(observation).items()}


def code_of(observation: BatchObservation) -> str:
    assert isinstance(observation, BatchFailed | NoBatchRoute), observation
    return observation.code


def test_records_are_found_by_their_own_task_id_in_any_order() -> None:
    found = read(
        [row("task_3", "SUCCESS", result_url="https://v.example/3.mp4"), row("task_1"), row("task_2", "FAILURE")]
    )
    assert statuses(found) == {
        "task_3": TaskStatus.COMPLETED,
        "task_1": TaskStatus.IN_PROGRESS,
        "task_2": TaskStatus.FAILED,
    }
    assert records_in(found)["task_3"].url == "https://v.example/3.mp4"
    assert records_in(found)["task_1"].platform == "50"


def test_foreign_and_missing_tasks_and_what_is_no_record_are_left_out() -> None:
    strange: list[Any] = [None, 7, "task_1", [], {}, row("task_9"), {"status": "SUCCESS"}, row("", "SUCCESS")]
    strange += [{"id": "task_1", "status": "SUCCESS"}, {"task_id": 1, "status": "SUCCESS"}]
    assert statuses(read([*strange, row("task_2")])) == {"task_2": TaskStatus.IN_PROGRESS}


def test_a_task_id_with_white_space_or_a_nul_is_the_tasks_own() -> None:
    assert statuses(read([row(" task_2\0 ")])) == {"task_2": TaskStatus.IN_PROGRESS}


def test_a_record_that_comes_twice_counts_once_and_a_contradiction_not_at_all() -> None:
    assert statuses(read([row("task_1"), row("task_1")])) == {"task_1": TaskStatus.IN_PROGRESS}
    contradiction = [row("task_1", "SUCCESS"), row("task_1", "FAILURE"), row("task_1", "SUCCESS")]
    assert statuses(read([*contradiction, row("task_2")])) == {"task_2": TaskStatus.IN_PROGRESS}
    assert code_of(read(contradiction)) == "bad_records"


def test_a_record_without_a_status_is_left_out() -> None:
    assert statuses(read([row("task_1", status=""), row("task_2")])) == {"task_2": TaskStatus.IN_PROGRESS}
    assert code_of(read([{"task_id": "task_1", "status": None}])) == "bad_records"


def test_the_answers_own_message_is_no_reason_of_a_task() -> None:
    found = read([row("task_1", "FAILURE")], message="partial result")
    error = records_in(found)["task_1"].error
    assert error is not None
    assert error.message is None


def test_a_failure_in_the_live_form_is_marked_as_live() -> None:
    live = {"task_id": "task_1", "status": "failed", "url": "", "format": "mp4", "metadata": None, "error": None}
    found = read([live, row("task_2", "FAILURE")])
    assert [records_in(found)[each].live for each in ("task_1", "task_2")] == [True, False]


@pytest.mark.parametrize("rows", [None, [], [None], [row("task_9")]])
def test_an_answer_with_none_of_the_tasks_shows_that_the_route_is_filtered(rows: Any) -> None:
    found = read(rows, message="nothing here")
    assert isinstance(found, NoBatchRoute)
    assert found.code == "filtered"
    assert found.message.endswith(": nothing here")


def test_an_answer_without_the_one_task_that_was_asked_for_shows_less() -> None:
    def alone(data: Any) -> BatchObservation:
        body = orjson.dumps({"code": "success", "message": "", "data": data})
        return observe_batch(200, JSON, body, replace(ASKED, ids=frozenset({"task_1"})))

    assert isinstance(alone([]), TaskMissing)
    assert isinstance(alone([row("task_2", "SUCCESS")]), TaskMissing)
    assert isinstance(alone(None), NoBatchRoute)


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 404, 405, 409, 414, 422, 451, 501])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":{"message":"no","type":"new_api_error","code":""}}'])
def test_any_4xx_and_any_redirect_and_not_implemented_shows_that_there_is_no_route(status: int, body: bytes) -> None:
    found = read_bytes(body, status)
    assert isinstance(found, NoBatchRoute)
    assert found.code == f"http_{status}"


def test_a_request_that_is_refused_for_its_size_shows_only_that() -> None:
    assert isinstance(read_bytes(b"<html>", 413, "text/html"), TooManyTasks)


def test_a_web_page_shows_that_there_is_no_route() -> None:
    assert isinstance(read_bytes(b"<!doctype html>", 200, "text/html; charset=utf-8"), NoBatchRoute)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 522])
def test_trouble_of_the_server_is_none_of_the_route(status: int) -> None:
    body = b'{"error":{"message":"system cpu overloaded","type":"new_api_error","code":"system_cpu_overloaded"}}'
    found = observe_batch(status, JSON, body, ASKED, 7.0)
    assert isinstance(found, BatchFailed)
    assert (found.code, found.retry_after) == (f"http_{status}", 7.0)
    assert found.message.endswith("system cpu overloaded")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'"x"',
        b"{}",
        b'{"data":{}}',
        b'{"data":{"task_1":{"task_id":"task_1","status":"SUCCESS"}}}',
        orjson.dumps({"code": "success", "data": [row("task_1", "SUCCESS")]})[:-1],
    ],
)
def test_a_broken_or_half_answer_says_nothing_about_any_task(body: bytes) -> None:
    assert isinstance(read_bytes(body), BatchFailed)
    assert isinstance(read_bytes(body, 200, "text/plain"), BatchFailed)


def test_what_json_readers_dispute_is_read_as_in_single_answers() -> None:
    body = b'\xef\xbb\xbf{"data":[{"task_id":"task_1","status":"SUCCESS","x":NaN,"y":"\\ud800"}]}'
    assert statuses(read_bytes(body)) == {"task_1": TaskStatus.COMPLETED}


@pytest.mark.parametrize("piece", [b"1,", b"[],", b'{"task_id":"task_1","status":"SUCCESS"},'])
@pytest.mark.parametrize("last", [b"null", b"NaN"])
def test_an_answer_of_very_many_rows_is_a_failure_and_blocks_nothing_for_long(piece: bytes, last: bytes) -> None:
    body = b'{"data":[' + piece * max((LENIENT_BYTES + 9) // len(piece), MAX_ROWS + 1) + last + b"]}"
    assert isinstance(read_bytes(body), BatchFailed)


@pytest.mark.parametrize(
    "other",
    [
        {"task_id": "task_9", "status": "SUCCESS"},  # the row of a vendor, or of another amux behind this one
        {"data": {"task_id": "task_9", "status": "FAILURE"}},
        {"code": "success", "data": {"task_id": "task_2", "status": "failed"}},
    ],
)
def test_a_record_inside_a_record_is_of_the_outer_task_and_says_nothing(other: dict[str, Any]) -> None:
    assert statuses(read([row("task_1", data=other)])) == {"task_1": TaskStatus.IN_PROGRESS}


@pytest.mark.parametrize(
    "shape",
    [
        {"code": "success", "data": {"id": 7, "task_id": "task_1", "status": "SUCCESS"}},  # a single poll's answer
        {"code": "success", "data": None},
        {"id": "task_1", "object": "video", "status": "completed"},  # form D without a task_id
        {"task_id": ["task_1"], "status": "SUCCESS"},
        {"task_id": {"task_id": "task_1"}, "status": "SUCCESS"},
        {"taskId": "task_1", "status": "SUCCESS"},
        {"task_id": "TASK_1", "status": "SUCCESS"},
        {"task_id": "task_1/../task_2", "status": "SUCCESS"},
        {"error": {"code": "task_not_exist", "message": "task_1"}},
        "task_1",
        [{"task_id": "task_1", "status": "SUCCESS"}],
    ],
)
def test_a_row_of_another_shape_is_no_record_of_any_task(shape: Any) -> None:
    assert statuses(read([shape, row("task_2")])) == {"task_2": TaskStatus.IN_PROGRESS}
    assert isinstance(read([shape]), NoBatchRoute)


@pytest.mark.parametrize("status", [0, 1, True, None, [], {}, {"status": "SUCCESS"}, ["SUCCESS"], ""])
def test_a_status_that_is_no_text_ends_nothing(status: Any) -> None:
    assert statuses(read([row("task_1", status=status, state="SUCCESS"), row("task_2")])) == {
        "task_2": TaskStatus.IN_PROGRESS
    }


@pytest.mark.parametrize(
    ("platform", "read_as"),
    [
        *(("54", "54"), (54, "54"), (" 54 ", "54"), (0, "0"), (None, None), ("", None), (True, None), (-1, None)),
        *((10**9, None), (54.0, None), (["54"], None), ({"id": 54}, None)),
    ],
)
def test_a_platform_is_read_from_a_text_and_from_a_number(platform: Any, read_as: str | None) -> None:
    found = read([row("task_1", platform=platform)])
    assert records_in(found)["task_1"].platform == read_as


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "7", "progress": 30, "submit_time": "1795446200", "finish_time": "x", "quota": "5000"},
        {"progress": "", "submit_time": -1, "finish_time": 1e300, "properties": "{}"},
        {"progress": [30], "submit_time": None, "properties": None, "data": "not json", "fail_reason": None},
        {"progress": 2**62, "submit_time": True, "properties": [{}], "data": [[[[]]]], "result_url": {"url": 1}},
    ],
)
def test_fields_of_other_types_change_no_status(odd: dict[str, Any]) -> None:
    found = statuses(read([row("task_1", **odd), row("task_2", "SUCCESS") | odd, row("task_3", "FAILURE") | odd]))
    assert found == {
        "task_1": TaskStatus.IN_PROGRESS,
        "task_2": TaskStatus.COMPLETED,
        "task_3": TaskStatus.FAILED,
    }


@pytest.mark.parametrize("depth", [900, 1_100, 100_000])
def test_deep_nesting_raises_nothing(depth: int) -> None:
    deep = b'{"data":[{"task_id":"task_1","status":"IN_PROGRESS","data":' + b"[" * depth + b"]" * depth + b"}]}"
    assert isinstance(read_bytes(deep), BatchAnswer | BatchFailed)
    assert isinstance(read_bytes(deep[: 100 + depth]), BatchFailed)


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["task_id", "status", "data", "id", "url", "platform"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(st.integers(200, 599), st.sampled_from([JSON, "text/html", ""]), st.binary(max_size=200))
def test_no_bytes_make_it_raise(status: int, kind: str, body: bytes) -> None:
    read_bytes(body, status, kind)


@given(_JSON_VALUES)
def test_no_json_makes_it_raise_and_only_tasks_that_were_asked_for_are_found(value: Any) -> None:
    found = observe_batch(200, JSON, json.dumps({"code": "success", "data": value}).encode(), ASKED)
    if isinstance(found, BatchAnswer):
        assert records_in(found).keys() <= set(IDS)
