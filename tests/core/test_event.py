"""The payload: exactly the fields of the contract, always the same bytes, and less than 20 KB."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.body_template import compile_body
from bridge.core.event import (
    DATA_FIELDS,
    cut,
    error_view,
    event_id_in,
    limited_url,
    ping_payload,
    status_event,
    terminal_event,
)
from bridge.core.ids import event_id
from bridge.core.model import (
    TERMINAL_EVENTS,
    Event,
    EventType,
    Outcome,
    Problem,
    TaskSnapshot,
    TaskStatus,
    VideoMetadata,
    Watch,
)
from bridge.core.watch import Ending

AT = datetime(2026, 11, 23, 15, 4, 5, 999_000, UTC).timestamp()
WATCH = Watch("wat_1", "app", "task_1", "https://r/hook", TERMINAL_EVENTS, b'{"order":17}', 0.0, 60.0, 60.0)
DONE = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://v/1.mp4", "mp4", VideoMetadata(5.0, 24, 1280, 720, 20231234))


def payload_of(event: Event) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(event.payload)
    return payload


def test_the_event_of_a_completed_video_is_as_in_the_contract() -> None:
    event = terminal_event(WATCH, Ending(Outcome.COMPLETED, DONE), AT, "https://b/watch/wat_1/content?x")
    assert payload_of(event) == {
        "id": event.id,
        "object": "event",
        "type": "video.completed",
        "created_at": int(AT),
        "timestamp": "2026-11-23T15:04:05Z",
        "data": {
            "id": "task_1",
            "task_id": "task_1",
            "watch_id": "wat_1",
            "status": "completed",
            "url": "https://v/1.mp4",
            "format": "mp4",
            "metadata": {"duration": 5.0, "fps": 24, "width": 1280, "height": 720, "seed": 20231234},
            "content_url": "https://b/watch/wat_1/content?x",
            "error": None,
            "context": {"order": 17},
        },
    }


def test_an_event_names_its_watch_and_its_time() -> None:
    event = terminal_event(WATCH, Ending(Outcome.COMPLETED, DONE), AT, None)
    assert (event.watch_id, event.type, event.created_at) == ("wat_1", EventType.COMPLETED, AT)


def test_the_timestamp_is_in_utc_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert json.loads(ping_payload("evt_p", AT))["timestamp"] == "2026-11-23T15:04:05Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("error", "view"),
    [
        (Problem("c" * 200, "m"), {"code": "c" * 200, "message": "m"}),
        (Problem("c" * 201, "m" * 2_001), {"code": "c" * 200, "message": cut("m" * 2_001)}),
        (Problem(10**30, None), {"code": 10**30, "message": None}),
        (Problem(None, ""), {"code": None, "message": ""}),
    ],
)
def test_an_error_is_shown_with_limited_lengths(error: Problem, view: dict[str, Any]) -> None:
    assert error_view(error) == view


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.UNAVAILABLE])
def test_only_a_completed_video_has_a_content_url(outcome: Outcome) -> None:
    event = terminal_event(WATCH, Ending(outcome, TaskSnapshot(), Problem("c", "m")), AT, "https://b/content")
    assert event.type == f"video.{outcome}"
    assert event.terminal
    assert payload_of(event)["data"]["content_url"] is None
    assert payload_of(event)["data"]["error"] == {"code": "c", "message": "m"}


def test_a_status_event_has_no_error_and_no_link() -> None:
    event = status_event(WATCH, EventType.QUEUED, TaskSnapshot(TaskStatus.QUEUED), AT)
    assert not event.terminal
    data = payload_of(event)["data"]
    assert (data["status"], data["error"], data["content_url"], data["url"]) == ("queued", None, None, None)


def test_an_event_id_depends_on_watch_and_type_only() -> None:
    one = terminal_event(WATCH, Ending(Outcome.COMPLETED, DONE), AT, None)
    again = terminal_event(WATCH, Ending(Outcome.COMPLETED, TaskSnapshot()), AT + 9, "https://b")
    assert one.id == again.id == event_id("wat_1", EventType.COMPLETED)
    assert event_id_in(one.payload) == one.id


def test_a_ping_has_the_fields_of_every_event_all_null() -> None:
    ping = json.loads(ping_payload("evt_p", AT))
    event = json.loads(terminal_event(WATCH, Ending(Outcome.COMPLETED, DONE), AT, None).payload)
    assert list(event["data"]) == list(ping["data"])
    assert (ping["type"], ping["id"], ping["data"]) == ("bridge.ping", "evt_p", dict.fromkeys(DATA_FIELDS))


def test_a_long_message_is_cut_and_ends_with_a_note() -> None:
    assert cut("x" * 2_000) == "x" * 2_000
    shorter = cut("x" * 2_001)
    assert len(shorter) == 2_000
    assert shorter.endswith("[cut at 2,000 characters]")


def test_a_watch_with_a_body_of_its_own_has_it_filled_with_the_events_that_it_asked_for() -> None:
    body = compile_body({"text": "{{data.task_id}}: {{type}}", "event": "{{id}}"})
    watch = replace(WATCH, events=frozenset({EventType.COMPLETED, EventType.QUEUED}), body=body)
    done = terminal_event(watch, Ending(Outcome.COMPLETED, DONE), AT, None)
    assert done.body is not None
    assert json.loads(done.body) == {"text": "task_1: video.completed", "event": done.id}
    assert payload_of(done)["type"] == "video.completed", "the event itself stays as it is"
    queued = status_event(watch, EventType.QUEUED, TaskSnapshot(TaskStatus.QUEUED), AT)
    assert queued.body is not None
    assert json.loads(queued.body)["text"] == "task_1: video.queued"
    unasked = terminal_event(watch, Ending(Outcome.TIMED_OUT, DONE), AT, None)
    assert unasked.body is None, "it is never sent"
    assert terminal_event(WATCH, Ending(Outcome.COMPLETED, DONE), AT, None).body is None


def test_control_characters_become_spaces() -> None:
    assert cut("a\x00b\x1b[31mc\nd\x7f") == "a b [31mc\nd "


def test_a_url_that_is_too_long_becomes_none() -> None:
    assert limited_url("h" * 4_096) == "h" * 4_096
    assert limited_url("h" * 4_097) is None
    assert limited_url("é" * 2_048) == "é" * 2_048
    assert limited_url("é" * 2_049) is None, "the limit is in bytes"
    assert limited_url(None) is None


@given(
    st.text(max_size=4_000),
    st.text(max_size=4_000) | st.integers(-(2**63), 2**63 - 1) | st.none(),
    st.text(max_size=5_000),
    st.text(max_size=64),
)
def test_a_body_stays_under_20_kb(message: str, code: str | int | None, url: str, kind: str) -> None:
    context = b'{"k":"' + b"x" * (4_096 - 8) + b'"}'
    watch = Watch("wat_1" + "x" * 26, "app", "t" * 191, "https://r", TERMINAL_EVENTS, context, 0.0, 60.0, 60.0)
    task = TaskSnapshot(TaskStatus.COMPLETED, 100, url.replace("\ud800", ""), kind, VideoMetadata(1e300, 1e300))
    ending = Ending(Outcome.COMPLETED, task, Problem(code, message))
    assert len(terminal_event(watch, ending, AT, "https://b/" + "x" * 2_200).payload) < 20_000
