"""The status words of amux and of its vendors, and the paths of everything that the bridge reads from a record.

No other module knows these words and paths. To support one more vendor, add a word or a path: one line each. Only
values that have a line here can leave the bridge.

A path begins at the task's record: names with dots between them, and `[0]` for the first element of a list. If there
are several paths, the first one with a usable value counts. Form C of amux has the vendor's unchanged body in `data`.
Some servers send the vendor's body as the record itself. `_vendor` makes the paths for both cases.
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
    """Returns paths in the record."""
    return tuple(map(_path, places))


def _vendor(*places: str) -> tuple[Path, ...]:
    """Returns paths in the body of a vendor: first if the record is that body, then if the body is in `data`."""
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
"""Status words in lower case. "unknown" has its own rule in `core/watch.py`. Any other word means a running task."""

WRAPPERS = ("data", "task")
"""The fields that can have the record in an answer: `data` in amux's envelope and at Kling, `task` at MiniMax (v2)."""

STATUS = _record(
    "status",
    "task_status",  # Kling, Zhipu
    "state",  # Vidu
    "output.task_status",  # Ali
)

ROW_FIELDS = frozenset({"id", "fail_reason", "result_url", "platform", "submit_time", "updated_at"})
"""Fields of amux's own row (form C). The live answer (form B) has none of them."""

LIVE_PLATFORMS = frozenset({"24", "41", "54"})
"""The platforms that always answer live: Gemini, Vertex and Doubao."""

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
"""Width and height in one text, for vendors without separate fields."""

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
