"""A task at one moment, in each form of amux's answers. Pure: values in, JSON values out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from bridge.sandbox.behaviour import Behaviour, Outcome

Body: TypeAlias = dict[str, Any]

PRIVATE_MARK = "sandbox-private"
"""A part of each text of a record that only the owner of the account may see."""

PRIVATE_NUMBERS = (770_013_771, 909_919_902, 660_660_663)
"""A record's user, channel and quota. These numbers occur nowhere else."""

_USER, _CHANNEL, _QUOTA = PRIVATE_NUMBERS
_METADATA: Body = {"duration": 5.0, "fps": 24, "width": 1280, "height": 720, "seed": 20231234}
_USAGE: Body = {"completion_tokens": 108_900, "total_tokens": 108_900}


class TaskPhase(StrEnum):
    """The phase of a task, in the stand-in's own words."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_END_PHASES: Mapping[Outcome, TaskPhase] = {
    Outcome.COMPLETED: TaskPhase.SUCCEEDED,
    Outcome.FAILED: TaskPhase.FAILED,
    Outcome.CANCELLED: TaskPhase.CANCELLED,
    Outcome.EXPIRED: TaskPhase.EXPIRED,
}
_FAILURES = frozenset({TaskPhase.FAILED, TaskPhase.CANCELLED, TaskPhase.EXPIRED})


def _words(queued: str, running: str, succeeded: str, failed: str, *others: str) -> Mapping[TaskPhase, str]:
    """Returns the words of a form. Without words for cancelled and expired, both have the word for a failure."""
    return dict(zip(TaskPhase, (queued, running, succeeded, failed, *(others or (failed, failed))), strict=True))


_WORDS: Mapping[str, Mapping[TaskPhase, str]] = {
    "A": _words("queued", "in_progress", "completed", "failed"),
    "B": _words("queued", "processing", "succeeded", "failed"),
    "C": _words("QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"),
    "D": _words("queued", "in_progress", "completed", "failed", "cancelled", "expired"),
    "E": _words("queued", "running", "succeeded", "failed", "cancelled", "expired"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it was created. `created_clock` is monotonic seconds, `created_at` Unix seconds."""

    task_id: str
    row_id: int
    model: str
    prompt: str
    behaviour: Behaviour
    created_clock: float
    created_at: float


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task at one moment. Times are Unix seconds; 0 if the event has not happened yet."""

    task: Task
    phase: TaskPhase
    queue_word: str
    """The word for a queued task in form C, which has three."""
    progress: int
    started_at: float
    finished_at: float
    url: str | None
    """The video's URL, on success only."""

    @property
    def failed(self) -> bool:
        """Whether the task ended without success."""
        return self.phase in _FAILURES

    @property
    def shows_error(self) -> bool:
        """Whether the answer has an error. It has one after a failure, and always with `error_always`."""
        return self.failed or self.task.behaviour.error_always

    def word(self, form: str) -> str:
        """Returns the status in the words of a form."""
        behaviour = self.task.behaviour
        if self.phase is TaskPhase.RUNNING:
            return behaviour.running_word or _WORDS[form][self.phase]
        if self.phase is not TaskPhase.QUEUED:
            return behaviour.final_word or _WORDS[form][self.phase]
        return self.queue_word if form == "C" else _WORDS[form][self.phase]

    def time(self, at: float) -> int:
        """Returns a time in the unit of the record: seconds, or milliseconds if the behaviour says so."""
        return int(at * 1000) if self.task.behaviour.milliseconds else int(at)


def view_at(task: Task, age: float, base_url: str) -> TaskView:
    """Returns the task `age` seconds after its creation. Its URLs begin with `base_url`."""
    behaviour = task.behaviour
    ran = age - behaviour.queue_seconds
    if ran < 0:
        share = age / behaviour.queue_seconds if age > 0 else 0.0
        queue_word = ("NOT_START", "SUBMITTED", "QUEUED")[min(2, int(3 * share))]
        return TaskView(task, TaskPhase.QUEUED, queue_word, 0, 0, 0, None)
    started_at = task.created_at + behaviour.queue_seconds
    if behaviour.outcome is Outcome.NEVER:
        return TaskView(task, TaskPhase.RUNNING, "QUEUED", 50, started_at, 0, None)
    if ran < behaviour.run_seconds:
        progress = int(10 + 80 * ran / behaviour.run_seconds)
        return TaskView(task, TaskPhase.RUNNING, "QUEUED", progress, started_at, 0, None)
    end = _END_PHASES[behaviour.outcome]
    url = video_url(task, base_url) if end is TaskPhase.SUCCEEDED else None
    return TaskView(task, end, "QUEUED", 100, started_at, started_at + behaviour.run_seconds, url)


def video_url(task: Task, base_url: str) -> str | None:
    """Returns the URL of a completed task's video, which its behaviour chooses."""
    match task.behaviour.url:
        case "file":
            return f"{base_url}/files/{task.task_id}.mp4"
        case "content":
            return f"{base_url}/v1/videos/{task.task_id}/content"
        case other:
            return other


def documented_record(view: TaskView) -> Body:
    """Returns form A, the record of amux's documentation."""
    behaviour = view.task.behaviour
    body: Body = {"task_id": view.task.task_id, "status": view.word("A")}
    if view.phase is TaskPhase.SUCCEEDED:
        if view.url is not None:
            body["url"] = view.url
        body |= {"format": "mp4", "metadata": _METADATA}
    if view.shows_error:
        body["error"] = {"code": behaviour.error_code, "message": behaviour.error_message}
    return body


def live_record(view: TaskView) -> Body:
    """Returns form B, a fresh answer of the vendor. A failure's reason is the top-level message."""
    done = view.phase is TaskPhase.SUCCEEDED
    data: Body = {
        "task_id": view.task.task_id,
        "status": view.word("B"),
        "url": view.url or "",
        "format": "mp4" if done else "",
        "metadata": None,
        "error": None,
    }
    if done:
        data["usage"] = _USAGE
    return {"code": "success", "message": view.task.behaviour.error_message if view.shows_error else "", "data": data}


def database_record(view: TaskView) -> Body:
    """Returns form C, the row of amux's database, with fields that must never be passed on."""
    task, behaviour = view.task, view.task.behaviour
    data: Body = {
        "id": task.row_id,
        "task_id": task.task_id,
        "status": view.word("C"),
        "fail_reason": behaviour.error_message if view.shows_error else "",
        "result_url": _url_or_error(view) or "",
        "progress": f"{view.progress}%",
        "submit_time": view.time(task.created_at),
        "start_time": view.time(view.started_at),
        "finish_time": view.time(view.finished_at),
        "created_at": int(task.created_at),
        "updated_at": int(view.finished_at or view.started_at or task.created_at),
        "user_id": _USER,
        "channel_id": _CHANNEL,
        "quota": _QUOTA,
        "properties": {"input": f"{PRIVATE_MARK} {task.prompt}", "origin_model_name": task.model},
        "data": vendor_record(view),
    }
    return {"code": "success", "message": "", "data": data}


def openai_video(view: TaskView) -> Body:
    """Returns form D, OpenAI's video object. Create calls are answered with it too."""
    task = view.task
    body: Body = {
        "id": task.task_id,
        "task_id": task.task_id,
        "object": "video",
        "model": task.model,
        "status": view.word("D"),
        "progress": view.progress,
        "created_at": view.time(task.created_at),
    }
    if view.finished_at:
        body["completed_at"] = view.time(view.finished_at)
    if view.phase is TaskPhase.SUCCEEDED:
        body |= {"seconds": "5", "size": "1280x720", "usage": _USAGE}
    if url := _url_or_error(view):
        body["metadata"] = {"url": url}
    if view.shows_error:
        body["error"] = {"message": task.behaviour.error_message, "code": str(task.behaviour.error_code)}
    return body


def vendor_record(view: TaskView) -> Body:
    """Returns form E, the raw body of a vendor (Volcano), as in the `data` of form C."""
    task = view.task
    body: Body = {
        "id": f"cgt-{PRIVATE_MARK}-{task.row_id}",
        "model": f"{PRIVATE_MARK}-vendor-model",
        "status": _WORDS["E"][view.phase],
        "created_at": int(task.created_at),
    }
    if view.url is not None:
        body["content"] = {"video_url": view.url}
    if view.shows_error:
        body["error"] = {"code": str(task.behaviour.error_code), "message": task.behaviour.error_message}
    return body


def no_record(_view: TaskView) -> Body:
    """Returns form F: amux has a record but does not send it."""
    return {"code": "success", "data": None}


def _url_or_error(view: TaskView) -> str | None:
    """Returns the video's URL. After a failure with `error_in_url` it is the error's text, as in older records."""
    if view.failed and view.task.behaviour.error_in_url:
        return view.task.behaviour.error_message
    return view.url


_FORMS: Mapping[str, Callable[[TaskView], Body]] = {
    "A": documented_record,
    "B": live_record,
    "C": database_record,
    "D": openai_video,
    "E": vendor_record,
    "F": no_record,
}


def render(form: str, view: TaskView) -> Body:
    """Returns the task in one form, given by its letter, A to F."""
    return _FORMS[form](view)
