"""Usual rows: what their own way reads is what the general rules read, for rows and for whole answers."""

import json
from typing import Any
from unittest.mock import patch

import orjson
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bridge.amux import batch_wire
from bridge.amux.batch_wire import LENIENT_BYTES, Asked, observe_batch
from bridge.amux.key_removal import KeyRemoval
from bridge.amux.record import has_status, read_record
from bridge.amux.usual_row import running_record
from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchObservation
from bridge.core.model import TaskRecord, TaskStatus
from tests.amux.records import records_in

KEY = "sk-amux-0123456789abcdef"
BASE_URL = "https://amux.example"
IDS = ("task_1", "task_2", "task_3")
ROW = {
    "id": 1,
    "task_id": "task_1",
    "status": "IN_PROGRESS",
    "progress": "30%",
    "platform": "50",
    "submit_time": 1_764_000_000,
}
USUAL = orjson.dumps(ROW)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # only the lenient JSON of the general rules accepts it

NAMES = ["kling", "", " ", None, 7, "z" * 191, "z" * 192, "a\0b", f"x-{KEY}", KEY.upper()]
TEXTS = ["", " ", "50", "x" * 30, "x" * 31, "m\0", f"p-{KEY}"]
STRANGE: list[Any] = [None, True, -1, 0, 50, 10**13, 2**70, 0.5, [], {}]
VALUES: dict[str, list[Any]] = {
    "task_id": [*IDS, " task_2 ", "task_9", *STRANGE],
    "status": ["queued", "NOT_START", "Submitted", "SUCCESS", "FAILURE", "paused", "unknown", "", *STRANGE],
    "progress": ["", " ", "7%", "100%", "101%", " 30% ", "30.5%", "m", *STRANGE],
    "platform": [*TEXTS, *STRANGE],
    "submit_time": ["", 1, 1_764_000_001, 99_999_999_999, 10**11, 1.5, *STRANGE],
    "properties": [{"origin_model_name": name} for name in NAMES] + STRANGE,
    "model": [*NAMES, *STRANGE],
    "created_at": [1, None],
    "fail_reason": ["no", f"no {KEY}"],
}
CHANGE = st.sampled_from([(name, value) for name, values in VALUES.items() for value in values])
CHANGES = st.lists(CHANGE, max_size=3).map(dict)
ROWS: st.SearchStrategy[list[Any]] = st.lists(
    st.one_of(
        st.builds(lambda task_id: ROW | {"task_id": task_id}, st.sampled_from(IDS)),
        st.builds(lambda task_id, changes: ROW | {"task_id": task_id} | changes, st.sampled_from(IDS), CHANGES),
        st.sampled_from([None, 7, [], {}, "task_1"]),
    ),
    max_size=6,
)


def read(body: bytes) -> BatchObservation:
    return observe_batch(200, "application/json", body, Asked(frozenset(IDS), BASE_URL, KeyRemoval(KEY)))


def read_generally(body: bytes) -> BatchObservation:
    """Returns what the general rules read, without the way for usual rows."""
    with patch.object(batch_wire, "running_record", lambda _row: None):
        return read(BYTE_ORDER_MARK + body)


def records_of(observation: BatchObservation) -> Any:
    return records_in(observation) if isinstance(observation, BatchAnswer) else observation


def answer(*rows: bytes) -> bytes:
    return b'{"code":"success","message":"","data":[' + b",".join(rows) + b"]}"


@given(CHANGES, st.sets(st.sampled_from([*ROW])))
def test_a_usual_row_is_read_as_the_general_rules_read_it(changes: dict[str, Any], missing: set[str]) -> None:
    row = {name: value for name, value in (ROW | changes).items() if name not in missing}
    usual = running_record(row)
    event("usual" if usual else "general")
    if has_status(row) and usual is not None:
        task_id = str(row.get("task_id"))
        assert usual == read_record(row, {"code": "success"}, task_id=task_id, base_url=BASE_URL)


@settings(max_examples=500)
@given(ROWS)
def test_an_answer_is_read_as_the_general_rules_read_it(rows: list[Any]) -> None:
    body = answer(*(json.dumps(row).encode() for row in rows))
    usual, general = read(body), read_generally(body)
    assert records_of(usual) == records_of(general)
    assert KEY not in repr(usual).lower()


@pytest.mark.parametrize("name", VALUES)
def test_an_answer_with_one_changed_value_is_read_as_the_general_rules_read_it(name: str) -> None:
    for value in VALUES[name]:
        body = answer(json.dumps(ROW | {name: value}).encode(), USUAL.replace(b"task_1", b"task_3"))
        assert records_of(read(body)) == records_of(read_generally(body)), value


@pytest.mark.parametrize(
    "odd",
    [
        b'{"task_id":"task_2","task_id":"task_3","status":"IN_PROGRESS"}',  # the last of two equal names counts
        b'{"task_id":"task_2","status":"SUCCESS","status":"FAILURE","fail_reason":"no"}',
        b'{"task_id":"task_2","status":"FAILURE","fail_reason":"\\ud800"}',
        b'{"task_id":"task_2","status":"FAILURE","fail_reason":"\xff"}',
        b'{"task_id":"task_2","status":"FAILURE","fail_reason":"a\nb"}',
        b'{"task_id":"task_2","status":"FAILURE","quota":NaN}',
        b'{"task_id":"task_2","status":"FAILURE","quota":' + b"9" * 500 + b"}",
        b'{"task_id":"task_2","status":"FAILURE","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"task_id":"task_2","status":"FAILURE"},',
        b'{"task_id":"task_2","status":"FAILURE"',
        b'{"task_id":"task_1","status":"FAILURE"}',
        USUAL,
        USUAL.replace(b"30%", b"31%"),
        USUAL.replace(b"30%", b" 30% "),
        USUAL.replace(b'"50"', b"50").replace(b"task_1", b"task_2"),
        USUAL.replace(b"IN_PROGRESS", b"IN_PROGRESS\xff").replace(b"task_1", b"task_2"),
    ],
)
def test_an_odd_row_beside_a_usual_one_is_read_by_the_general_rules(odd: bytes) -> None:
    usual, general = read(answer(USUAL, odd)), read_generally(answer(USUAL, odd))
    assert records_of(usual) == records_of(general)


def test_an_odd_row_of_a_long_answer_is_not_read_by_the_slow_json() -> None:
    odd = b'{"task_id":"task_2","status":"FAILURE","fail_reason":"\xff"}'
    assert isinstance(read(answer(USUAL, odd)), BatchAnswer)
    assert isinstance(read(answer(USUAL, odd, b" " * LENIENT_BYTES + b"{}")), BatchFailed)


@pytest.mark.parametrize("word", ["NOT_START", "SUBMITTED", "QUEUED", "IN_PROGRESS", "processing"])
def test_the_rows_of_running_tasks_are_usual(word: str) -> None:
    row = ROW | {"status": word, "properties": {"origin_model_name": "kling-v1"}}
    assert running_record(row) == TaskRecord(
        TaskStatus.IN_PROGRESS if word in {"IN_PROGRESS", "processing"} else TaskStatus.QUEUED,
        30,
        model="kling-v1",
        platform="50",
        submitted_at=1_764_000_000.0,
    )


@pytest.mark.parametrize("change", [{"status": "SUCCESS"}, {"progress": "30.5%"}, {"platform": 50}, {"submit_time": 0}])
def test_any_other_row_is_not_usual(change: dict[str, Any]) -> None:
    assert running_record(ROW | change) is None
