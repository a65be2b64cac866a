"""Every form of amux's records and every error answer, and the observation that each one gives."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amux.wire import created_task, observe
from bridge.core.model import (
    KeyRefused,
    Observation,
    PollRejected,
    Problem,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    TaskStatus,
    Throttled,
    TransientError,
    VideoMetadata,
)
from bridge.sandbox import PRIVATE_MARK, PRIVATE_NUMBERS, Behaviour, Outcome
from bridge.sandbox.forms import Task, render, view_at

TASK = "task_0123456789abcdef0123456789abcdef"
BASE = "https://api.amux.example"
JSON = "application/json; charset=utf-8"
VIDEO = f"{BASE}/files/{TASK}.mp4"
REASON = "Upstream model rejected the prompt due to content policy."
PAGE = b"<!doctype html><html><body>Amux</body></html>"


def poll(body: Any, status: int = 200, content_type: str = JSON, retry_after: float | None = None) -> Observation:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return observe(status, content_type, raw, task_id=TASK, base_url=BASE, retry_after=retry_after)


def record_of(body: Any) -> TaskRecord:
    observation = poll(body)
    assert isinstance(observation, TaskRecord), observation
    return observation


def transient_error(body: Any, status: int = 200, content_type: str = JSON) -> tuple[str, bool]:
    observation = poll(body, status, content_type)
    assert isinstance(observation, TransientError), observation
    assert observation.message.startswith("amux ")
    return observation.code, observation.misrouted


# --- the forms ----------------------------------------------------------------------------------------------------


def answer_in(form: str, age: float, **chosen: Any) -> Any:
    """Returns the answer in a form for a task of an age. The task is queued for 10 s, then runs for 10 s."""
    behaviour = Behaviour(queue_seconds=10, run_seconds=10, **chosen)
    task = Task(TASK, 770_000_001, "model", "a cat", behaviour, 0.0, 1_795_446_200.0)
    return render(form, view_at(task, age, BASE))


ORIGIN: dict[str, dict[str, Any]] = {
    "A": {},
    "B": {"live": True},
    "C": {"model": "model", "submitted_at": 1_795_446_200.0},
    "D": {"model": "model", "submitted_at": 1_795_446_200.0},
    "E": {"model": f"{PRIVATE_MARK}-vendor-model", "submitted_at": 1_795_446_200.0},
}
"""What each form says about its task besides the status."""


@pytest.mark.parametrize("form", "ABCDE")
@pytest.mark.parametrize("age", [0, 4, 8])
def test_a_queued_task(form: str, age: float) -> None:
    progress = 0 if form in "CD" else None
    assert record_of(answer_in(form, age)) == TaskRecord(TaskStatus.QUEUED, progress, **ORIGIN[form])


@pytest.mark.parametrize("form", "ABCDE")
def test_a_running_task(form: str) -> None:
    progress = 50 if form in "CD" else None
    assert record_of(answer_in(form, 15)) == TaskRecord(TaskStatus.IN_PROGRESS, progress, **ORIGIN[form])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("A", TaskRecord(TaskStatus.COMPLETED, None, VIDEO, "mp4", VideoMetadata(5.0, 24, 1280, 720, 20231234))),
        ("B", TaskRecord(TaskStatus.COMPLETED, None, VIDEO, "mp4")),
        ("C", TaskRecord(TaskStatus.COMPLETED, 100, VIDEO, "mp4", finished_at=1_795_446_220.0)),
        (
            "D",
            TaskRecord(
                TaskStatus.COMPLETED, 100, VIDEO, "mp4", VideoMetadata(5, None, 1280, 720), finished_at=1_795_446_220.0
            ),
        ),
        ("E", TaskRecord(TaskStatus.COMPLETED, None, VIDEO, "mp4")),
    ],
)
def test_a_completed_task(form: str, expected: TaskRecord) -> None:
    assert record_of(answer_in(form, 30)) == expected._replace(**ORIGIN[form])


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.EXPIRED])
@pytest.mark.parametrize("error_in_url", [False, True])
@pytest.mark.parametrize(
    ("form", "code", "finished_at"),
    [
        ("A", 50001, None),
        ("B", None, None),
        ("C", "50001", 1_795_446_220.0),  # from the body of the vendor
        ("D", "50001", 1_795_446_220.0),
        ("E", "50001", None),
    ],
)
def test_a_failed_task(
    form: str, code: str | int | None, finished_at: float | None, outcome: Outcome, *, error_in_url: bool
) -> None:
    observation = record_of(answer_in(form, 30, outcome=outcome, error_in_url=error_in_url))
    assert observation.status is TaskStatus.FAILED
    assert observation.error == Problem(code, REASON)
    assert (observation.url, observation.finished_at) == (None, finished_at)


def test_form_f_holds_no_record() -> None:
    assert transient_error(answer_in("F", 30)) == ("no_record", False)


@pytest.mark.parametrize("form", "ABCDE")
@pytest.mark.parametrize("age", [5, 15, 30])
def test_an_error_is_ignored_unless_the_status_is_a_failure(form: str, age: float) -> None:
    assert record_of(answer_in(form, age, error_always=True)).error is None


@pytest.mark.parametrize("form", "CD")
def test_times_in_milliseconds_are_recognised(form: str) -> None:
    assert record_of(answer_in(form, 30, milliseconds=True)).finished_at == 1_795_446_220.0


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("form", "ABCDE")
@pytest.mark.parametrize("age", [5, 15, 30])
def test_nothing_private_is_read_from_a_record(outcome: Outcome, form: str, age: float) -> None:
    record = record_of(answer_in(form, age, outcome=outcome, error_always=True))
    # Form E is a vendor's own body, so it has only the vendor's name of the model.
    shown = repr(record._replace(model=None) if form == "E" else record)
    assert PRIVATE_MARK not in shown
    assert not any(str(number) in shown for number in (*PRIVATE_NUMBERS, 770_000_001))


# --- errors -------------------------------------------------------------------------------------------------------


def flat(code: Any, message: Any = "why") -> dict[str, Any]:
    return {"code": code, "message": message, "data": None}


def nested(message: Any = "why", kind: Any = "invalid_request_error", **code: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, **code}}


NO_SUCH_TASK = "amux knows no such task"
HIDDEN = "amux does not let this key see the task"
REFUSED = "amux refused the key"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, flat("task_not_exist", "task_not_exist"), TaskNotFound(NO_SUCH_TASK)),
        (404, flat("task_not_exist", "task_not_exist"), TaskNotFound(NO_SUCH_TASK)),
        (404, nested("Gone for good", code="task_not_found"), TaskNotFound(f"{NO_SUCH_TASK}: Gone for good")),
        (400, nested(code="TASK_NOT_FOUND"), TaskNotFound(f"{NO_SUCH_TASK}: why")),
        (400, {"code": "task_not_exist"}, TaskNotFound(NO_SUCH_TASK)),
        (401, nested(kind="new_api_error", code=""), KeyRefused(f"{REFUSED}: why")),
        (401, flat("unauthorized"), KeyRefused(f"{REFUSED}: why")),
        (401, flat("task_not_exist", "task_not_exist"), KeyRefused(REFUSED)),
        (401, b"", KeyRefused(REFUSED)),
        (401, PAGE, KeyRefused(REFUSED)),
        (403, nested("Banned", "new_api_error", code=""), KeyRefused(f"{REFUSED}: Banned")),
        (403, nested("Banned", "new_api_error"), KeyRefused(f"{REFUSED}: Banned")),
        (400, nested("Invalid channel ID", "new_api_error", code=""), KeyRefused(f"{REFUSED}: Invalid channel ID")),
        (403, nested("Channel disabled", "new_api_error", code=""), KeyRefused(f"{REFUSED}: Channel disabled")),
        (404, nested("Gone", "new_api_error", code="task_not_found"), KeyRefused(f"{REFUSED}: Gone")),
        (422, nested(f"{TASK}", "NEW_API_ERROR", code="x"), KeyRefused(f"{REFUSED}: {TASK}")),
        (429, nested("Slow", "new_api_error", code=""), Throttled("amux asks for fewer requests: Slow")),
        (408, nested("Late", "new_api_error", code=""), TransientError("http_408", "amux answered 408: Late")),
        (
            500,
            nested("Database error", "new_api_error"),
            TransientError("http_500", "amux answered 500: Database error"),
        ),
        (400, nested("Bad", "new_api_panic", code=""), PollRejected("http_400", "amux answered 400: Bad")),
        (400, flat("new_api_error"), PollRejected("new_api_error", "amux answered 400: why")),
        (403, flat("access_denied", "Address not allowed"), KeyRefused(f"{REFUSED}: Address not allowed")),
        (403, nested(code="task_not_found"), TaskForbidden(f"{HIDDEN}: why")),
        (403, flat("task_not_exist", "task_not_exist"), TaskForbidden(HIDDEN)),
        (403, flat("not_your_task"), TaskForbidden(f"{HIDDEN}: why")),
        (403, nested(f"{TASK} is not yours", code=""), TaskForbidden(f"{HIDDEN}: {TASK} is not yours")),
        (403, nested(f"{TASK}: banned", code="user_banned"), KeyRefused(f"{REFUSED}: {TASK}: banned")),
        (429, nested(code="rate_limit_exceeded"), Throttled("amux asks for fewer requests: why")),
        (429, b"", Throttled("amux asks for fewer requests")),
        (429, PAGE, Throttled("amux asks for fewer requests")),
        (400, flat("invalid_request"), PollRejected("invalid_request", "amux answered 400: why")),
        (400, nested(code=50001), PollRejected("50001", "amux answered 400: why")),
        (402, nested(code=""), PollRejected("http_402", "amux answered 402: why")),
        (410, flat("task_not_exist"), PollRejected("task_not_exist", "amux answered 410: why")),
        (422, nested(), PollRejected("http_422", "amux answered 422: why")),
    ],
)
def test_status_and_code_of_an_error_give_the_observation(status: int, body: Any, expected: Observation) -> None:
    assert poll(body, status) == expected


def test_only_a_429_keeps_its_retry_after() -> None:
    assert poll(b"", 429, "", 17.5) == Throttled("amux asks for fewer requests", 17.5)
    assert poll(b"", 503, "", 17.5) == TransientError("http_503", "amux answered 503")


@pytest.mark.parametrize("status", [404, 400, 403, 405, 407, 410, 413, 451, 499])
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (PAGE, "text/html"),
        (b"", ""),
        (b"", JSON),
        (b"404 page not found", "text/plain"),
        (b'{"code":"task_not_exist"', JSON),
        (flat("task_not_exist"), "text/plain"),
        ({"detail": "Not Found"}, JSON),
        ({"message": "no Route matched with those values"}, JSON),
        ({"error": "Not Found", "status": 404, "path": "/v1"}, JSON),
        ({"error": {"message": "blocked"}}, JSON),
        ({"error": {"code": "blocked"}}, JSON),
        ({"code": 404, "message": "not found"}, JSON),
        ({"code": "not_found"}, JSON),
        ([1], JSON),
    ],
)
def test_a_4xx_without_an_error_of_amux_ends_no_watch(status: int, body: Any, content_type: str) -> None:
    assert transient_error(body, status, content_type) == (f"http_{status}", True)


@pytest.mark.parametrize("body", [nested("Invalid URL", code=""), nested("Invalid URL"), flat("not_found")])
def test_a_404_that_is_not_about_a_task_is_a_wrong_base_url(body: Any) -> None:
    assert transient_error(body, 404) == ("http_404", True)


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_wrong_base_url(status: int) -> None:
    assert transient_error(b"", status, "text/html") == (f"http_{status}", True)


@pytest.mark.parametrize(
    "status", [408, 425, 500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 599, 101, 999]
)
@pytest.mark.parametrize("body", [b"", PAGE, flat("task_not_exist"), nested(code="task_not_found")])
def test_a_server_error_says_nothing_about_the_task(status: int, body: Any) -> None:
    assert transient_error(body, status) == (f"http_{status}", False)


def test_a_transient_error_keeps_amuxs_reason() -> None:
    assert poll(flat("get_task_failed", "database is locked"), 500) == TransientError(
        "http_500", "amux answered 500: database is locked"
    )
    assert poll(nested("Panic detected", "new_api_panic"), 500) == TransientError(
        "http_500", "amux answered 500: Panic detected"
    )
    assert poll(flat("fail_to_fetch", "no channel")) == TransientError(
        "no_record", "amux answered without a record of the task: no channel"
    )


@pytest.mark.parametrize("status", [200, 201, 204, 206])
@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (PAGE, "text/html; charset=utf-8", ("html", True)),
        (PAGE, "application/xhtml+xml", ("html", True)),
        (PAGE, JSON, ("bad_json", False)),
        (b"", JSON, ("empty_body", False)),
        (b"", "text/html", ("empty_body", False)),
        (b" \n", JSON, ("bad_json", False)),
        (b'{"task_id":"x","status":"completed"}', "text/plain", ("wrong_content_type", False)),
        (b'{"task_id":"x","status":"completed"}', "", ("wrong_content_type", False)),
        (b'{"task_id":"x","status":"completed"}', "application/jsonp", ("wrong_content_type", False)),
        (b'{"status":"completed"', JSON, ("bad_json", False)),
        (b'{"status":"completed"} x', JSON, ("bad_json", False)),
        (b"\xff\xfe\x00", JSON, ("bad_json", False)),
        (b"[" * 100_000, JSON, ("bad_json", False)),
        (b'{"vendor":' + b"[" * 5000 + b"]" * 5000 + b',"status":"completed"}', JSON, ("bad_json", False)),
        (b'{"code":"success","data":null}', JSON, ("no_record", False)),
        (b'{"code":"success","data":{}}', JSON, ("no_record", False)),
        (b'{"data":[{"status":"completed"}]}', JSON, ("no_record", False)),
        (b'{"status":1}', JSON, ("no_record", False)),
        (b'{"status":""}', JSON, ("no_record", False)),
        (b"[]", JSON, ("no_record", False)),
        (b'"completed"', JSON, ("no_record", False)),
        (b"null", JSON, ("no_record", False)),
        (b'{"error":{"message":"no","code":"task_not_found"}}', JSON, ("no_record", False)),
        (flat("task_not_exist"), JSON, ("no_record", False)),
    ],
)
def test_a_2xx_without_a_record_is_a_transient_error(
    status: int, body: Any, content_type: str, expected: tuple[str, bool]
) -> None:
    assert transient_error(body, status, content_type) == expected


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON ;charset=x", "application/hal+json"])
def test_every_json_content_type_is_read(content_type: str) -> None:
    assert isinstance(poll({"status": "queued"}, 200, content_type), TaskRecord)


# --- create calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "task"),
    [
        (b'{"task_id": "a", "id": "b"}', "a"),
        (b'{"task_id": null, "id": "b"}', "b"),
        (b'{"task_id": 7, "id": "b"}', "b"),
        (b'{"id": 7, "data": {"task_id": "a"}}', "a"),
        (b'{"data": [{"task_id": "a"}]}', None),
        (b'["a"]', None),
        (b"", None),
        (b"<html>", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_task_id_of_a_create_call_is_in_task_id_or_id(body: bytes, task: str | None) -> None:
    assert created_task(body) == task


# --- any bytes ----------------------------------------------------------------------------------------------------

WORDS = ["completed", "SUCCESS", "failed", "queued", "unknown", "", "nonsense\ud800\0"]
NAMES = (
    *("task_id", "id", "status", "url", "result_url", "metadata", "content", "video_url", "output", "data", "error"),
    *("code", "message", "fail_reason", "progress", "finish_time", "completed_at", "format", "duration", "fps", "type"),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*WORDS, VIDEO, "http://[", "https://v.example/a b", "30%", TASK, "task_not_found"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
)
BODIES = st.binary() | VALUES.map(lambda value: json.dumps(value).encode())
STATUSES = st.sampled_from([200, 204, 301, 400, 401, 403, 404, 422, 429, 500]) | st.integers(100, 999)


@given(STATUSES, st.sampled_from([JSON, "text/html", ""]) | st.text(), BODIES)
def test_no_answer_raises_and_only_a_success_has_a_url(status: int, content_type: str, body: bytes) -> None:
    observation = poll(body, status, content_type)
    if isinstance(observation, TaskRecord):
        assert 200 <= status < 300
        assert observation.url is None or observation.status is TaskStatus.COMPLETED
        assert (observation.error is None) is (observation.status is not TaskStatus.FAILED)
        assert (observation.raw_status is None) is (observation.status is not TaskStatus.UNKNOWN)
    for text in repr(observation), orjson.dumps(observation).decode():
        assert "\\u0000" not in text
        text.encode()


@given(st.dictionaries(st.sampled_from(NAMES), LEAVES, max_size=8), st.sampled_from(WORDS))
def test_every_record_is_read(record: dict[str, Any], word: str) -> None:
    body = json.dumps({"code": "success", "data": record | {"task_id": TASK, "status": word or "x"}}).encode()
    assert isinstance(poll(body), TaskRecord)


def test_very_long_texts_are_cut() -> None:
    long = "x" * 900_000
    failed = record_of({"status": "failed", "error": {"code": long, "message": long}})
    assert failed.error == Problem("x" * 128, "x" * 4000)
    unknown = record_of({"status": long, "progress": long})
    assert unknown == TaskRecord(TaskStatus.UNKNOWN, raw_status="x" * 64)
    done = record_of({"status": "completed", "format": long, "url": f"https://v.example/{long}"})
    assert done == TaskRecord(TaskStatus.COMPLETED)
    rejected = poll(flat(long, long), 400)
    assert isinstance(rejected, PollRejected)
    assert (rejected.code, len(rejected.message)) == ("x" * 128, 4000 + len("amux answered 400: "))
