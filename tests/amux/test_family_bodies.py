"""Answers of other servers and vendors, in the form of their public documentation. Each is read fully, or has an error.

A server of the same family as amux may pass such a body on as it is, or hold it in the `data` of its own record.
"""

import json
from typing import Any

import pytest

from bridge.amux.wire import observe
from bridge.core.model import Observation, Problem, TaskRecord, TaskStatus, VideoMetadata

TASK = "408914860220871"
URL = "https://cdn.example/out/video.mp4?sign=a%2Fb"
CREATED = 1_795_446_200


def read(body: Any) -> Observation:
    return observe(200, "application/json", json.dumps(body).encode(), task_id=TASK, base_url="https://gateway.example")


def record(status: str, vendors_body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Returns form C, as amux answers for channels whose vendor has not been measured."""
    row = {"id": 7, "task_id": TASK, "status": status, "fail_reason": "", "progress": "100%", "user_id": 2, "quota": 9}
    return {"code": "success", "message": "", "data": row | {"data": vendors_body} | fields}


def done(metadata: VideoMetadata | None = None, **fields: Any) -> TaskRecord:
    return TaskRecord(TaskStatus.COMPLETED, **({"url": URL, "format": "mp4"} | fields), metadata=metadata)


def failed(code: str | int | None, message: str | None, **fields: Any) -> TaskRecord:
    return TaskRecord(TaskStatus.FAILED, error=Problem(code, message), **fields)


BODIES: dict[str, tuple[dict[str, Any], TaskRecord]] = {
    # OpenRouter, GET /api/v1/videos/{id}: `urls` are signed, `unsigned_urls` are its content route and need the key.
    "openrouter": (
        {
            "id": "job-1",
            "polling_url": "/api/v1/videos/job-1",
            "status": "completed",
            "urls": [URL],
            "unsigned_urls": ["https://openrouter.ai/api/v1/videos/job-1/content?index=0"],
            "usage": {"cost": 0.5, "is_byok": False},
        },
        done(),
    ),
    "openrouter without signed URLs": ({"id": "job-1", "status": "completed", "unsigned_urls": [URL]}, done()),
    "openrouter failed": (
        {"id": "job-1", "status": "failed", "error": "The provider refused the prompt"},
        failed(None, "The provider refused the prompt"),
    ),
    "openrouter pending": ({"id": "job-1", "status": "pending"}, TaskRecord(TaskStatus.QUEUED)),
    # Huawei MaaS, GET /v1/video/generations/{task_id}: an error with code 0 stands beside a success.
    "huawei": (
        {
            "task_id": TASK,
            "status": "succeeded",
            "error": {"code": 0, "message": ""},
            "content": {"result_url": URL},
            "usage": {"duration": 5, "resolution": "720P", "audio": "false"},
            "created_at": CREATED * 1000,
            "updated_at": CREATED * 1000 + 70_000,
        },
        done(VideoMetadata(duration=5), submitted_at=float(CREATED)),
    ),
    "huawei failed": (
        {"task_id": TASK, "status": "failed", "error": {"code": 1301, "message": "Sensitive"}, "created_at": CREATED},
        failed(1301, "Sensitive", submitted_at=float(CREATED)),
    ),
    "huawei timed out": ({"task_id": TASK, "status": "timeout"}, failed(None, None)),
    # MiniMax: the URL is not in the answer. It needs a second request with `file_id`, which amux makes itself.
    "minimax": (
        {
            "task_id": TASK,
            "status": "Success",
            "file_id": "205258526306433",
            "video_width": 1280,
            "video_height": 720,
            "base_resp": {"status_code": 0, "status_msg": "success"},
        },
        done(VideoMetadata(width=1280, height=720), url=None, format=None),
    ),
    "minimax failed": (
        {"task_id": TASK, "status": "Fail", "base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}},
        failed(1027, "output new_sensitive"),
    ),
    "minimax failed without a reason": (
        {"task_id": TASK, "status": "Fail", "base_resp": {"status_code": 0, "status_msg": "success"}},
        failed(None, None),
    ),
    # "Preparing" and "Queueing" are words that amux does not use: they are logged, and the task counts as running.
    "minimax waits": ({"task_id": TASK, "status": "Queueing"}, TaskRecord(TaskStatus.UNKNOWN, raw_status="queueing")),
    "minimax version 2": (
        {"task": {"id": TASK, "model": "MiniMax-Hailuo-03", "status": "succeeded", "content": {"url": URL}}},
        done(model="MiniMax-Hailuo-03"),
    ),
    "minimax in amux": (
        record(
            "SUCCESS",
            {"status": "Success", "file_id": "2", "video_width": 768, "video_height": 1366, "base_resp": {}},
            result_url=URL,
        ),
        done(VideoMetadata(width=768, height=1366), progress=100),
    ),
    "minimax failed in amux": (
        record(
            "FAILURE",
            {
                "status": "Fail",
                "video_width": 0,
                "base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"},
            },
            fail_reason="task failed",
        ),
        failed(1026, "task failed", progress=100),
    ),
    # Kling, GET /v1/videos/text2video/{id}: times are in milliseconds.
    "kling": (
        {
            "code": 0,
            "message": "SUCCEED",
            "request_id": "r",
            "data": {
                "task_id": TASK,
                "task_status": "succeed",
                "task_status_msg": "",
                "task_result": {"videos": [{"id": "v1", "url": URL, "duration": "5.1"}]},
                "created_at": CREATED * 1000,
                "updated_at": CREATED * 1000 + 70_000,
            },
        },
        done(VideoMetadata(duration=5.1), submitted_at=float(CREATED)),
    ),
    "kling failed": (
        {
            "code": 0,
            "message": "SUCCEED",
            "data": {"task_id": TASK, "task_status": "failed", "task_status_msg": "Risk"},
        },
        failed(None, "Risk"),
    ),
    "kling failed without a reason": (
        {"code": 0, "message": "SUCCEED", "data": {"task_id": TASK, "task_status": "failed", "task_status_msg": ""}},
        failed(None, None),
    ),
    # Ali (DashScope), GET /api/v1/tasks/{id}.
    "ali": (
        {
            "request_id": "r",
            "output": {
                "task_id": TASK,
                "task_status": "SUCCEEDED",
                "submit_time": "2026-11-23 15:03:20.000",
                "end_time": "2026-11-23 15:04:20.000",
                "video_url": URL,
                "orig_prompt": "hidden",
            },
            "usage": {"video_duration": 5, "video_count": 1, "SR": "720", "size": "1280*720"},
        },
        done(VideoMetadata(duration=5, width=1280, height=720)),
    ),
    "ali failed": (
        {"output": {"task_id": TASK, "task_status": "FAILED", "code": "DataInspectionFailed", "message": "Refused"}},
        failed("DataInspectionFailed", "Refused"),
    ),
    "ali cancelled": ({"output": {"task_id": TASK, "task_status": "CANCELED"}}, failed(None, None)),
    # Ali forgets a task after a day and says UNKNOWN, also of ids that never existed: that ends no watch by itself.
    "ali unknown": (
        {"output": {"task_id": TASK, "task_status": "UNKNOWN"}},
        TaskRecord(TaskStatus.UNKNOWN, raw_status="unknown"),
    ),
    "ali in amux": (
        record(
            "SUCCESS",
            {"output": {"task_status": "SUCCEEDED", "video_url": URL}, "usage": {"duration": 10, "size": "832*480"}},
        ),
        done(VideoMetadata(duration=10, width=832, height=480), progress=100),
    ),
    "ali failed in amux": (
        record("FAILURE", {"output": {"task_status": "FAILED", "code": "InvalidURL"}}, fail_reason="No image"),
        failed("InvalidURL", "No image", progress=100),
    ),
    # Volcano Ark, GET /api/v3/contents/generations/tasks/{id}: `resolution` and `ratio` are words.
    "volcano": (
        {
            "id": "cgt-20261123",
            "model": "doubao-seedance-1-0-pro-250528",
            "status": "succeeded",
            "content": {"video_url": URL, "last_frame_url": "https://cdn.example/last.png"},
            "usage": {"completion_tokens": 108_900, "total_tokens": 108_900},
            "created_at": CREATED,
            "updated_at": CREATED + 60,
            "seed": 10,
            "resolution": "720p",
            "ratio": "16:9",
            "duration": 5,
            "framespersecond": 24,
        },
        done(
            VideoMetadata(duration=5, fps=24, seed=10),
            model="doubao-seedance-1-0-pro-250528",
            submitted_at=float(CREATED),
        ),
    ),
    "volcano failed": (
        {"id": "cgt-1", "status": "failed", "error": {"code": "OutputVideoSensitiveContentDetected", "message": "No"}},
        failed("OutputVideoSensitiveContentDetected", "No"),
    ),
    "doubao in amux": (
        record(
            "SUCCESS",
            {"status": "succeeded", "content": {"video_url": URL}, "duration": 5, "framespersecond": 24, "seed": 0},
        ),
        done(VideoMetadata(duration=5, fps=24, seed=0), progress=100),
    ),
    # Vidu, GET /ent/v2/tasks/{id}/creations: the cover is not the video.
    "vidu": (
        {
            "id": TASK,
            "state": "success",
            "err_code": "",
            "credits": 4,
            "creations": [{"id": "c", "cover_url": "https://cdn.example/cover.png", "url": URL}],
        },
        done(),
    ),
    "vidu failed": (
        {"id": TASK, "state": "failed", "err_code": "CreditInsufficient"},
        failed("CreditInsufficient", None),
    ),
    # Jimeng in amux: 10000 is the vendor's code for success, and no code of a failure.
    "jimeng in amux": (
        record("SUCCESS", {"code": 10000, "data": {"status": "done", "video_url": URL}, "message": "Success"}),
        done(progress=100),
    ),
    # Zhipu (CogVideoX).
    "zhipu": (
        {"model": "cogvideox-3", "task_status": "SUCCESS", "video_result": [{"cover_image_url": "x", "url": URL}]},
        done(model="cogvideox-3"),
    ),
    "zhipu failed": ({"model": "cogvideox-3", "task_status": "FAIL"}, failed(None, None, model="cogvideox-3")),
    # Baidu Qianfan has three forms.
    "baidu musesteamer": (
        {
            "id": "as-1",
            "task_id": TASK,
            "model": "musesteamer-air-i2v",
            "status": "succeeded",
            "content": {"video_url": URL},
            "duration": "5",
            "width": "1280",
            "height": "704",
        },
        done(VideoMetadata(duration=5, width=1280, height=704), model="musesteamer-air-i2v"),
    ),
    "baidu creations": (
        {
            "id": TASK,
            "status": "success",
            "err_code": "",
            "creations": [{"url": URL, "watermarked_url": "x"}],
            "usage": {"duration": "8"},
        },
        done(VideoMetadata(duration=8)),
    ),
    "baidu result": (
        {
            "id": TASK,
            "status": "success",
            "result": {"content": {"video_url": URL}, "seed": 3, "duration": 5, "framespersecond": 24},
        },
        done(VideoMetadata(duration=5, fps=24, seed=3)),
    ),
    # Qiniu: OpenAI's object around Kling's result.
    "qiniu": (
        {
            "id": "qvideo-1",
            "object": "video.generation",
            "model": "kling-v2-6",
            "status": "completed",
            "created_at": CREATED,
            "completed_at": CREATED + 60,
            "seconds": "5",
            "size": "1280x720",
            "task_result": {"videos": [{"id": "v", "url": URL, "duration": "5.0"}]},
        },
        done(
            VideoMetadata(duration=5, width=1280, height=720),
            model="kling-v2-6",
            submitted_at=float(CREATED),
            finished_at=float(CREATED + 60),
        ),
    ),
    # PiAPI around Hailuo: numbers of 0 are unknown.
    "piapi": (
        {
            "code": 200,
            "message": "success",
            "data": {
                "task_id": TASK,
                "model": "hailuo",
                "status": "completed",
                "output": {"video_url": URL, "width": 1280, "height": 0, "percent": 100},
                "error": {"code": 0, "message": ""},
            },
        },
        done(VideoMetadata(width=1280), model="hailuo"),
    ),
    "new-api, older document": (
        {
            "task_id": TASK,
            "status": "succeeded",
            "url": URL,
            "format": "mp4",
            "error": None,
            "metadata": {"duration": 5, "fps": 30, "width": 512, "height": 512, "seed": 20231234},
        },
        done(VideoMetadata(5, 30, 512, 512, 20231234)),
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_each_documented_answer_is_read_fully(name: str) -> None:
    body, expected = BODIES[name]
    assert read(body) == expected


@pytest.mark.parametrize("name", BODIES)
def test_a_vendors_body_is_read_in_amuxs_record_too(name: str) -> None:
    """Only URL, format, numbers and the code are read from it. Everything else comes from amux's own record."""
    body, expected = BODIES[name]
    if "data" in body or "task" in body:
        return  # the body is an envelope already, and amux would put the vendor's body into its own envelope
    if expected.status is TaskStatus.COMPLETED and "url" not in body:
        seen = read(record("SUCCESS", body))
        assert isinstance(seen, TaskRecord)
        assert (seen.url, seen.format) == (expected.url, expected.format)
        assert seen.metadata == expected.metadata
    elif expected.error is not None:
        seen = read(record("FAILURE", body, fail_reason="why"))
        assert isinstance(seen, TaskRecord)
        assert seen.error == Problem(expected.error.code, "why")
    else:
        assert read(record("IN_PROGRESS", body, progress=None)) == TaskRecord(TaskStatus.IN_PROGRESS)
