"""Acts on the answers to reads: updates the task, passes changes to the writer of results, schedules the next read.

The decisions are functions of `core/`.
"""

import logging
from collections.abc import Callable, Sequence

from bridge.aio.clocks import Clocks
from bridge.core.batch_lane import BatchAnswer, Reading
from bridge.core.model import Observation, TaskRecord
from bridge.core.schedule import PollPolicy, delay_after_poll
from bridge.core.snapshots import with_progress
from bridge.core.watch import TERMINAL, PollResult, ending_after
from bridge.polling.anomalies import Anomalies
from bridge.polling.lanes import Batch, BatchResult
from bridge.polling.live_failures import confirm_live_failure
from bridge.polling.result_writer import PendingSettlement, PendingStatus, ResultWriter
from bridge.polling.running_tasks import keep_running, keep_unchanged
from bridge.polling.schedule import PollSchedule
from bridge.polling.state import Phase, PolledTask
from bridge.polling.task_classes import TaskClasses
from bridge.telemetry import get_logger

_WAITING = frozenset({Phase.SCHEDULED, Phase.BATCHED, Phase.BLOCKED})
_log = get_logger("polling")


class ReadHandler:
    """Acts on single answers and on the records of batches, and on deadlines.

    `concurrency` is how many single reads are under way at a time. `random` draws from [0, 1).
    """

    def __init__(  # noqa: PLR0913  its collaborators
        self,
        schedule: PollSchedule,
        result_writer: ResultWriter,
        classes: TaskClasses,
        anomalies: Anomalies,
        *,
        policy: PollPolicy,
        clocks: Clocks,
        random: Callable[[], float],
        concurrency: int,
    ) -> None:
        self._schedule = schedule
        self._result_writer = result_writer
        self._classes = classes
        self._anomalies = anomalies
        self._policy = policy
        self._clocks = clocks
        self._clock = clocks.monotonic
        self._random = random
        self._concurrency = concurrency
        self._created_at = self._clock()
        self._to_check: set[PolledTask] = set()  # tasks with a watch that was cancelled during a poll or a write

    def check_closed(self, task: PolledTask) -> None:
        """Ask the store whether a task has closed, now or after its present read or write."""
        if task.phase in _WAITING:
            self._queue_status(task, changed=False)
        else:
            self._to_check.add(task)

    def check_closed_after_batch(self, tasks: Sequence[PolledTask]) -> None:
        """Ask the store which tasks of a batch have closed, if one of their watches was cancelled meanwhile."""
        if not self._to_check:
            return  # to intersect the empty set takes 20 µs
        for task in self._to_check.intersection(tasks):
            if task.phase in _WAITING:
                self._to_check.discard(task)
                self._queue_status(task, changed=False)

    def forget(self, task: PolledTask) -> None:
        """Drop a task that is no longer polled."""
        self._to_check.discard(task)

    def forget_all(self) -> None:
        """Drop all tasks."""
        self._to_check.clear()

    # --- answers --------------------------------------------------------------------------------------------------

    def handle(
        self, task: PolledTask, observation: Observation, started: float, now: float, due: float | None = None
    ) -> None:
        """Act on an answer. The first branch is for a task that still runs, as nearly every answer says.

        `due` is when the task is read next if it still runs; None: by its schedule of single reads.
        """
        known, was_blocked = task.snapshot, task.credential.blocked
        if (
            type(observation) is TaskRecord
            and observation.status is known.status
            and observation.raw_status is None
            and known.status not in TERMINAL
            and task.unconfirmed_failure is None
        ):
            if (
                (observation.progress is not None and observation.progress != known.progress)
                or (observation.submitted_at is not None and task.submitted_at is None)
                or task.failures
                or self._anomalies.may_end_misrouting((task,))
            ):
                self._note_running(task, observation, now)
            task.seen_running = started
            if was_blocked:
                self._schedule.update_credential(task, observation, now)
            elif not task.status_update_due and task.overdue_at is None:
                if due is None:
                    due = now + self._classes.delay(task, now, self._random())
                task.due = due
                if self._to_check:
                    self.reschedule(task, due)
                else:
                    self._schedule.schedule_next(task, due)
                return
            failure_changed = False
        else:
            observation, failure_changed = confirm_live_failure(task, observation, started, now, self._policy.interval)
            self._note(task, observation, now)
            self._schedule.update_credential(task, observation, now)
        changed = task.snapshot.status is not known.status
        task.due = now + self._delay(task, observation, now, probe=was_blocked) if due is None else due
        if self._ends_watches(task, observation, started, now):
            # The settlement writes the new status without status events. Watches that stay active get them later.
            task.status_update_due |= changed and task.snapshot.status not in TERMINAL
            self._queue_settlement(task, observation, started, now)
        elif type(observation) is TaskRecord and (changed or failure_changed or task.status_update_due):
            self._queue_status(task, changed=changed)
        else:
            self.reschedule(task, task.due)

    def keep_running(self, batch: Batch, answer: BatchAnswer) -> Sequence[PolledTask]:
        """Keep the tasks of a batch in their lane that still run without a change; return the others."""
        return keep_running(batch, answer) if self._may_keep(batch) else batch.tasks

    def keep_unchanged(self, batch: Batch) -> bool:
        """Keep the tasks of a batch in their lane after an answer that is the same as the last one.

        Return false, and do nothing, if this answer must be decoded.
        """
        return self._may_keep(batch) and keep_unchanged(batch)

    def _may_keep(self, batch: Batch) -> bool:
        """Whether tasks that run without a change are simply kept in their lane."""
        is_good = batch.lane.health.is_open and not batch.credential.blocked
        is_awaited = self._anomalies.may_end_misrouting(batch.tasks)
        return is_good and not is_awaited and (not self._to_check or self._to_check.isdisjoint(batch.tasks))

    def handle_batch(self, batch: Batch, results: Sequence[BatchResult], now: float) -> None:
        """Act on the results of a batch. Tasks that must be read singly are read at once."""
        alone = [result.task for result in results if result.record is None and result.task.phase is Phase.POLLING]
        spread = self._policy.interval / len(alone) if len(alone) > self._concurrency else 0.0
        for place, task in enumerate(alone):
            self._schedule.schedule_at(task, now + place * spread)
        for result in results:
            task = result.task
            if result.record is None or task.phase is not Phase.POLLING:  # dropped meanwhile
                continue
            task.started = batch.began
            task.batch_polls += 1
            due = now if result.soon else batch.due if task.reading is Reading.BATCH else None
            try:
                self.handle(task, result.record, batch.began, now, due)
            except Exception as error:  # noqa: BLE001  a bug costs one read, never the others of the batch
                self.handle_error(task, error, now)

    def handle_error(self, task: PolledTask, error: Exception, now: float) -> None:
        """Log an unexpected error while a result was handled, and poll the task again later."""
        log_poll_error(task, error)
        if task.phase is Phase.POLLING:
            self._schedule.schedule_at(task, now + self._policy.max_interval)

    def _note(self, task: PolledTask, observation: Observation, now: float) -> None:
        task.note(observation, now)
        if type(observation) is TaskRecord:
            self._classes.describe(task, observation)
        self._anomalies.check(observation, task, now)

    def _note_running(self, task: PolledTask, record: TaskRecord, now: float) -> None:
        """Note a record of a task that still runs. For most, only the progress is new, and `_note` takes far longer."""
        known = task.task_class
        if (
            record.progress is not None
            and (record.submitted_at is None or task.submitted_at is not None)
            and not (task.failures or self._anomalies.may_end_misrouting((task,)))
            and record.model == known.model
            and record.platform == known.platform
            and (snapshot := with_progress(task.snapshot, record.progress)) is not None
        ):
            task.snapshot = snapshot
        else:
            self._note(task, record, now)

    def _delay(self, task: PolledTask, observation: Observation, now: float, *, probe: bool) -> float:
        jitter = self._random()
        return delay_after_poll(
            self._policy,
            observation,
            task.snapshot.status,
            learned=self._classes.delay(task, now, jitter),
            polls=task.steps,
            failures=task.failures,
            unconfirmed=task.unconfirmed_failure is not None,
            probe=probe,
            jitter=jitter,
        )

    @staticmethod
    def _ends_watches(task: PolledTask, observation: Observation, started: float, now: float) -> bool:
        """Whether an answer may end watches: it was a last poll, or the answer ends the task's oldest watch."""
        if task.overdue_at is not None and started >= task.overdue_at and started == task.single_started:
            return True
        ending = ending_after(task.snapshot, task.refusal_counts, observation, task.watched_since, now)
        return ending is not None

    # --- writes to the store --------------------------------------------------------------------------------------

    def _queue_settlement(self, task: PolledTask, observation: Observation | None, began: float, now: float) -> None:
        """Settle the watches that end by an answer, or by their deadline.

        If the observation is None, there was no last poll, and only deadlines count.
        """
        end = None
        if isinstance(observation, TaskRecord) and task.snapshot.status in TERMINAL:
            end = self._classes.note_end(task, observation.finished_at, now)
            if observation.finished_at is not None:
                self._anomalies.record_detection(
                    self._clocks.wall() - observation.finished_at, now - task.watched_since
                )
        self._schedule.remove(task, Phase.WRITING)
        if observation is None or (task.overdue_at is not None and began >= task.overdue_at):
            task.overdue_at = None
        error = task.present_error
        if error is None and observation is None:
            error = task.credential.health.problem
        result = PollResult(task.snapshot, task.refusal_counts, observation, error, task.unconfirmed_failure)
        self._result_writer.put(PendingSettlement(task, result, began, end))

    def _queue_status(self, task: PolledTask, *, changed: bool) -> None:
        self._schedule.remove(task, Phase.WRITING)
        self._result_writer.put(PendingStatus(task, changed))

    # --- what a task does next ------------------------------------------------------------------------------------

    def reschedule(self, task: PolledTask, due: float) -> None:
        """Schedule a task after a poll or a write, or check whether it has closed, or give it its last poll."""
        if self._to_check and task in self._to_check:
            self._to_check.discard(task)
            task.due = due
            self._queue_status(task, changed=False)
        else:
            self._continue(task, due)

    def continue_unwritten(self, task: PolledTask, *, check_later: bool) -> None:
        """Schedule a task after a write that the store refused. Nothing about it is written before its next poll.

        With `check_later` the store is asked then whether the task has closed.
        """
        if check_later and task.phase is not Phase.DROPPED:
            self._to_check.add(task)
        if task.phase is Phase.WRITING:  # not dropped meanwhile
            self._continue(task, task.due)

    def _continue(self, task: PolledTask, due: float) -> None:
        if task.overdue_at is not None:
            task.due, task.phase = due, Phase.BLOCKED
            self._poll_last(task, self._clock(), 0.0)
        else:
            self._schedule.schedule_next(task, due)

    def poll_overdue(self, tasks: list[PolledTask]) -> None:
        """Give tasks their last poll: at once, or over one interval if there are more tasks than `concurrency`."""
        now = self._clock()
        interval = self._policy.interval if len(tasks) > self._concurrency else 0.0
        for place, task in enumerate(tasks):
            if task.phase in _WAITING:
                self._poll_last(task, now, place / len(tasks) * interval)

    def _poll_last(self, task: PolledTask, now: float, delay: float) -> None:
        """Schedule the last poll of an overdue task. If it had this poll, or cannot have it, settle the task now."""
        if task.overdue_at is None:
            return
        # A poll of an earlier process does not count: its answer is unknown, and the video may be ready now.
        last = task.single_started
        had_last_poll = last is not None and last >= max(task.overdue_at, self._created_at)
        if had_last_poll or task.credential.blocked:
            self._queue_settlement(task, None, now, now)
        elif task.phase is not Phase.SCHEDULED or task.due > now + delay:
            self._schedule.schedule_single(task, now + delay)

    def expire(self, task: PolledTask) -> None:
        """Settle an overdue task without a last poll, because its credential is blocked."""
        now = self._clock()
        self._queue_settlement(task, None, now, now)


def log_poll_error(task: PolledTask, error: Exception) -> None:
    """Log an unexpected error of the bridge in a poll of a task."""
    _log.event(
        "poll_failed",
        level=logging.ERROR,
        trace=error,
        task_id=task.task_id,
        means="an unexpected error in the bridge; the task is polled again later",
    )
