"""A task at one moment, in each of the forms that amux tells it in. Pure: values in, JSON values out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from bridge.sandbox.behaviour import Behaviour, Outcome

Body: TypeAlias = dict[str, Any]

PRIVATE_MARK = "sandbox-private"
"""Part of every text of a record that is nobody's business but the account's."""

PRIVATE_NUMBERS = (770_013_771, 909_919_902, 660_660_663)
"""A record's user, channel and quota: numbers that turn up nowhere else."""

_USER, _CHANNEL, _QUOTA = PRIVATE_NUMBERS
_SPOKEN: Body = {"duration": 5.0, "fps": 24, "width": 1280, "height": 720, "seed": 20231234}
_USAGE: Body = {"completion_tokens": 108_900, "total_tokens": 108_900}


class TaskStage(StrEnum):
    """Where a task stands, in the stand-in's own words."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_ENDS: Mapping[Outcome, TaskStage] = {
    Outcome.COMPLETED: TaskStage.SUCCEEDED,
    Outcome.FAILED: TaskStage.FAILED,
    Outcome.CANCELLED: TaskStage.CANCELLED,
    Outcome.EXPIRED: TaskStage.EXPIRED,
}
_FAILURES = frozenset({TaskStage.FAILED, TaskStage.CANCELLED, TaskStage.EXPIRED})


def _words(queued: str, running: str, succeeded: str, failed: str, *others: str) -> Mapping[TaskStage, str]:
    """A form's words; where it has none of its own for cancelled and expired, they are failures."""
    return dict(zip(TaskStage, (queued, running, succeeded, failed, *(others or (failed, failed))), strict=True))


_WORDS: Mapping[str, Mapping[TaskStage, str]] = {
    "A": _words("queued", "in_progress", "completed", "failed"),
    "B": _words("queued", "processing", "succeeded", "failed"),
    "C": _words("QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE"),
    "D": _words("queued", "in_progress", "completed", "failed", "cancelled", "expired"),
    "E": _words("queued", "running", "succeeded", "failed", "cancelled", "expired"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it was created. `born` is on the server's clock, `created_at` in Unix seconds."""

    task_id: str
    row_id: int
    model: str
    prompt: str
    behaviour: Behaviour
    born: float
    created_at: float


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task at one moment; times are Unix seconds, 0 for what has not come yet."""

    task: Task
    stage: TaskStage
    queue_word: str
    """Form C's word for a task that waits: it has three."""
    progress: int
    started_at: float
    finished_at: float
    url: str | None
    """The video's, on success only."""

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return self.stage in _FAILURES

    @property
    def shows_error(self) -> bool:
        """Whether the error is told: on failure, and always where the behaviour says so."""
        return self.failed or self.task.behaviour.error_always

    def word(self, form: str) -> str:
        """The status in a form's words."""
        chosen = self.task.behaviour
        if self.stage is TaskStage.RUNNING:
            return chosen.running_word or _WORDS[form][self.stage]
        if self.stage is not TaskStage.QUEUED:
            return chosen.final_word or _WORDS[form][self.stage]
        return self.queue_word if form == "C" else _WORDS[form][self.stage]

    def stamp(self, at: float) -> int:
        """A time as the record writes it."""
        return int(at * 1000) if self.task.behaviour.milliseconds else int(at)


def look(task: Task, age: float, base_url: str) -> TaskView:
    """The task `age` seconds after its creation; `base_url` is where its URLs point to."""
    chosen = task.behaviour
    ran = age - chosen.queue_seconds
    if ran < 0:
        waited = age / chosen.queue_seconds if age > 0 else 0.0
        waiting = ("NOT_START", "SUBMITTED", "QUEUED")[min(2, int(3 * waited))]
        return TaskView(task, TaskStage.QUEUED, waiting, 0, 0, 0, None)
    started_at = task.created_at + chosen.queue_seconds
    if chosen.outcome is Outcome.NEVER:
        return TaskView(task, TaskStage.RUNNING, "QUEUED", 50, started_at, 0, None)
    if ran < chosen.run_seconds:
        return TaskView(task, TaskStage.RUNNING, "QUEUED", int(10 + 80 * ran / chosen.run_seconds), started_at, 0, None)
    end = _ENDS[chosen.outcome]
    url = video_url(task, base_url) if end is TaskStage.SUCCEEDED else None
    return TaskView(task, end, "QUEUED", 100, started_at, started_at + chosen.run_seconds, url)


def video_url(task: Task, base_url: str) -> str | None:
    """Where a success's video is said to be."""
    match task.behaviour.url:
        case "file":
            return f"{base_url}/files/{task.task_id}.mp4"
        case "content":
            return f"{base_url}/v1/videos/{task.task_id}/content"
        case other:
            return other


def document(sight: TaskView) -> Body:
    """Form A, as amux's document has it."""
    chosen = sight.task.behaviour
    body: Body = {"task_id": sight.task.task_id, "status": sight.word("A")}
    if sight.stage is TaskStage.SUCCEEDED:
        if sight.url is not None:
            body["url"] = sight.url
        body |= {"format": "mp4", "metadata": _SPOKEN}
    if sight.shows_error:
        body["error"] = {"code": chosen.error_code, "message": chosen.error_message}
    return body


def live(sight: TaskView) -> Body:
    """Form B: a fresh answer of the vendor's; a failure's reason is the top-level message."""
    done = sight.stage is TaskStage.SUCCEEDED
    data: Body = {
        "task_id": sight.task.task_id,
        "status": sight.word("B"),
        "url": sight.url or "",
        "format": "mp4" if done else "",
        "metadata": None,
        "error": None,
    }
    if done:
        data["usage"] = _USAGE
    return {"code": "success", "message": sight.task.behaviour.error_message if sight.shows_error else "", "data": data}


def record(sight: TaskView) -> Body:
    """Form C: the row of amux's database, with all that must never be passed on."""
    task, chosen = sight.task, sight.task.behaviour
    data: Body = {
        "id": task.row_id,
        "task_id": task.task_id,
        "status": sight.word("C"),
        "fail_reason": chosen.error_message if sight.shows_error else "",
        "result_url": _url_or_error(sight) or "",
        "progress": f"{sight.progress}%",
        "submit_time": sight.stamp(task.created_at),
        "start_time": sight.stamp(sight.started_at),
        "finish_time": sight.stamp(sight.finished_at),
        "created_at": int(task.created_at),
        "updated_at": int(sight.finished_at or sight.started_at or task.created_at),
        "user_id": _USER,
        "channel_id": _CHANNEL,
        "quota": _QUOTA,
        "properties": {"input": f"{PRIVATE_MARK} {task.prompt}", "origin_model_name": f"{PRIVATE_MARK}-{task.model}"},
        "data": volcano(sight),
    }
    return {"code": "success", "message": "", "data": data}


def openai_video(sight: TaskView) -> Body:
    """Form D: OpenAI's video object, also what a create call answers."""
    task = sight.task
    body: Body = {
        "id": task.task_id,
        "task_id": task.task_id,
        "object": "video",
        "model": task.model,
        "status": sight.word("D"),
        "progress": sight.progress,
        "created_at": sight.stamp(task.created_at),
    }
    if sight.finished_at:
        body["completed_at"] = sight.stamp(sight.finished_at)
    if sight.stage is TaskStage.SUCCEEDED:
        body |= {"seconds": "5", "size": "1280x720", "usage": _USAGE}
    if url := _url_or_error(sight):
        body["metadata"] = {"url": url}
    if sight.shows_error:
        body["error"] = {"message": task.behaviour.error_message, "code": str(task.behaviour.error_code)}
    return body


def volcano(sight: TaskView) -> Body:
    """Form E: a vendor's raw body, as it stands inside form C's `data`."""
    task = sight.task
    body: Body = {
        "id": f"cgt-{PRIVATE_MARK}-{task.row_id}",
        "model": f"{PRIVATE_MARK}-vendor-model",
        "status": _WORDS["E"][sight.stage],
        "created_at": int(task.created_at),
    }
    if sight.url is not None:
        body["content"] = {"video_url": sight.url}
    if sight.shows_error:
        body["error"] = {"code": str(task.behaviour.error_code), "message": task.behaviour.error_message}
    return body


def nothing(_sight: TaskView) -> Body:
    """Form F: amux has a record and tells nothing of it."""
    return {"code": "success", "data": None}


def _url_or_error(sight: TaskView) -> str | None:
    """The video's URL, or the error's text where older records keep it."""
    if sight.failed and sight.task.behaviour.error_in_url:
        return sight.task.behaviour.error_message
    return sight.url


_FORMS: Mapping[str, Callable[[TaskView], Body]] = {
    "A": document,
    "B": live,
    "C": record,
    "D": openai_video,
    "E": volcano,
    "F": nothing,
}


def render(form: str, sight: TaskView) -> Body:
    """The task in one form, by its letter, A to F."""
    return _FORMS[form](sight)
