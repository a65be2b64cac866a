"""The unusual forms of amux's records: which part is the record, what its fields may hold, and broken JSON."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from bridge.amux.lenient_json import clean, read_json
from bridge.amux.wire import observe
from bridge.core.model import Observation, Problem, TaskRecord, TaskStatus, TransientError, VideoMetadata

TASK = "task_1:a"
BASE = "https://api.amux.example/proxy"
DONE = {"task_id": TASK, "status": "completed"}
URL = "https://v.example/a.mp4?sig=1#t"


def read(body: Any) -> Observation:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return observe(200, "application/json", raw, task_id=TASK, base_url=BASE)


def record_of(body: Any) -> TaskRecord:
    observation = read(body)
    assert isinstance(observation, TaskRecord), observation
    return observation


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
    assert replace(record_of(body), live=False) == TaskRecord(TaskStatus.IN_PROGRESS)


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


# --- the video's URL ----------------------------------------------------------------------------------------------

PLACES: list[dict[str, Any]] = [
    {"url": URL},
    {"result_url": URL},
    {"metadata": {"url": URL}},
    {"video_url": URL},
    {"content": {"video_url": URL}},
    {"content": {"result_url": URL}},
    {"urls": [URL]},
    {"unsigned_urls": [URL]},
    {"data": {"video_url": URL}},
    {"task_result": {"videos": [{"url": URL}]}},
    {"data": {"task_result": {"videos": [{"url": URL}]}}},
    {"creations": [{"url": URL}]},
    {"data": {"content": {"video_url": URL}}},
    {"data": {"output": {"url": URL}}},
    {"data": {"output": {"video_url": URL}}},
    {"data": {"data": {"video_url": URL}}},
    {"data": {"data": {"task_result": {"videos": [{"url": URL}]}}}},
    {"data": {"creations": [{"url": URL}]}},
]


@pytest.mark.parametrize("place", PLACES)
def test_the_url_is_found_in_each_of_its_places(place: dict[str, Any]) -> None:
    assert record_of(DONE | place).url == URL
    assert record_of({"data": DONE | place}).url == URL


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("word", ["failed", "running", "queued", "unknown", "odd"])
def test_there_is_no_url_without_success(place: dict[str, Any], word: str) -> None:
    assert record_of({"data": DONE | place | {"status": word}}).url is None


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(PLACES)))
def test_the_first_place_of_the_url_counts(first: dict[str, Any], second: dict[str, Any]) -> None:
    record = merged(DONE | with_url(second, "https://v.example/second"), with_url(first, URL))
    assert record_of(record).url == URL


def merged(record: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The record with the members of the other one, also inside its objects."""
    both = {name: merged(record[name], other[name]) for name in other if isinstance(record.get(name), dict)}
    return record | other | both


def with_url(value: Any, url: str) -> Any:
    """The same place with another URL."""
    match value:
        case dict():
            return {name: with_url(inner, url) for name, inner in value.items()}
        case list():
            return [with_url(inner, url) for inner in value]
    return url


@pytest.mark.parametrize(
    "place",
    [
        {"data": {"url": URL}},
        {"data": {"cover_url": URL}},
        {"data": {"creations": [{"cover_url": URL}]}},
        {"video_url": {"url": URL}},
        {"unsigned_urls": URL},
        {"unsigned_urls": []},
        {"creations": [[URL]]},
        {"creations": {"0": {"url": URL}}},
    ],
)
def test_a_url_in_another_place_is_not_the_videos(place: dict[str, Any]) -> None:
    assert record_of(DONE | place).url is None


@pytest.mark.parametrize(
    "useless",
    [
        "",
        " ",
        None,
        17,
        ["https://v.example"],
        "rejected: see https://v.example",
        "https://v.example/a b",
        "ftp://v.example/a",
        "data:video/mp4;base64,AAAA",
        "//v.example/a",
        "https://",
        "https:///a",
        "https://[::1",
        "https://v.example:99999/a",
        "https://v.example/\u2028a",
    ],
)
def test_a_value_that_is_no_http_url_is_ignored(useless: Any) -> None:
    assert record_of(DONE | {"url": useless}).url is None
    assert record_of(DONE | {"url": useless, "result_url": URL}).url == URL


@pytest.mark.parametrize("url", ["HTTP://v.example/a", "http://[2001:db8::1]:8/a", "https://v.example", URL])
def test_every_http_url_is_accepted(url: str) -> None:
    assert record_of(DONE | {"url": f" {url}\n"}).url == url


@pytest.mark.parametrize(
    "own",
    [
        f"{BASE}/v1/videos/{TASK}/content",
        f"https://amux.public.example/v1/videos/{TASK}/content",
        "http://127.0.0.1:3000/v1/videos/task_1%3Aa/content?x=1",
        "https://API.amux.example:443/v1/videos/task_other/content",
        f"{BASE}/v1/videos/{TASK}/content/",
    ],
)
def test_a_url_that_needs_the_key_becomes_none(own: str) -> None:
    assert record_of(DONE | {"url": own, "result_url": URL}).url is None


@pytest.mark.parametrize(
    "other", ["https://vendor.example/v1/videos/video_7/content", "https://api.amux.example/files/content"]
)
def test_a_url_that_only_looks_like_the_content_route_is_kept(other: str) -> None:
    assert record_of(DONE | {"url": other}).url == other


# --- errors, progress, metadata, times ----------------------------------------------------------------------------


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
    ("value", "expected"),
    [
        ({"duration": 5, "seed": 2**64 - 1}, VideoMetadata(duration=5, seed=2**64 - 1)),
        ({"fps": 23.97, "width": "1280", "height": None}, VideoMetadata(fps=23.97)),
        ({"fps": True, "width": 10**400, "seed": -(10**400)}, None),
        ({"url": "x", "prompt": "secret"}, None),
        ({}, None),
        (None, None),
        ("mp4", None),
        ([5], None),
    ],
)
def test_metadata_is_five_numbers(value: Any, expected: VideoMetadata | None) -> None:
    assert record_of(DONE | {"metadata": value}).metadata == expected


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"seconds": "4", "size": "720x1280"}, VideoMetadata(duration=4, width=720, height=1280)),
        ({"seconds": 4.5, "size": " 1280 * 720 "}, VideoMetadata(duration=4.5, width=1280, height=720)),
        ({"size": "1280\u00d7720"}, VideoMetadata(width=1280, height=720)),
        ({"size": "720p", "seconds": "4 s"}, None),
        ({"size": "0x0", "seconds": "0", "framespersecond": -1}, None),
        ({"size": "9" * 5000 + "x1", "seconds": "9" * 5000}, None),
        ({"seconds": "1e3"}, None),
        ({"seconds": "\u0664"}, None),
        ({"seconds": True, "size": ["720x1280"]}, None),
        ({"metadata": {"duration": 3}, "seconds": "4"}, VideoMetadata(duration=3)),
        ({"metadata": {"width": 10}, "size": "720x1280"}, VideoMetadata(width=10)),
        ({"data": {"seconds": "4", "seed": 0}}, VideoMetadata(duration=4, seed=0)),
        ({"data": {"data": {"task_result": {"videos": [{"duration": "5.1"}]}}}}, VideoMetadata(duration=5.1)),
        ({"data": {"video_width": 1, "video_height": 2}}, VideoMetadata(width=1, height=2)),
        ({"data": {"prompt": "7", "quota": 7}}, None),
    ],
)
def test_metadata_may_be_in_the_vendors_body_or_in_amuxs_openai_form(
    record: Any, expected: VideoMetadata | None
) -> None:
    assert record_of(DONE | record).metadata == expected
    assert record_of(DONE | record | {"status": "failed"}).metadata is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a.mp4?x=.webm", "mp4"),
        ("/a.MOV#t=1", "mov"),
        ("/a.tar.webm", "webm"),
        ("/a.php", None),
        ("/mp4", None),
        ("/a.mp4/", None),
        ("", None),
    ],
)
def test_the_format_may_be_the_suffix_of_the_url(path: str, expected: str | None) -> None:
    assert record_of(DONE | {"url": f"https://v.mp4{path}"}).format == expected
    assert record_of(DONE | {"url": f"https://v.mp4{path}", "format": "mkv"}).format == "mkv"


@pytest.mark.parametrize(
    ("record", "origin"),
    [
        ({"properties": {"origin_model_name": "a", "upstream_model_name": "b"}, "model": "c"}, ("a", None, None)),
        ({"properties": {"origin_model_name": " "}, "model": "c", "platform": "55"}, ("c", "55", None)),
        ({"properties": "x", "model": 7, "platform": 55}, (None, None, None)),
        ({"model": "m" * 500, "platform": "p" * 500}, ("m" * 191, "p" * 30, None)),
        ({"data": {"model": "vendor's", "created_at": 7}}, (None, None, None)),
        ({"submit_time": 1_795_446_245, "created_at": 7}, (None, None, 1_795_446_245.0)),
        ({"submit_time": 0, "created_at": 1_795_446_245_678}, (None, None, 1_795_446_245.678)),
        ({"created_at": "2026-11-28T00:00:00Z"}, (None, None, None)),
    ],
)
@pytest.mark.parametrize("word", ["running", "completed", "failed"])
def test_model_platform_and_submission_are_read_from_every_record(record: Any, origin: Any, word: str) -> None:
    seen = record_of(DONE | record | {"status": word})
    assert (seen.model, seen.platform, seen.submitted_at) == origin


@pytest.mark.parametrize(
    ("body", "live"),
    [
        ({"code": "success", "message": "", "data": DONE | {"url": ""}}, True),
        ({"code": "success", "data": DONE | {"format": "mp4", "metadata": None, "error": None, "usage": {}}}, True),
        ({"code": "success", "data": DONE | {"fail_reason": ""}}, False),
        ({"code": "success", "data": DONE | {"id": 7}}, False),
        ({"code": 0, "data": DONE}, False),
        ({"data": DONE}, False),
        (DONE, False),
        (DONE | {"code": "success"}, False),
    ],
)
@pytest.mark.parametrize("word", ["running", "completed", "failed"])
def test_amuxs_envelope_without_a_field_of_its_row_is_a_live_answer(body: Any, word: str, *, live: bool) -> None:
    data = body.get("data")
    body = body | {"data": data | {"status": word}} if data else body | {"status": word}
    assert record_of(body).live is live


@pytest.mark.parametrize(
    ("value", "expected"), [("mp4", "mp4"), (" MP4\0 ", "MP4"), ("", None), (4, None), ("<b>", None), ("m" * 33, None)]
)
def test_format_is_a_short_name(value: Any, expected: str | None) -> None:
    assert record_of(DONE | {"format": value}).format == expected


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
