"""The words of amux and its family, and the places of everything that the bridge reads from a record.

This is the only place that knows them. To support one more vendor, add a word or a place: one line each. Nothing that
has no line here leaves the bridge.

A place is a path from the task's record: names with dots between them, and `[0]` for the first element of a list. Of
several places the first one with a usable value counts. Form C of amux holds the body of the vendor, as the vendor sent
it, in `data`. Some servers send the body of the vendor as the record itself. `_vendor` names a place in such a body and
looks for it in both.
"""

from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeAlias

from bridge.core.model import TaskStatus

Path: TypeAlias = tuple[str | int, ...]


def _path(text: str) -> Path:
    names = text.replace("[0]", ".0").split(".")
    return tuple(0 if name == "0" else name for name in names)


def _record(*places: str) -> tuple[Path, ...]:
    """Returns places in the record."""
    return tuple(map(_path, places))


def _vendor(*places: str) -> tuple[Path, ...]:
    """Returns places in the body of a vendor: first where the record is that body, then where it is in `data`."""
    return _record(*places, *(f"data.{place}" for place in places))


STATUS_WORDS: Mapping[str, TaskStatus] = dict(
    chain(
        ((word, TaskStatus.COMPLETED) for word in ("completed", "succeeded", "success", "succeed", "done")),
        ((word, TaskStatus.FAILED) for word in ("failed", "failure", "fail", "error", "rejected", "aborted")),
        ((word, TaskStatus.FAILED) for word in ("cancelled", "canceled", "expired", "timeout", "timed_out")),
        ((word, TaskStatus.QUEUED) for word in ("queued", "not_start", "submitted", "pending")),
        ((word, TaskStatus.IN_PROGRESS) for word in ("in_progress", "processing", "running")),
    )
)
"""Status words in lower case. "unknown" has a rule of its own, and any other word means that the task still runs."""

WRAPPERS = ("data", "task")
"""Where an answer holds the record: `data` in amux's envelope and at Kling, `task` at MiniMax (version 2)."""

STATUS = _record(
    "status",
    "task_status",  # Kling, Zhipu
    "state",  # Vidu
    "output.task_status",  # Ali
)

ROW_FIELDS = frozenset({"id", "fail_reason", "result_url", "platform", "submit_time", "updated_at"})
"""Fields of amux's own row (form C). The live answer (form B) has none of them."""

URL = (
    *_record(
        "url",
        "result_url",
        "metadata.url",
    ),
    *_vendor(
        "video_url",  # Jimeng
        "content.video_url",  # Volcano, Doubao
        "content.result_url",  # Huawei
        "content.url",  # MiniMax, version 2
        "urls[0]",  # OpenRouter: signed
        "unsigned_urls[0]",  # OpenRouter: its own content route
        "output.url",
        "output.video_url",  # Ali, Hailuo at PiAPI
        "data.video_url",  # Jimeng
        "task_result.videos[0].url",  # Kling, Qiniu
        "data.task_result.videos[0].url",  # Kling in its envelope
        "creations[0].url",  # Vidu, Baidu
        "video_result[0].url",  # Zhipu
        "result.content.video_url",  # Baidu
    ),
)

FORMAT = _record("format")

METADATA: Mapping[str, tuple[Path, ...]] = {
    "duration": _vendor(
        "seconds",  # Sora, and amux's OpenAI form
        "duration",  # Volcano, Doubao
        "task_result.videos[0].duration",  # Kling
        "data.task_result.videos[0].duration",  # Kling in its envelope
        "usage.duration",  # Huawei, Ali
        "usage.video_duration",  # Ali
        "result.duration",  # Baidu
    ),
    "fps": _vendor(
        "framespersecond",  # Volcano, Doubao
        "result.framespersecond",  # Baidu
    ),
    "width": _vendor(
        "width",  # Baidu
        "video_width",  # MiniMax
        "output.width",  # Hailuo at PiAPI
    ),
    "height": _vendor(
        "height",
        "video_height",
        "output.height",
    ),
    "seed": _vendor(
        "seed",  # Volcano, Doubao
        "result.seed",  # Baidu
    ),
}
"""Numbers, or texts that are a number. amux's own `metadata` comes first; see `record.py`."""

SIZE = _vendor(
    "size",  # Sora: "720x1280"
    "usage.size",  # Ali: "1280*720"
)
"""Width and height in one text, where they have no place of their own."""

ERROR_CODE = _vendor(
    "error.code",  # Sora, Doubao
    "err_code",  # Vidu
    "base_resp.status_code",  # MiniMax
    "output.code",  # Ali
)
"""Codes of failed tasks. In all of these 0 means "no error"."""

REASON = _record(
    "error.message",
    "error",
    "fail_reason",
    "task_status_msg",  # Kling
    "output.message",  # Ali
    "base_resp.status_msg",  # MiniMax
)
"""Why a task failed. The answer's own `message` comes last."""

MODEL = _record("properties.origin_model_name", "model")
PLATFORM = _record("platform")
SUBMITTED_AT = _record("submit_time", "created_at")
FINISHED_AT = _record("finish_time", "completed_at")


def value_at(record: Mapping[str, Any], path: Path) -> Any:
    """Returns the value at a path, or None if there is none."""
    if len(path) == 1:  # as in nearly all polls
        return record.get(path[0])  # type: ignore[arg-type]  # a path begins with a name
    value: Any = record
    for step in path:
        if isinstance(step, str):
            if not isinstance(value, dict):
                return None
            value = value.get(step)
        elif isinstance(value, list) and value:
            value = value[step]
        else:
            return None
    return value
