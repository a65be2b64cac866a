"""amux's own record of a task with a platform: how the record changes, and the forms B, C and D that show it.

A record changes in amux's sweep. The record of a live platform also changes at each status request. At other times a
record does not change, even if the vendor's task changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.sandbox.behaviour import Outcome, Platform
from bridge.sandbox.forms import PRIVATE_MARK, PRIVATE_NUMBERS, Task, TaskView, view_at
from bridge.sandbox.vendor_bodies import Body
from bridge.sandbox.vendors import VENDORS, Reply, Vendor

_USER, _CHANNEL, _QUOTA = PRIVATE_NUMBERS
_ENDED = frozenset({"SUCCESS", "FAILURE"})
_SWEPT_PROGRESS: Mapping[str, str] = {
    "SUBMITTED": "10%",
    "QUEUED": "20%",
    "IN_PROGRESS": "30%",
    "SUCCESS": "100%",
    "FAILURE": "100%",
}
_WORDS_B: Mapping[str, str] = {
    "SUCCESS": "succeeded",
    "FAILURE": "failed",
    "QUEUED": "queued",
    "SUBMITTED": "queued",
}
_WORDS_D: Mapping[str, str] = {
    "SUBMITTED": "queued",
    "QUEUED": "queued",
    "IN_PROGRESS": "in_progress",
    "SUCCESS": "completed",
    "FAILURE": "failed",
}


@dataclass(slots=True)
class Record:
    """The row of a task. Times are Unix seconds; 0 if the event has not happened yet."""

    task: Task
    platform: Platform
    data: Body
    updated_at: int
    status: str = "NOT_START"
    progress: str = "0%"
    fail_reason: str = ""
    stored_url: str = ""
    start_time: int = 0
    finish_time: int = 0
    tokens: int = 0
    vendor_requests: int = field(default=0, compare=False)
    """How many entries of `Behaviour.vendor_answers` were used: by a live task's status requests, else by the sweep."""

    @property
    def vendor(self) -> Vendor:
        """The rules of the platform."""
        return VENDORS[self.platform]

    @property
    def ended(self) -> bool:
        """Whether the sweep skips the record: its status is final, or its progress is 100 %."""
        return self.status in _ENDED or self.progress == "100%"

    @property
    def result_url(self) -> str:
        """The video's URL. Without a URL it is the reason of the failure, as in amux."""
        return self.stored_url or self.fail_reason

    @property
    def percent(self) -> int:
        """The progress in the unit of form D, percent."""
        return int(self.progress.rstrip("%"))


def record_of(task: Task, platform: Platform, base_url: str = "") -> Record:
    """Returns the record of a task that was just created."""
    return Record(task, platform, VENDORS[platform].created(view_at(task, -1.0, base_url)), int(task.created_at))


def vendor_view(record: Record, age: float, base_url: str) -> TaskView:
    """Returns the task as its vendor knows it at `age` (seconds)."""
    view = view_at(record.task, age, base_url)
    return view if record.task.behaviour.vendor_gives_url else replace(view, url=None)


def is_forgotten(record: Record, age: float) -> bool:
    """Returns whether the vendor has deleted the task."""
    behaviour = record.task.behaviour
    if behaviour.forget_seconds is None or behaviour.outcome is Outcome.NEVER:
        return False
    return age >= behaviour.queue_seconds + behaviour.run_seconds + behaviour.forget_seconds


# --- changes ------------------------------------------------------------------------------------------------------


def sweep(record: Record, reply: Reply | None, now: int, base_url: str) -> None:
    """Changes a record as amux's sweep does. `reply` is None if amux could not read the vendor's answer."""
    if reply is None:
        return
    before = replace(record)
    record.data = _without_videos(reply.body)
    record.status = reply.status
    record.progress = reply.progress or _SWEPT_PROGRESS[reply.status]
    if reply.status == "FAILURE":
        record.fail_reason = reply.reason
    if reply.status == "SUCCESS":
        is_inside = reply.url.startswith("data:")
        record.stored_url = reply.url if reply.url and not is_inside else _content_url(record, base_url)
    _note_times(record, before, now)
    record.tokens = record.tokens or reply.tokens


def refresh(record: Record, reply: Reply, now: int, base_url: str) -> None:
    """Changes a live task's record as a status request does, even if the record has ended.

    The reason of an earlier failure stays. So a task that runs again shows this reason instead of a URL.
    """
    before = replace(record)
    record.data = reply.body
    record.status = reply.status
    record.progress = reply.progress or record.progress
    record.fail_reason = reply.reason or record.fail_reason
    if reply.status == "SUCCESS" and before.status != "SUCCESS" and not reply.url.startswith("data:"):
        record.stored_url = reply.url or _content_url(record, base_url)
    _note_times(record, before, now)
    record.tokens = record.tokens or reply.tokens


def time_out(record: Record, now: int) -> None:
    """Fails a record that is too old, as amux's sweep does before it asks any vendor."""
    before = replace(record)
    minutes = int(record.task.behaviour.amux_timeout_seconds // 60)
    record.status, record.progress, record.fail_reason = "FAILURE", "100%", f"任务超时（{minutes}分钟）"  # noqa: RUF001
    record.finish_time = now
    _note_times(record, before, now)


def _note_times(record: Record, before: Record, now: int) -> None:
    if record.status == "IN_PROGRESS":
        record.start_time = record.start_time or now
    if record.status in _ENDED:
        record.finish_time = record.finish_time or now
    if record != before:
        record.updated_at = now


def _content_url(record: Record, base_url: str) -> str:
    return f"{base_url}/v1/videos/{record.task.task_id}/content"


def _without_videos(body: Body) -> Body:
    """Returns a vendor's body without the bytes of a video. Only the sweep removes them, not a status request."""
    response = body.get("response")
    if not isinstance(response, dict) or "videos" not in response:
        return body
    videos = [
        {name: value for name, value in each.items() if name != "bytesBase64Encoded"} for each in response["videos"]
    ]
    return body | {"response": response | {"videos": videos}}


# --- the forms ----------------------------------------------------------------------------------------------------


def live_form(record: Record) -> Body:
    """Returns form B, the answer to a live task's status request if the vendor answered."""
    failed = record.status == "FAILURE"
    data: Body = {
        "error": None,
        "format": "mp4",
        "metadata": None,
        "status": _WORDS_B.get(record.status, "processing"),
        "task_id": record.task.task_id,
        "url": "" if failed else record.result_url,
    }
    if record.tokens:
        data["usage"] = {"completion_tokens": record.tokens, "total_tokens": record.tokens}
    return {"code": "success", "message": record.fail_reason if failed else "", "data": data}


def row(record: Record) -> Body:
    """Returns the row, which is `data` in form C and an entry of the list of the batch route."""
    task = record.task
    body: Body = {
        "id": task.row_id,
        "created_at": int(task.created_at),
        "updated_at": record.updated_at,
        "task_id": task.task_id,
        "platform": record.platform.value,
        "user_id": _USER,
        "group": f"{PRIVATE_MARK}-group",
        "channel_id": _CHANNEL,
        "quota": _QUOTA,
        "completion_tokens": record.tokens,
        "total_tokens": record.tokens,
        "action": record.vendor.action,
        "status": record.status,
        "fail_reason": record.fail_reason,
        "result_url": record.result_url,
        "submit_time": int(task.created_at),
        "start_time": record.start_time,
        "finish_time": record.finish_time,
        "progress": record.progress,
        "properties": {
            "input": f"{PRIVATE_MARK} {task.prompt}",
            "upstream_model_name": f"{PRIVATE_MARK}-{task.model}",
            "origin_model_name": task.model,
        },
        "data": record.data,
    }
    if not record.result_url:
        del body["result_url"]
    return body


def record_form(record: Record) -> Body:
    """Returns form C."""
    return {"code": "success", "message": "", "data": row(record)}


def alias_form(record: Record) -> Body:
    """Returns form D, which differs between vendors."""
    body = _ALIASES[record.platform](record)
    if record.tokens:
        body["usage"] = {"completion_tokens": record.tokens, "total_tokens": record.tokens}
    return body


def _video(record: Record, model: str, url: str | None) -> Body:
    """Returns OpenAI's video object. amux gives the time of the last change as `completed_at`, also before the end."""
    body: Body = {
        "id": record.task.task_id,
        "object": "video",
        "model": model,
        "status": _WORDS_D.get(record.status, "unknown"),
        "progress": record.percent,
        "created_at": int(record.task.created_at),
        "completed_at": record.updated_at,
    }
    return body if url is None else body | {"metadata": {"url": url}}


def _sora_alias(record: Record) -> Body:
    """Returns the vendor's last body with amux's id. Its status may differ from the status of amux's row."""
    return record.data | {"id": record.task.task_id}


def _kling_alias(record: Record) -> Body:
    """Returns a video whose times are Kling's, in milliseconds."""
    data: Any = record.data["data"]
    videos = data.get("task_result", {}).get("videos", ())
    body = _video(record, "", None)
    body |= {"created_at": data["created_at"], "completed_at": data["updated_at"]}
    if videos:
        body |= {"seconds": videos[0]["duration"], "metadata": {"url": videos[0]["url"]}}
    if data["task_status"] == "failed":
        body["error"] = {"message": data["task_status_msg"], "code": ""}
    return body


def _vidu_alias(record: Record) -> Body:
    creations = record.data.get("creations") or ()
    body = _video(record, "", creations[0]["url"] if creations else None)
    if code := record.data.get("err_code"):
        body["error"] = {"message": code, "code": code}
    return body


def _doubao_alias(record: Record) -> Body:
    body = _video(record, record.task.model, record.result_url) | {"task_id": record.task.task_id}
    if record.status == "FAILURE":
        found: Any = record.data.get("error") or {"message": record.fail_reason, "code": "task_failed"}
        body["error"] = {"message": found["message"], "code": found["code"]}
    return body


def _gemini_alias(record: Record) -> Body:
    return _video(record, "veo-3.0-generate-001", None)


_ALI_WORDS = {"PENDING": "queued", "RUNNING": "in_progress", "SUCCEEDED": "completed"}


def _ali_alias(record: Record) -> Body:
    output: Any = record.data.get("output", {})
    body = _video(record, record.task.model, output.get("video_url", ""))
    word = output.get("task_status")
    body["status"] = _ALI_WORDS.get(word, "failed") if word else "unknown"
    error = record.data if record.data.get("code") else output
    if error.get("code"):
        body["error"] = {"message": error["message"], "code": error["code"]}
    return body


def _minimax_alias(record: Record) -> Body:
    body = _video(record, record.task.model, record.result_url)
    answer: Any = record.data["base_resp"]
    if answer["status_code"]:
        body["error"] = {"message": answer["status_msg"], "code": str(answer["status_code"])}
    return body


_ALIASES: Mapping[Platform, Callable[[Record], Body]] = {
    Platform.ALI: _ali_alias,
    Platform.GEMINI: _gemini_alias,
    Platform.MINIMAX: _minimax_alias,
    Platform.VERTEX: _gemini_alias,
    Platform.KLING: _kling_alias,
    Platform.VIDU: _vidu_alias,
    Platform.DOUBAO: _doubao_alias,
    Platform.SORA: _sora_alias,
}


def created_form(record: Record) -> Body:
    """Returns the answer of a create call: OpenAI's video object, with Sora's length and size."""
    body: Body = {
        "id": record.task.task_id,
        "task_id": record.task.task_id,
        "object": "video",
        "model": record.task.model,
        "status": "queued",
        "progress": 0,
        "created_at": int(record.task.created_at),
    }
    return body | {"seconds": "4", "size": "720x1280"} if record.platform is Platform.SORA else body
