"""Reads amux's usual rows: form C of a task that still runs. Nearly all records of batches are such rows.

With a million watches the bridge reads 36,000 of them a second. `record.py` needs a dictionary with all values of a
row; this module reads only the values that it uses, in a tenth of the time. A row with anything unusual is left to
`record.py`, so both give the same record for the same row.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET

from bridge.amux.paths import STATUS_WORDS
from bridge.amux.record import LONGEST_MODEL, LONGEST_PLATFORM, MILLISECONDS_FROM, text_of
from bridge.core.model import TaskRecord, TaskStatus

Names: TypeAlias = tuple[str | None, str | None]
CleanNames: TypeAlias = Callable[[str | None, str | None], Names]

_RUNNING_WORDS = {
    form: status
    for word, status in STATUS_WORDS.items()
    if status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
    for form in (word, word.upper())
}
_PERCENTAGES: Mapping[str | None, int | None] = {"": None, **{f"{number}%": number for number in range(101)}}
_new_record = tuple.__new__  # 0.08 µs; TaskRecord(...) takes 0.2 µs, a tenth of a read in a batch


class _Properties(msgspec.Struct, gc=False):
    origin_model_name: str | None = None


class Row(msgspec.Struct, gc=False):
    """The values of a row that this module uses. Other names are skipped. A value of another type is an error."""

    task_id: str = ""
    status: str = ""
    progress: str | None = None
    platform: str | None = None
    submit_time: int = 0
    properties: _Properties | None = None
    model: Any = UNSET


class _Answer(msgspec.Struct, gc=False):
    data: list[Row]


class _RawAnswer(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_answer = msgspec.json.Decoder(_Answer)
_raw_answer = msgspec.json.Decoder(_RawAnswer)


def read_rows(body: bytes) -> Sequence[Row]:
    """Returns the rows of a batch answer; none if the answer is not as usual: a value has another type, or no JSON."""
    try:
        return _answer.decode(body).data
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ()


def raw_rows(body: bytes) -> Sequence[msgspec.Raw]:
    """Returns the JSON of each row of an answer whose rows `read_rows` has returned, in the same order."""
    return _raw_answer.decode(body).data


def running_record(record: Mapping[str, Any]) -> TaskRecord | None:
    """Returns what `read_record` returns for a usual row, in a third of the time; None for any other record."""
    try:
        row = msgspec.convert(record, Row)
    except msgspec.ValidationError:
        return None
    return running_records((row,), (row.task_id,))[0].get(row.task_id)


def running_records(
    rows: Sequence[Row], ids: Collection[str], clean_names: CleanNames = lambda *names: names
) -> tuple[dict[str, TaskRecord], list[int]]:
    """Returns the records of usual rows by task id, and the places of all other rows.

    Only tasks in `ids` are read, each once. `clean_names` takes and returns the names of a model and a platform, or
    None. In the records, `submitted_at` is an integer.
    """
    records: dict[str, TaskRecord] = {}
    others: list[int] = []
    words, percentages, new_record = _RUNNING_WORDS, _PERCENTAGES, _new_record
    model = platform = None
    names: Names = (None, None)
    for place, row in enumerate(rows):
        task_id, submitted, properties = row.task_id, row.submit_time, row.properties
        origin = None if properties is None else properties.origin_model_name
        if origin != model or row.platform != platform:  # rarely: there are few names
            model, platform = origin, row.platform
            names = clean_names(*_names(model, platform))
        try:
            status, percent = words[row.status], percentages[row.progress]
        except KeyError:
            others.append(place)
            continue
        if (
            task_id not in ids
            or task_id in records
            or not 0 < submitted < MILLISECONDS_FROM
            or (names[0] is None and row.model is not UNSET)
        ):
            others.append(place)
            continue
        # `submit_time` is a field of amux's row, so the record is not live.
        records[task_id] = new_record(
            TaskRecord, (status, percent, None, None, None, None, None, *names, submitted, None, False)
        )
    return records, others


@lru_cache(maxsize=1024)
def _names(model: str | None, platform: str | None) -> Names:
    return text_of(model, LONGEST_MODEL), text_of(platform, LONGEST_PLATFORM)
