"""The raw bodies of vendors, which amux keeps in the `data` of its record. Pure.

They follow the vendors' public documentation, with the fields that amux reads. Texts that only the account's owner may
see contain `PRIVATE_MARK`.
"""

from base64 import b64encode
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeAlias

from bridge.sandbox.forms import PRIVATE_MARK, TaskPhase, TaskView
from bridge.sandbox.video import MP4

Body: TypeAlias = dict[str, Any]

USAGE: Body = {"completion_tokens": 108_900, "total_tokens": 108_900}
BUSY = "vendor is busy"
"""The message of a vendor that refuses one request."""


def vendor_id(view: TaskView) -> str:
    """Returns the vendor's own id of a task."""
    return f"{PRIVATE_MARK}-vendor-{view.task.row_id:06d}"


def error_body(_view: TaskView) -> Body:
    """Returns an error in OpenAI's form, which most vendors use for 429 and 500."""
    return {"error": {"code": "E429", "message": BUSY, "type": "rate_limit_error"}}


def _updated_at(view: TaskView) -> float:
    return view.finished_at or view.started_at or view.task.created_at


def sora(view: TaskView) -> Body:
    """Returns OpenAI's video object. Its size is a text, its times are seconds."""
    word = "in_progress" if view.phase is TaskPhase.RUNNING else view.phase.value
    body: Body = {
        "id": vendor_id(view),
        "object": "video",
        "model": view.task.model,
        "status": "completed" if view.phase is TaskPhase.SUCCEEDED else word,
        "progress": view.progress,
        "created_at": int(view.task.created_at),
        "seconds": "4",
        "size": "720x1280",
        "prompt": f"{PRIVATE_MARK} {view.task.prompt}",
    }
    if view.phase is TaskPhase.SUCCEEDED:
        body["completed_at"] = int(view.finished_at)
    if view.phase is TaskPhase.FAILED:
        body["error"] = {"code": str(view.task.behaviour.error_code), "message": view.task.behaviour.error_message}
    return body


_KLING_WORDS = {TaskPhase.QUEUED: "submitted", TaskPhase.RUNNING: "processing", TaskPhase.SUCCEEDED: "succeed"}


def kling(view: TaskView) -> Body:
    """Returns Kling's task. Its times are milliseconds, its duration is text."""
    data: Body = {
        "task_id": vendor_id(view),
        "task_status": _KLING_WORDS.get(view.phase, "failed"),
        "task_status_msg": view.task.behaviour.error_message if view.failed else "",
        "task_info": {},
        "created_at": int(view.task.created_at * 1000),
        "updated_at": int(_updated_at(view) * 1000),
    }
    if view.url:
        data["task_result"] = {"videos": [{"id": f"{PRIVATE_MARK}-video", "url": view.url, "duration": "5.1"}]}
    return {"code": 0, "message": "SUCCEED", "request_id": f"{PRIVATE_MARK}-request", "data": data}


def vidu_created(view: TaskView) -> Body:
    """Returns Vidu's answer to the creation, which has other fields than its task."""
    created = datetime.fromtimestamp(int(view.task.created_at), UTC).isoformat().replace("+00:00", "Z")
    return {"task_id": vendor_id(view), "state": "created", "model": view.task.model, "created_at": created}


_VIDU_WORDS = {TaskPhase.QUEUED: "queueing", TaskPhase.RUNNING: "processing", TaskPhase.SUCCEEDED: "success"}


def vidu(view: TaskView) -> Body:
    """Returns Vidu's task. A failure has a code and no message."""
    video = {"id": f"{PRIVATE_MARK}-creation", "url": view.url, "cover_url": view.url}
    return {
        "state": _VIDU_WORDS.get(view.phase, "failed"),
        "err_code": str(view.task.behaviour.error_code) if view.failed else "",
        "credits": 4,
        "payload": "",
        "creations": [video] if view.url else [],
    }


def doubao(view: TaskView) -> Body:
    """Returns Volcano's task. Its status can be "cancelled" or "expired", which amux does not know."""
    body: Body = {
        "id": vendor_id(view),
        "model": view.task.model,
        "status": view.phase.value,
        "created_at": int(view.task.created_at),
        "updated_at": int(_updated_at(view)),
    }
    if view.phase is TaskPhase.SUCCEEDED:
        body |= {"seed": 20_231_234, "resolution": "720p", "duration": 5, "ratio": "16:9", "framespersecond": 24}
        if view.url:
            body |= {"content": {"video_url": view.url}, "usage": USAGE}
    if view.phase is TaskPhase.FAILED:
        body["error"] = {"code": str(view.task.behaviour.error_code), "message": view.task.behaviour.error_message}
    return body


def doubao_soft_failure(view: TaskView) -> Body:
    """Returns an aggregator's error. amux reads it as the task's failure."""
    return {"code": 429, "message": BUSY, "data": {"id": view.task.row_id}}


def google(view: TaskView) -> Body:
    """Returns an operation of Google that has not ended or has failed. Gemini and Vertex have the same form."""
    body: Body = {"name": f"models/veo/operations/{vendor_id(view)}"}
    if view.failed:
        body |= {"done": True, "error": {"code": 3, "message": view.task.behaviour.error_message}}
    return body


def google_error(_view: TaskView) -> Body:
    """Returns Google's error for a request. It looks like a failed operation."""
    return {"error": {"code": 429, "message": BUSY, "status": "RESOURCE_EXHAUSTED"}}


def gemini(view: TaskView) -> Body:
    """Returns Gemini's operation. The video's URI needs the vendor's key, so amux shows its own content route."""
    if view.phase is not TaskPhase.SUCCEEDED:
        return google(view)
    videos = [{"video": {"uri": f"https://vendor.test/{PRIVATE_MARK}.mp4"}}]
    kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
    response = {"@type": kind, "generateVideoResponse": {"generatedVideos": videos}}
    return google(view) | {"done": True, "response": response}


def vertex(view: TaskView) -> Body:
    """Returns Vertex's operation. The video is inside it, or in the account's own bucket if it has no URL."""
    if view.phase is not TaskPhase.SUCCEEDED:
        return google(view)
    video: Body = {"mimeType": "video/mp4"}
    if view.task.behaviour.vendor_gives_url:
        video["bytesBase64Encoded"] = _mp4_as_text()
    else:
        video["gcsUri"] = f"gs://{PRIVATE_MARK}/video.mp4"
    kind = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"
    response = {"@type": kind, "raiMediaFilteredCount": 0, "videos": [video]}
    return google(view) | {"done": True, "response": response}


@cache
def _mp4_as_text() -> str:
    return b64encode(MP4).decode()


_ALI_WORDS = {
    TaskPhase.QUEUED: "PENDING",
    TaskPhase.RUNNING: "RUNNING",
    TaskPhase.SUCCEEDED: "SUCCEEDED",
    TaskPhase.FAILED: "FAILED",
    TaskPhase.CANCELLED: "CANCELED",
    TaskPhase.EXPIRED: "UNKNOWN",
}


def ali_created(view: TaskView) -> Body:
    """Returns Ali's answer to the creation."""
    return {
        "output": {"task_id": vendor_id(view), "task_status": "PENDING"},
        "request_id": f"{PRIVATE_MARK}-request",
    }


def ali(view: TaskView) -> Body:
    """Returns a task as Ali's API shows it. Its times are strings."""
    output: Body = {
        "task_id": vendor_id(view),
        "task_status": _ALI_WORDS[view.phase],
        "submit_time": _ali_time(view.task.created_at),
        "orig_prompt": f"{PRIVATE_MARK} {view.task.prompt}",
    }
    if view.started_at:
        output["scheduled_time"] = _ali_time(view.started_at)
    if view.finished_at:
        output["end_time"] = _ali_time(view.finished_at)
    if view.url:
        output["video_url"] = view.url
    if view.phase is TaskPhase.FAILED:
        behaviour = view.task.behaviour
        output |= {"code": str(behaviour.error_code), "message": behaviour.error_message}
    body: Body = {"output": output, "request_id": f"{PRIVATE_MARK}-request"}
    if view.phase is TaskPhase.SUCCEEDED:
        body["usage"] = {"duration": 5, "video_count": 1, "SR": 720}
    return body


def ali_error(_view: TaskView) -> Body:
    """Returns Ali's error for a request."""
    return {"code": "Throttling", "message": BUSY, "request_id": f"{PRIVATE_MARK}-request"}


def _ali_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


_MINIMAX_WORDS = {TaskPhase.QUEUED: "Queueing", TaskPhase.RUNNING: "Processing", TaskPhase.SUCCEEDED: "Success"}
_MINIMAX_FINE: Body = {"status_code": 0, "status_msg": "success"}


def minimax_created(view: TaskView) -> Body:
    """Returns MiniMax's answer to the creation."""
    return {"task_id": vendor_id(view), "base_resp": _MINIMAX_FINE}


def minimax(view: TaskView) -> Body:
    """Returns MiniMax's task. The code of its error is an integer. It does not have the video's URL."""
    body: Body = {
        "task_id": vendor_id(view),
        "status": _MINIMAX_WORDS.get(view.phase, "Fail"),
        "base_resp": _MINIMAX_FINE,
    }
    if view.phase is TaskPhase.SUCCEEDED:
        body |= {"file_id": f"{PRIVATE_MARK}-file", "video_width": 1366, "video_height": 768}
    if view.failed:
        code = str(view.task.behaviour.error_code)
        body["base_resp"] = {
            "status_code": int(code) if code.isdecimal() else 1027,
            "status_msg": view.task.behaviour.error_message,
        }
    return body


def minimax_error(view: TaskView) -> Body:
    """Returns MiniMax's error for a request."""
    return {"task_id": vendor_id(view), "status": "", "base_resp": {"status_code": 1002, "status_msg": BUSY}}
