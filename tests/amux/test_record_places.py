"""Where a record holds the video's URL, metadata, format and origin, and which other values are not taken for them."""

import itertools
from typing import Any

import pytest

from bridge.core.model import VideoMetadata
from tests.amux.records import BASE, DONE, TASK, URL, record_of

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
    """Returns `record` with the members of `other` added, also inside its objects."""
    both = {name: merged(record[name], other[name]) for name in other if isinstance(record.get(name), dict)}
    return record | other | both


def with_url(value: Any, url: str) -> Any:
    """Returns the same object or list with another URL."""
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


# --- metadata, format, origin -------------------------------------------------------------------------------------


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
        ({"properties": "x", "model": 7, "platform": 55}, (None, "55", None)),
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
