"""Keeps those tasks of a batch in their lane that still run and have nothing new but their progress: nearly all.

With a million watches the bridge does this for 36,000 tasks a second, so it does nothing else for them.
`ReadHandler.handle` does the same for one task, but takes five times as long.
"""

from collections.abc import Sequence

from bridge.core.batch_lane import BatchAnswer, Reading
from bridge.core.model import TaskRecord, TaskSnapshot
from bridge.core.snapshots import with_progress
from bridge.core.watch import still_runs
from bridge.polling.lanes import Batch
from bridge.polling.state import LastAnswer, Phase, PolledTask

_POLLING = Phase.POLLING  # the look-up of a member takes 0.1 µs


def keep_running(batch: Batch, answer: BatchAnswer) -> Sequence[PolledTask]:
    """Keep tasks of a batch in their lane, which must be open. Return the others, and do nothing with them."""
    platforms, digest = batch.lane.platforms, answer.digest
    kept, others = [], []
    recorded = platforms.recorded
    running = answer.running if answer.platforms <= recorded else {}
    for task in batch.tasks:
        found, known = running.get(task.task_id), task.running
        if task.phase is not _POLLING:  # it was dropped meanwhile
            others.append(task)
            continue
        if found is None or found is not known:
            if found is not None and known is not None and found.kind is known.kind:  # only its progress is new
                task.snapshot, task.running = found.snapshot, found
            elif not _take_progress(task, answer, recorded):
                others.append(task)
                continue
            elif task.running is None:
                digest = None
        kept.append(task)
    _keep(batch, kept, None if digest is None or others else LastAnswer(digest, platforms))
    return others


def keep_unchanged(batch: Batch) -> bool:
    """Keep all tasks of a batch in their lane after an answer that is the same as the last one, without decoding it.

    Return false, and do nothing, if something else has changed since then. The answer must be decoded then.
    """
    last = batch.last
    if last is None or last.platforms is not batch.lane.platforms:
        return False
    for task in batch.tasks:
        if task.phase is not _POLLING or task.running is None:
            return False
    _keep(batch, batch.tasks, last)
    return True


def _keep(batch: Batch, tasks: Sequence[PolledTask], last: LastAnswer | None) -> None:
    began, due, batched = batch.began, batch.due, Phase.BATCHED
    for task in tasks:
        task.batch_polls += 1
        task.started = task.seen_running = began
        task.due, task.phase = due, batched
    batch.lane.extend(tasks, last)


def _take_progress(task: PolledTask, answer: BatchAnswer, recorded: frozenset[str]) -> bool:
    """Take the progress from a task's record. Return false, and change nothing, if anything else is new or unknown."""
    running = answer.running.get(task.task_id)
    record = answer.records.get(task.task_id) if running is None else running.record
    if (
        record is None
        or task.reading is not Reading.BATCH
        or (record.platform or "") not in recorded
        or (task.submitted_at is None and (running is not None or record.submitted_at is not None))
        or (snapshot := _running_as_before(task, record)) is None
    ):
        return False
    is_plain = running is not None and snapshot is running.snapshot and task.task_class.from_record
    task.snapshot, task.running = snapshot, running if is_plain else None
    return True


def _running_as_before(task: PolledTask, record: TaskRecord) -> TaskSnapshot | None:
    """Return the snapshot of a task after a record that changes nothing but its progress; None for any other record."""
    if (
        not still_runs(task.snapshot.status, record)
        or task.failures
        or task.unconfirmed_failure is not None
        or task.status_update_due
        or task.overdue_at is not None
    ):
        return None
    progress = record.progress
    if progress is None or progress == task.snapshot.progress:
        return task.snapshot
    return with_progress(task.snapshot, progress) if task.task_class.from_record else None
