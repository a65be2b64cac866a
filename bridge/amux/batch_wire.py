"""Reads answers of amux's batch route: any HTTP answer becomes a BatchObservation. Pure; no bytes make it raise.

The route takes ids of tasks and answers with amux's rows (form C) of the tasks that belong to the key's user. A missing
record says nothing about its task. Records may come in any order: each has its own `task_id`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import orjson

from bridge.amux.lenient_json import clean, read_json
from bridge.amux.record import LONGEST_MESSAGE, has_status, read_record, text_of, usual_row
from bridge.amux.wire import error_reason, media_type, sentence
from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchObservation, NoBatchRoute, TaskMissing, TooManyTasks
from bridge.core.model import TaskRecord

PATH = "/suno/fetch"
# Python's `json` takes 0.2 s for 1 MiB of numbers, and nothing else runs meanwhile. A longer answer that orjson cannot
# read is a failure. The probe that follows is small.
LENIENT_BYTES = 2 << 20
MAX_ROWS = 50_000  # a row has at least 400 bytes, but 16 MiB can have eight million of the smallest JSON values
# Each record is read as if it had this envelope: a record without fields of amux's row then counts as live. The message
# and the code of the whole answer are not about one task.
_ENVELOPE: Mapping[str, Any] = {"code": "success"}


def observe_batch(  # noqa: PLR0913, PLR0917  the parts of an answer
    status: int, content_type: str, body: bytes, ids: Collection[str], base_url: str, retry_after: float | None = None
) -> BatchObservation:
    """Returns the observation of an answer to a request for `ids`; see `wire.observe` for the other arguments."""
    if 200 <= status < 300:
        return _on_success(content_type, body, ids, base_url)
    message = sentence(f"amux answered {status} on {PATH}", error_reason(content_type, body))
    if status in (408, 425, 429) or (status >= 500 and status != 501):  # 501: the server has no such function
        return BatchFailed(f"http_{status}", message, retry_after)
    if status == 413:
        return TooManyTasks(message)
    return NoBatchRoute(f"http_{status}", message)


def _on_success(content_type: str, body: bytes, ids: Collection[str], base_url: str) -> BatchObservation:
    kind = media_type(content_type)
    if body and kind == "html":
        return NoBatchRoute("html", f"amux answered with a web page on {PATH}")
    try:
        document = _read(body if kind == "json" else b"")
    except ValueError:
        return BatchFailed("bad_json", f"amux answered on {PATH} with a body that is not JSON")
    if not isinstance(document, dict) or not _is_list(document.get("data", "")):
        return BatchFailed("bad_form", f"amux answered without a list of records on {PATH}")
    records, unusable = _records(document, ids, base_url)
    if records:
        return BatchAnswer(records, len(body))
    if unusable:
        return BatchFailed("bad_records", f"amux answered with records that cannot be used on {PATH}")
    reason = text_of(document.get("message"), LONGEST_MESSAGE)
    asked = "the task" if len(ids) == 1 else f"any of the {len(ids)} tasks"
    message = sentence(f"amux answered without {asked} on {PATH}", reason)
    is_one = len(ids) == 1 and document.get("data") is not None
    return TaskMissing(message) if is_one else NoBatchRoute("filtered", message)


def _read(body: bytes) -> Any:
    return read_json(body) if len(body) <= LENIENT_BYTES else orjson.loads(body)


def _is_list(data: Any) -> bool:
    return data is None or (isinstance(data, list) and len(data) <= MAX_ROWS)


def _records(document: Mapping[str, Any], ids: Collection[str], base_url: str) -> tuple[dict[str, TaskRecord], int]:
    """Returns the records by task id, and the number of tasks whose records cannot be used.

    Two different records of one task contradict each other, so neither is used.
    """
    records: dict[str, TaskRecord] = {}
    unusable: set[str] = set()
    for row in document.get("data") or ():
        if not isinstance(row, dict) or (task_id := _id_of(row, ids)) is None:
            continue
        record = usual_row(row)
        if record is None:
            if not has_status(row):
                unusable.add(task_id)
                continue
            record = read_record(row, _ENVELOPE, task_id=task_id, base_url=base_url)
        known = records.setdefault(task_id, record)
        if known is not record and known != record:
            unusable.add(task_id)
    for task_id in unusable:
        records.pop(task_id, None)
    return records, len(unusable)


def _id_of(row: Mapping[str, Any], wanted: Collection[str]) -> str | None:
    """Returns the id of a row's task if it was asked for. `id` is amux's row number and does not count."""
    own = row.get("task_id")
    if not isinstance(own, str):
        return None
    if own in wanted:
        return own
    own = clean(own).strip()
    return own if own in wanted else None
