"""Reads amux's usual rows: form C of a task that still runs. Nearly all records of batches are such rows.

With a million watches the bridge reads 36,000 of them a second. `record.py` needs a dictionary with all values of a
row; this module reads only the values that it uses, in a tenth of the time. A row with anything unusual is left to
`record.py`, so both give the same record for the same row. Equal records are one shared object: making them would take
longer than all else here. So they do not have the time of submission, which differs for each task.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import msgspec

from bridge.amux.paths import STATUS_WORDS
from bridge.amux.record import LONGEST_MODEL, LONGEST_PLATFORM, MILLISECONDS_FROM, text_of
from bridge.core.batch_lane import RunningRecord
from bridge.core.model import TaskRecord, TaskStatus
from bridge.core.snapshots import plain_snapshot

Names: TypeAlias = tuple[str | None, str | None]
CleanNames: TypeAlias = Callable[[str | None, str | None], Names]

_RUNNING_WORDS = {
    form: status
    for word, status in STATUS_WORDS.items()
    if status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)
    for form in (word, word.upper())
}
_PERCENTAGES: Mapping[str | None, int | None] = {"": None, **{f"{number}%": number for number in range(101)}}


class _Properties(msgspec.Struct, gc=False):
    origin_model_name: str | None = None


class Row(msgspec.Struct, gc=False):
    """The values of a row that this module uses. Other names are skipped. A value of another type is an error.

    They are in amux's order, because msgspec then finds each one at once.
    """

    task_id: str = ""
    platform: str | None = None
    status: str = ""
    submit_time: int = 0
    progress: str | None = None
    properties: _Properties | None = None
    model: str | None = None


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


@dataclass(slots=True)
class RunningRecords:
    """The records of usual rows by task id, and their platforms. `others` are the places of all other rows.

    `submitted` has the times of submission of all rows, in Unix seconds.
    """

    records: dict[str, RunningRecord] = field(default_factory=dict)
    submitted: Mapping[str, float] = field(default_factory=dict)
    platforms: frozenset[str] = frozenset()
    others: list[int] = field(default_factory=list)


def running_record(record: Mapping[str, Any]) -> TaskRecord | None:
    """Returns what `read_record` returns for a usual row, in half of the time; None for any other record."""
    try:
        row = msgspec.convert(record, Row)
    except msgspec.ValidationError:
        return None
    running = running_records((row,)).records.get(row.task_id)
    if running is None:
        return None
    shared = running.record
    status, progress, model, platform = shared.status, shared.progress, shared.model, shared.platform
    # `_replace` would take three times as long.
    return TaskRecord(status, progress, model=model, platform=platform, submitted_at=float(row.submit_time))


def running_records(rows: Sequence[Row], clean_names: CleanNames = lambda *names: names) -> RunningRecords:
    """Reads the usual rows. Of several rows of one task, the last one counts.

    `clean_names` takes and returns the names of a model and a platform, or None.
    """
    found = RunningRecords(submitted=_SubmissionTimes(rows))
    records, others = found.records, found.others
    by_names: dict[Names, Mapping[str, _ByProgress]] = {}
    model = platform = None
    shared: Mapping[str, _ByProgress] = {}
    for place, row in enumerate(rows):
        properties = row.properties
        origin = None if properties is None else properties.origin_model_name
        if origin is None:
            origin = row.model
        if origin != model or row.platform != platform:
            model, platform = names = origin, row.platform
            if names not in by_names:
                by_names[names] = _records_with(model, platform, clean_names)
            shared = by_names[names]
        try:
            record = shared[row.status][row.progress]
        except KeyError:
            others.append(place)
            continue
        if not 0 < row.submit_time < MILLISECONDS_FROM:
            others.append(place)
            continue
        records[row.task_id] = record
    found.platforms = frozenset(kind.platform or "" for kinds in by_names.values() for kind in kinds.values())
    return found


class _SubmissionTimes(Mapping[str, float]):
    """The times of submission of rows by task id. They are rarely needed, so they are collected at the first use."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    @cached_property
    def _times(self) -> Mapping[str, float]:
        return {row.task_id: row.submit_time for row in self._rows}

    def __getitem__(self, task_id: str) -> float:
        return self._times[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._times)

    def __len__(self) -> int:
        return len(self._times)


def _records_with(model: str | None, platform: str | None, clean_names: CleanNames) -> Mapping[str, "_ByProgress"]:
    cleaned = _cleaned(model, platform)
    if cleaned[0] is None and model is not None:
        return {}  # the name is blank, so the general rules look for another one
    return _shared_records(*clean_names(*cleaned))


@lru_cache(maxsize=1024)
def _cleaned(model: str | None, platform: str | None) -> Names:
    return text_of(model, LONGEST_MODEL), text_of(platform, LONGEST_PLATFORM)


@lru_cache(maxsize=256)
def _shared_records(model: str | None, platform: str | None) -> Mapping[str, "_ByProgress"]:
    """Returns the shared records with these names, by the status word. There are few names."""
    shared = {status: _ByProgress(status, model, platform) for status in (TaskStatus.QUEUED, TaskStatus.IN_PROGRESS)}
    return {word: shared[status] for word, status in _RUNNING_WORDS.items()}


class _ByProgress(dict[str | None, RunningRecord]):
    """The shared records of one status by the text of the progress. They are made when they are first used.

    Raises KeyError for a text that is not usual.
    """

    __slots__ = ("_model", "_status", "platform")

    def __init__(self, status: TaskStatus, model: str | None, platform: str | None) -> None:
        super().__init__()
        self._status, self._model, self.platform = status, model, platform

    def __missing__(self, text: str | None) -> RunningRecord:
        progress = _PERCENTAGES[text]
        # A row has the field `submit_time`, which the live answer does not have. So the record is not live.
        record = TaskRecord(self._status, progress, model=self._model, platform=self.platform)
        kind = object() if progress is None else self
        running = self[text] = RunningRecord(record, plain_snapshot(self._status, progress), kind)
        return running
