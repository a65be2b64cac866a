"""The stand-in's forms and behaviours: the content of each form, and what a create request may choose."""

import json
from typing import Any

import pytest

from bridge.sandbox import PRIVATE_MARK, PRIVATE_NUMBERS, Behaviour, BehaviourError, Fault, FaultKind, Outcome
from bridge.sandbox.behaviour import implied_by, parse
from bridge.sandbox.forms import Task, TaskPhase, render, view_at

BASE = "http://amux.test"


def task_of(behaviour: Behaviour) -> Task:
    return Task("task_1", 7, "kling", "a cat", behaviour, 0.0, 1_795_446_245.0)


def at(age: float, form: str, behaviour: Behaviour) -> Any:
    return render(form, view_at(task_of(behaviour), age, BASE))


# --- forms --------------------------------------------------------------------------------------------------------

WORDS = {
    "A": ("queued", "in_progress", "completed", "failed"),
    "B": ("queued", "processing", "succeeded", "failed"),
    "C": ("NOT_START", "IN_PROGRESS", "SUCCESS", "FAILURE"),
    "D": ("queued", "in_progress", "completed", "failed"),
    "E": ("queued", "running", "succeeded", "failed"),
}


@pytest.mark.parametrize("form", WORDS)
def test_each_form_has_its_own_words(form: str) -> None:
    good, bad = Behaviour(), Behaviour(outcome=Outcome.FAILED)
    seen = [at(age, form, behaviour) for age, behaviour in ((0, good), (1, good), (3, good), (3, bad))]
    assert tuple(body.get("data", body)["status"] for body in seen) == WORDS[form]


def test_form_a_is_that_of_amuxs_documentation() -> None:
    assert at(0, "A", Behaviour()) == {"task_id": "task_1", "status": "queued"}
    assert at(3, "A", Behaviour(url="https://cdn.test/v.mp4")) == {
        "task_id": "task_1",
        "status": "completed",
        "url": "https://cdn.test/v.mp4",
        "format": "mp4",
        "metadata": {"duration": 5.0, "fps": 24, "width": 1280, "height": 720, "seed": 20231234},
    }
    failed = at(3, "A", Behaviour(outcome=Outcome.FAILED, error_code=7, error_message="no"))
    assert failed == {"task_id": "task_1", "status": "failed", "error": {"code": 7, "message": "no"}}


def test_form_b_has_a_failures_reason_beside_the_data() -> None:
    body = at(3, "B", Behaviour(outcome=Outcome.FAILED, error_message="no"))
    assert body == {
        "code": "success",
        "message": "no",
        "data": {"task_id": "task_1", "status": "failed", "url": "", "format": "", "metadata": None, "error": None},
    }
    assert at(3, "B", Behaviour())["data"]["usage"]


def test_form_c_is_the_database_row_with_its_private_fields() -> None:
    data = at(2, "C", Behaviour())["data"]
    assert set(data) == {
        *("id", "task_id", "status", "fail_reason", "result_url", "progress", "user_id", "channel_id", "quota"),
        *("submit_time", "start_time", "finish_time", "created_at", "updated_at", "properties", "data"),
    }
    assert (data["id"], data["progress"], data["result_url"], data["finish_time"]) == (7, "50%", "", 0)
    assert (data["submit_time"], data["start_time"]) == (1_795_446_245, 1_795_446_246)
    assert (data["user_id"], data["channel_id"], data["quota"]) == PRIVATE_NUMBERS
    assert data["properties"]["input"] == f"{PRIVATE_MARK} a cat"
    assert PRIVATE_MARK in json.dumps(data["data"])
    assert data["data"]["status"] == "running"


def test_form_c_has_three_words_for_queued() -> None:
    waiting = Behaviour(queue_seconds=3)
    assert [at(age, "C", waiting)["data"]["status"] for age in range(3)] == ["NOT_START", "SUBMITTED", "QUEUED"]


def test_form_c_can_hold_times_in_milliseconds() -> None:
    data = at(3, "C", Behaviour(milliseconds=True))["data"]
    assert data["finish_time"] == 1_795_446_248_000
    assert data["created_at"] == 1_795_446_245


def test_form_d_is_openais_video_object() -> None:
    body = at(3, "D", Behaviour(url="content"))
    assert body.pop("usage")
    assert body == {
        "id": "task_1",
        "task_id": "task_1",
        "object": "video",
        "model": "kling",
        "status": "completed",
        "progress": 100,
        "created_at": 1_795_446_245,
        "completed_at": 1_795_446_248,
        "seconds": "5",
        "size": "1280x720",
        "metadata": {"url": f"{BASE}/v1/videos/task_1/content"},
    }
    assert at(3, "D", Behaviour(outcome=Outcome.FAILED))["error"]["code"] == "50001"
    assert at(3, "D", Behaviour(outcome=Outcome.CANCELLED))["status"] == "cancelled"


def test_form_e_is_the_vendors_body_and_form_f_has_no_record() -> None:
    assert at(3, "E", Behaviour())["content"] == {"video_url": f"{BASE}/files/task_1.mp4"}
    assert at(3, "F", Behaviour()) == {"code": "success", "data": None}


@pytest.mark.parametrize("form", "ABCDE")
def test_a_completed_task_may_have_no_url(form: str) -> None:
    text = json.dumps(at(3, form, Behaviour(url=None)))
    assert "http" not in text
    assert WORDS[form][2] in text


@pytest.mark.parametrize(("form", "field"), [("C", "result_url"), ("D", "metadata")])
def test_a_failures_text_can_be_in_place_of_the_url(form: str, field: str) -> None:
    body = at(3, form, Behaviour(outcome=Outcome.FAILED, error_in_url=True, error_message="https://not.a.video"))
    assert "https://not.a.video" in json.dumps(body.get("data", body)[field])


def test_other_status_words_and_errors_without_a_failure() -> None:
    odd = Behaviour(running_word="rendering", final_word="done", error_always=True)
    assert at(0, "A", odd)["error"]
    assert at(1, "A", odd)["status"] == "rendering"
    assert at(3, "A", odd)["status"] == "done"
    assert at(3, "C", odd)["data"]["fail_reason"]


def test_a_task_with_outcome_never_does_not_end() -> None:
    assert view_at(task_of(Behaviour(outcome=Outcome.NEVER)), 1e9, BASE).phase is TaskPhase.RUNNING


# --- behaviour ----------------------------------------------------------------------------------------------------


def test_parse_reads_every_kind_of_field() -> None:
    fields = {"run_seconds": 5, "outcome": "failed", "form": ["A", "B"], "url": None, "error_code": "policy"}
    faults = ["html_200", {"kind": "rate_limited", "times": None, "retry_after": 2, "as_date": True}]
    assert parse(fields | {"faults": faults, "content_fault": "reset"}) == Behaviour(
        run_seconds=5,
        outcome=Outcome.FAILED,
        form="AB",
        url=None,
        error_code="policy",
        faults=(Fault(FaultKind.HTML_200), Fault(FaultKind.RATE_LIMITED, times=None, retry_after=2, as_date=True)),
        content_fault=Fault(FaultKind.RESET),
    )


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"run_seconds": -1}, "sandbox.run_seconds"),
        ({"run_seconds": "soon"}, "sandbox.run_seconds"),
        ({"outcome": "great"}, "'completed', 'failed'"),
        ({"form": "AXB"}, "sandbox.form"),
        ({"form": ""}, "sandbox.form"),
        ({"faults": ["typo"]}, "sandbox.faults.0.kind"),
        ({"faults": [{"kind": "slow", "times": 0}]}, "sandbox.faults.0.times"),
        ({"colour": "red"}, "sandbox.colour"),
        ("failed", "should be an object"),
    ],
)
def test_parse_names_the_bad_field(value: object, named: str) -> None:
    with pytest.raises(BehaviourError, match=named):
        parse(value)


@pytest.mark.parametrize(
    ("prompt", "outcome"),
    [("fail politely", "failed"), ("Never end", "never"), ("cancel", "cancelled"), ("do not fail", "completed")],
)
def test_the_first_word_of_a_prompt_chooses_the_outcome_unless_it_is_given(prompt: str, outcome: str) -> None:
    assert parse(None, prompt).outcome == outcome
    assert parse({"outcome": "expired"}, prompt).outcome == "expired"


def test_faults_come_in_order_and_one_without_times_stays() -> None:
    twice, always = Fault(FaultKind.RESET, times=2), Fault(FaultKind.PANIC, times=None)
    assert [Behaviour(faults=(twice,)).fault_at(poll) for poll in range(3)] == [twice, twice, None]
    assert [Behaviour(faults=(twice, always)).fault_at(poll) for poll in (1, 2, 99)] == [twice, always, always]


def test_an_id_can_hold_the_behaviour_of_its_task() -> None:
    default = Behaviour(form="A")
    assert implied_by("sandbox_0_1500_failed_17", default) == Behaviour(0, 1.5, Outcome.FAILED, form="A")
    for other in ("sandbox_0_1500_great_17", "sandbox_0_1500_failed_", "task_1", "xsandbox_0_0_failed_1"):
        assert implied_by(other, default) is None
