"""Tasks with a platform: recorded tasks change in the sweep, live tasks at each request. Failures may be cleared."""

import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from bridge.sandbox import (
    PRIVATE_MARK,
    PRIVATE_NUMBERS,
    Behaviour,
    BehaviourError,
    Outcome,
    Platform,
    Sandbox,
    VendorAnswer,
)
from bridge.sandbox.behaviour import implied_by, parse
from tests.sandbox.harness import KEY, Amux, Clock

LIVE = (Platform.GEMINI, Platform.VERTEX, Platform.DOUBAO)
RECORDED = tuple(platform for platform in Platform if platform not in LIVE)
ENDED = Behaviour(queue_seconds=0, run_seconds=0)


async def seen(amux: Amux, task_id: str) -> tuple[str, str, str]:
    """Returns the form of a status answer, its status, and its URL."""
    body = await amux.polled_json(task_id)
    data = body["data"]
    form = "C" if "id" in data else "B"
    return form, data["status"], data.get("url" if form == "B" else "result_url", "")


async def status_of(amux: Amux, task_id: str) -> str:
    return (await seen(amux, task_id))[1]


# --- recorded -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", RECORDED)
async def test_a_recorded_task_changes_only_in_the_sweep(amux: Amux, platform: Platform) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform))
    amux.clock.now += 14.9
    assert await seen(amux, task_id) == ("C", "NOT_START", "")
    amux.clock.now += 0.1
    form, status, url = await seen(amux, task_id)
    assert (form, status) == ("C", "SUCCESS")
    assert url.startswith("http")
    assert amux.sandbox.vendor_requests == {}


async def test_the_sweep_takes_a_second_for_each_unfinished_task_and_pauses_for_15(amux: Amux) -> None:
    tasks = [amux.sandbox.create_task(replace(ENDED, platform=Platform.KLING)) for _ in range(3)]
    slow = amux.sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=18, platform=Platform.VIDU))
    ends: dict[str, int] = {}
    for second in range(1, 60):
        amux.clock.now += 1
        ends |= {
            each: second for each in (*tasks, slow) if each not in ends and await status_of(amux, each) == "SUCCESS"
        }
    assert [ends[each] for each in tasks] == [15, 16, 17]
    assert ends[slow] == 18  # the sweep reaches the fourth task just when the task ends
    late = amux.sandbox.create_task(replace(ENDED, platform=Platform.KLING))
    amux.clock.now += 15
    assert await status_of(amux, late) == "SUCCESS"


async def test_a_scaled_sweep_takes_the_same_share_for_each_task() -> None:
    clock = Clock()
    sandbox = Sandbox(clock=clock, sweep_seconds=1.5)
    url = await sandbox.start()
    tasks = [sandbox.create_task(replace(ENDED, platform=Platform.SORA)) for _ in range(2)]
    async with aiohttp.ClientSession(headers=KEY) as client:
        amux = Amux(sandbox, clock, client, url)
        clock.now += 1.55
        assert [await status_of(amux, each) for each in tasks] == ["SUCCESS", "NOT_START"]
        clock.now += 0.1
        assert [await status_of(amux, each) for each in tasks] == ["SUCCESS", "SUCCESS"]
    await sandbox.stop()


async def test_a_recorded_tasks_words_and_times_follow_the_sweep(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(Behaviour(queue_seconds=20, run_seconds=20, platform=Platform.KLING))
    found = []
    for _ in range(5):
        amux.clock.now += 16
        data = (await amux.polled_json(task_id))["data"]
        found.append((data["status"], data["progress"], data["start_time"] > 0, data["finish_time"] > 0))
    assert found == [
        ("SUBMITTED", "10%", False, False),
        ("IN_PROGRESS", "30%", True, False),
        ("SUCCESS", "100%", True, True),
        ("SUCCESS", "100%", True, True),
        ("SUCCESS", "100%", True, True),
    ]


async def test_a_long_silence_does_not_keep_the_sweep_busy(amux: Amux) -> None:
    never = amux.sandbox.create_task(
        Behaviour(outcome=Outcome.NEVER, platform=Platform.KLING, amux_timeout_seconds=1e12)
    )
    amux.clock.now += 1e9
    ended = amux.sandbox.create_task(replace(ENDED, platform=Platform.KLING))
    assert await status_of(amux, never) == "IN_PROGRESS"
    amux.clock.now += 40
    assert await status_of(amux, ended) == "SUCCESS"


# --- live ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", LIVE)
async def test_a_live_task_costs_a_vendor_request_for_each_get_and_is_fresh(amux: Amux, platform: Platform) -> None:
    task_id = amux.sandbox.create_task(Behaviour(queue_seconds=1, run_seconds=1, platform=platform))
    statuses = []
    for _ in range(3):
        form, status, _ = await seen(amux, task_id)
        assert form == "B"
        statuses.append(status)
        amux.clock.now += 1
    assert statuses[1:] == ["processing", "succeeded"]
    await amux.get(f"/v1/videos/{task_id}")
    assert amux.sandbox.vendor_requests == {task_id: 4}


@pytest.mark.parametrize("platform", LIVE)
async def test_a_live_task_whose_vendor_cannot_be_asked_shows_its_record(amux: Amux, platform: Platform) -> None:
    answers = (VendorAnswer.GOOD, VendorAnswer.UNREACHABLE)
    behaviour = Behaviour(queue_seconds=0, run_seconds=10, platform=platform, vendor_answers=answers)
    task_id = amux.sandbox.create_task(behaviour)
    assert [(await seen(amux, task_id))[:2] for _ in range(3)] == [
        ("B", "processing"),
        ("C", "IN_PROGRESS"),
        ("B", "processing"),
    ]
    assert amux.sandbox.vendor_requests == {task_id: 3}


@pytest.mark.parametrize("platform", LIVE)
async def test_a_live_failure_can_be_soft(amux: Amux, platform: Platform) -> None:
    answers = (VendorAnswer.SOFT_FAILURE, VendorAnswer.GOOD, VendorAnswer.SOFT_FAILURE)
    task_id = amux.sandbox.create_task(
        Behaviour(queue_seconds=0, run_seconds=10, platform=platform, vendor_answers=answers)
    )
    body = await amux.polled_json(task_id)
    assert body["message"].endswith("vendor is busy")
    assert (body["data"]["status"], body["data"]["url"]) == ("failed", "")
    assert (await seen(amux, task_id))[:2] == ("B", "processing")
    assert (await seen(amux, task_id))[:2] == ("B", "failed")
    amux.clock.now += 10
    assert (await seen(amux, task_id))[:2] == ("B", "succeeded")


async def test_a_soft_failure_stays_in_amuxs_record_until_the_next_get(amux: Amux) -> None:
    behaviour = Behaviour(0, 1e6, platform=Platform.GEMINI, vendor_answers=(VendorAnswer.SOFT_FAILURE,))
    task_id = amux.sandbox.create_task(behaviour)
    assert await status_of(amux, task_id) == "failed"
    amux.clock.now += 100
    assert await batch_status(amux, task_id) == "FAILURE"  # the sweep does not change a record that has ended
    assert (await seen(amux, task_id))[1:] == ("processing", "vendor is busy")
    assert await batch_status(amux, task_id) == "IN_PROGRESS"


async def batch_status(amux: Amux, task_id: str) -> Any:
    async with amux.client.post(f"{amux.url}/suno/fetch", json={"ids": [task_id]}) as answer:
        return (await answer.json())["data"][0]["status"]


@pytest.mark.parametrize("platform", [Platform.GEMINI, Platform.DOUBAO])
async def test_a_live_success_is_processing_again_after_the_vendor_forgot_the_task(
    amux: Amux, platform: Platform
) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform, forget_seconds=60))
    _, status, url = await seen(amux, task_id)
    assert status == "succeeded"
    amux.clock.now += 60
    assert await seen(amux, task_id) == ("B", "processing", url)


async def test_a_live_task_that_amux_timed_out_runs_again_with_the_reason_as_its_url(amux: Amux) -> None:
    behaviour = Behaviour(outcome=Outcome.NEVER, platform=Platform.DOUBAO, amux_timeout_seconds=3600)
    task_id = amux.sandbox.create_task(behaviour)
    amux.clock.now += 3700
    assert await batch_status(amux, task_id) == "FAILURE"
    assert await seen(amux, task_id) == ("B", "processing", "任务超时（60分钟）")  # noqa: RUF001
    assert await batch_status(amux, task_id) == "IN_PROGRESS"


async def test_a_recorded_task_that_amux_timed_out_has_failed(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(Behaviour(outcome=Outcome.NEVER, platform=Platform.SORA))
    amux.clock.now += 86_500
    assert await seen(amux, task_id) == ("C", "FAILURE", "任务超时（1440分钟）")  # noqa: RUF001


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.EXPIRED])
async def test_a_doubao_task_that_its_vendor_gave_up_stays_in_progress(amux: Amux, outcome: Outcome) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=Platform.DOUBAO, outcome=outcome))
    amux.clock.now += 1000
    assert await seen(amux, task_id) == ("B", "processing", "")
    assert await batch_status(amux, task_id) == "IN_PROGRESS"


# --- the records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", Platform)
@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.FAILED])
async def test_what_is_private_in_a_record_is_marked(amux: Amux, platform: Platform, outcome: Outcome) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform, outcome=outcome), model="veo", prompt="a cat")
    amux.clock.now += 16
    await amux.poll(task_id)
    async with amux.client.post(f"{amux.url}/suno/fetch", json={"ids": [task_id]}) as answer:
        [data] = (await answer.json())["data"]
    assert (data["user_id"], data["channel_id"], data["quota"]) == PRIVATE_NUMBERS
    assert data["properties"] == {
        "input": f"{PRIVATE_MARK} a cat",
        "upstream_model_name": f"{PRIVATE_MARK}-veo",
        "origin_model_name": "veo",
    }
    assert (data["platform"], data["group"]) == (platform.value, f"{PRIVATE_MARK}-group")
    assert PRIVATE_MARK in json.dumps(data["data"]) or platform is Platform.VIDU
    assert "a cat" not in json.dumps(data["data"]).replace(f"{PRIVATE_MARK} a cat", "")


CODES: list[tuple[Platform, tuple[str | int, ...], object]] = [
    (Platform.SORA, ("error", "code"), "1026"),
    (Platform.KLING, ("data", "task_status_msg"), "no"),
    (Platform.VIDU, ("err_code",), "1026"),
    (Platform.DOUBAO, ("error", "code"), "1026"),
    (Platform.MINIMAX, ("base_resp", "status_code"), 1026),
    (Platform.ALI, ("output", "code"), "1026"),
    (Platform.GEMINI, ("error", "message"), "no"),
]


@pytest.mark.parametrize(("platform", "path", "value"), CODES)
async def test_each_vendor_has_its_own_place_for_an_errors_code(
    amux: Amux, platform: Platform, path: tuple[str | int, ...], value: object
) -> None:
    failing = replace(ENDED, platform=platform, outcome=Outcome.FAILED, error_code=1026, error_message="no")
    task_id = amux.sandbox.create_task(failing)
    amux.clock.now += 16
    async with amux.client.post(f"{amux.url}/suno/fetch", json={"ids": [task_id]}) as answer:
        [data] = (await answer.json())["data"]
    assert data["status"] == "FAILURE"
    found: Any = data["data"]
    for part in path:
        found = found[part]
    assert found == value


@pytest.mark.parametrize("platform", Platform)
async def test_the_alias_has_an_openai_video_for_each_platform(amux: Amux, platform: Platform) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform))
    first = json.loads((await amux.get(f"/v1/videos/{task_id}"))[2])
    amux.clock.now += 16
    body = json.loads((await amux.get(f"/v1/videos/{task_id}"))[2])
    assert {first["object"], body["object"]} == {"video"}
    assert (body["id"], body["status"], body["progress"]) == (task_id, "completed", 100)


@pytest.mark.parametrize("platform", [Platform.MINIMAX, Platform.ALI, Platform.KLING, Platform.GEMINI])
async def test_a_failed_task_has_its_error_on_the_alias(amux: Amux, platform: Platform) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform, outcome=Outcome.FAILED))
    amux.clock.now += 16
    body = json.loads((await amux.get(f"/v1/videos/{task_id}"))[2])
    assert body["status"] == "failed"
    assert ("error" in body) is (platform is not Platform.GEMINI)


@pytest.mark.parametrize("platform", [Platform.ALI, Platform.MINIMAX])
async def test_an_error_of_a_vendor_without_a_status_is_no_failure(amux: Amux, platform: Platform) -> None:
    amux.sandbox.vendor_outage = VendorAnswer.ERROR
    task_id = amux.sandbox.create_task(replace(ENDED, platform=platform))
    amux.clock.now += 16
    assert await status_of(amux, task_id) in {"QUEUED", "IN_PROGRESS"}
    await amux.get(f"/v1/videos/{task_id}")
    amux.sandbox.vendor_outage = None
    amux.clock.now += 16
    assert await status_of(amux, task_id) == "SUCCESS"


# --- how a task gets a platform -----------------------------------------------------------------------------------


def test_a_platform_is_chosen_by_number_or_name() -> None:
    for value in ("50", 50, "kling", "KLING"):
        assert parse({"platform": value}).platform is Platform.KLING
    with pytest.raises(BehaviourError, match="sandbox.platform"):
        parse({"platform": "51"})
    assert parse({"vendor_answers": ["soft_failure"]}).vendor_answers == (VendorAnswer.SOFT_FAILURE,)


def test_an_id_can_name_the_platform() -> None:
    implied = implied_by("sandbox54_0_1500_failed_17", Behaviour())
    assert implied == Behaviour(0, 1.5, Outcome.FAILED, platform=Platform.DOUBAO)
    assert implied_by("sandbox51_0_1500_failed_17", Behaviour()) is None


async def test_a_change_keeps_the_record_and_starts_the_vendors_answers_again(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(Behaviour(outcome=Outcome.NEVER, platform=Platform.GEMINI))
    amux.clock.now += 20
    assert await status_of(amux, task_id) == "processing"
    behaviour = replace(ENDED, platform=Platform.GEMINI, vendor_answers=(VendorAnswer.SOFT_FAILURE,))
    amux.sandbox.change(task_id, behaviour)
    assert [await status_of(amux, task_id) for _ in range(2)] == ["failed", "succeeded"]
    amux.sandbox.change(task_id, ENDED)
    assert await seen(amux, task_id) == ("C", "SUCCESS", f"{amux.url}/files/{task_id}.mp4")


async def test_the_content_of_a_recorded_task_is_there_when_its_record_says_so(amux: Amux) -> None:
    task_id = amux.sandbox.create_task(replace(ENDED, platform=Platform.SORA))
    status, _, body = await amux.get(f"/v1/videos/{task_id}/content")
    assert (status, "NOT_START" in body.decode()) == (400, True)
    amux.clock.now += 15
    assert (await amux.get(f"/v1/videos/{task_id}/content"))[0] == 200
