"""Reads answers of amux's batch route: any HTTP answer becomes a BatchObservation. Pure; no bytes make it raise.

The route takes ids of tasks and answers with amux's rows (form C) of the tasks that belong to the key's user. A missing
record says nothing about its task. Records may come in any order: each has its own `task_id`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import orjson

from bridge.amux.key_removal import KeyRemoval
from bridge.amux.lenient_json import clean, read_json
from bridge.amux.record import LONGEST_MESSAGE, has_status, read_record, text_of
from bridge.amux.usual_row import raw_rows, read_rows, running_record, running_records
from bridge.amux.wire import error_reason, media_type, sentence
from bridge.core.batch_lane import (
    BatchAnswer,
    BatchFailed,
    BatchObservation,
    BatchTooLarge,
    BatchUnchanged,
    NoBatchRoute,
    TaskMissing,
    TooManyTasks,
)

PATH = "/suno/fetch"
# Python's `json` takes 0.2 s for 1 MiB of numbers, and nothing else runs meanwhile. A longer answer that orjson cannot
# read is a failure. The probe that follows is small.
LENIENT_BYTES = 2 << 20
MAX_ROWS = 50_000  # a row has at least 400 bytes, but 16 MiB can have eight million of the smallest JSON values
# Each record is read as if it had this envelope: a record without fields of amux's row then counts as live. The message
# and the code of the whole answer are not about one task.
_ENVELOPE: Mapping[str, Any] = {"code": "success"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a batch request asked for: the ids of tasks, at this base URL, with the key that `removal` removes.

    `digest` is that of the last answer about the same tasks; None: the answer is decoded in any case.
    """

    ids: frozenset[str]
    base_url: str
    removal: KeyRemoval
    digest: int | None = None


def observe_batch(
    status: int, content_type: str, body: bytes, asked: Asked, retry_after: float | None = None
) -> BatchObservation:
    """Returns the observation of an answer, without the key; see `wire.observe` for the other arguments."""
    observation = _observe(status, content_type, body, asked, retry_after)
    if isinstance(observation, BatchAnswer | BatchUnchanged | BatchTooLarge):
        return observation
    return replace(observation, message=asked.removal.text(observation.message))


def _observe(status: int, content_type: str, body: bytes, asked: Asked, retry_after: float | None) -> BatchObservation:
    if 200 <= status < 300:
        return _on_success(content_type, body, asked)
    message = sentence(f"amux answered {status} on {PATH}", error_reason(content_type, body))
    if status in (408, 425, 429) or (status >= 500 and status != 501):  # 501: the server has no such function
        return BatchFailed(f"http_{status}", message, retry_after)
    if status == 413:
        return TooManyTasks(message)
    return NoBatchRoute(f"http_{status}", message)


def _on_success(content_type: str, body: bytes, asked: Asked) -> BatchObservation:
    kind = media_type(content_type)
    if body and kind == "html":
        return NoBatchRoute("html", f"amux answered with a web page on {PATH}")
    body = body if kind == "json" else b""
    if asked.digest is not None and hash(body) == asked.digest:
        return BatchUnchanged(len(body), len(asked.ids), partial(_read_body, body, asked))
    return _read_body(body, asked)


def _read_body(body: bytes, asked: Asked) -> BatchObservation:
    return _read_usual_rows(body, asked) or _read_by_general_rules(body, asked)


def _read_usual_rows(body: bytes, asked: Asked) -> BatchAnswer | None:
    """Reads an answer that has usual rows in a fourth of the time. Returns None for any other answer."""
    rows = read_rows(body)
    if not 0 < len(rows) <= MAX_ROWS:
        return None
    usual = running_records(rows, asked.removal.names)
    has_one_row_of_each = len(usual.records) + len(usual.others) == len(rows)
    if not (usual.records and has_one_row_of_each and usual.records.keys() <= asked.ids):
        return None
    digest = None if usual.others else hash(body)
    answer = BatchAnswer({}, len(body), usual.records, usual.submitted, usual.platforms, digest)
    if usual.others:
        raw = raw_rows(body)
        try:
            others = [_read(bytes(raw[place]), len(body)) for place in usual.others]
        except ValueError:
            return None
        answer, _ = _with_records(answer, others, asked)
    return answer if answer.count else None


def _read_by_general_rules(body: bytes, asked: Asked) -> BatchObservation:
    try:
        document = _read(body, len(body))
    except ValueError:
        return BatchFailed("bad_json", f"amux answered on {PATH} with a body that is not JSON")
    if not isinstance(document, dict) or not _is_list(document.get("data", "")):
        return BatchFailed("bad_form", f"amux answered without a list of records on {PATH}")
    answer, unusable = _with_records(BatchAnswer({}, len(body)), document.get("data") or (), asked)
    if answer.records:
        return answer
    if unusable:
        return BatchFailed("bad_records", f"amux answered with records that cannot be used on {PATH}")
    return _without_records(document, len(asked.ids))


def _without_records(document: Mapping[str, Any], count: int) -> TaskMissing | NoBatchRoute:
    """Returns the observation of an answer with none of the `count` tasks that were asked for."""
    missing = "the task" if count == 1 else f"any of the {count} tasks"
    reason = text_of(document.get("message"), LONGEST_MESSAGE)
    message = sentence(f"amux answered without {missing} on {PATH}", reason)
    is_one = count == 1 and document.get("data") is not None
    return TaskMissing(message) if is_one else NoBatchRoute("filtered", message)


def _read(text: bytes, length: int) -> Any:
    """Returns the JSON value in an answer, or in a part of it. `length` is that of the whole answer."""
    return read_json(text) if length <= LENIENT_BYTES else orjson.loads(text)


def _is_list(data: Any) -> bool:
    return data is None or (isinstance(data, list) and len(data) <= MAX_ROWS)


def _with_records(answer: BatchAnswer, rows: Iterable[Any], asked: Asked) -> tuple[BatchAnswer, int]:
    """Returns an answer with the records of more rows, and the number of tasks whose records cannot be used.

    Two different records of one task contradict each other, so neither is used.
    """
    records = dict(answer.records)
    running = answer.running
    unusable: set[str] = set()
    for row in rows:
        if not isinstance(row, dict) or (task_id := _id_of(row, asked.ids)) is None:
            continue
        record = running_record(row)
        if record is None:
            if not has_status(row):
                unusable.add(task_id)
                continue
            record = read_record(row, _ENVELOPE, task_id=task_id, base_url=asked.base_url)
        record = asked.removal.record(record)
        known = answer.record_of(task_id) or records.setdefault(task_id, record)
        if known is not record and known != record:
            unusable.add(task_id)
    for task_id in unusable:
        records.pop(task_id, None)
    if not unusable.isdisjoint(running):
        running = {task_id: record for task_id, record in running.items() if task_id not in unusable}
    return replace(answer, records=records, running=running), len(unusable)


def _id_of(row: Mapping[str, Any], wanted: frozenset[str]) -> str | None:
    """Returns the id of a row's task if it was asked for. `id` is amux's row number and does not count."""
    own = row.get("task_id")
    if not isinstance(own, str):
        return None
    if own in wanted:
        return own
    own = clean(own).strip()
    return own if own in wanted else None
