"""The batch lanes: which tasks are read with others, when, and what the answers mean for the lanes.

Each credential has a lane with a queue of tasks, and reads each of them about once a round. The lane takes a task when
its single read would be due, and keeps it as long as batches bring its record. When the lane closes, its tasks are
released: they are read singly, spread over one interval.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

from bridge.core.batch_lane import (
    PROBE_TASKS,
    BatchAnswer,
    BatchFailed,
    BatchObservation,
    BatchPolicy,
    BatchRequest,
    BatchTooLarge,
    Reading,
    TaskMissing,
    batch_interval,
    batch_round,
    batch_spacing,
    begun_on_time,
    health_after,
    may_exceed_single_reads,
    no_denser_than_single_reads,
    reading_after_record,
)
from bridge.core.model import Observation, TaskRecord
from bridge.core.schedule import JITTER_SHARE, PollPolicy
from bridge.polling.lane_log import LaneLog
from bridge.polling.lane_schedule import ClosedLanes, DueLanes
from bridge.polling.state import Credential, CredentialLane, LastAnswer, Phase, PolledTask
from bridge.polling.task_classes import TaskClasses

# A probe waits this long for a second due task, because an answer about two ids shows more than one about one id.
PROBE_WINDOW_SECONDS = 0.25
SMALL_LANE = 20  # tasks; a lane with fewer saves little
LATE_SECONDS = 1.0
CALM_INTERVALS = 4  # an outage ends after a time without a failure: this many times the longest interval of polls
_POLLING = Phase.POLLING  # the look-up of a member takes 0.1 µs
MAX_IDLE_LANES = 1_000  # lanes of keys that are not in use any more; they keep what is known about the route


@dataclass(slots=True, eq=False)
class Batch:
    """One request for several tasks. `due` is when the tasks are read next.

    `was_due` is when the request was due, `began` when it began. `is_probe`: it tests whether there is a batch route.
    `last` is the last answer, if that was about the same tasks.
    """

    credential: Credential
    lane: CredentialLane
    tasks: Sequence[PolledTask]
    was_due: float
    began: float
    is_probe: bool
    due: float = 0.0
    last: LastAnswer | None = None


@dataclass(slots=True)
class BatchResult:
    """The result of a batch for one task. `record` is None if the task must be read singly.

    `soon`: the task is read singly as soon as possible.
    """

    task: PolledTask
    record: TaskRecord | None
    soon: bool


class BatchLanes:
    """The lanes of all credentials. This class sends nothing: the time and the answers are passed in.

    `classes` gives the delay until a task would be read singly. `random` draws from [0, 1). `limited`: there is a rate
    limit. Then late batches are replaced by single reads only if all requests hang.
    """

    def __init__(
        self,
        batch: BatchPolicy,
        policy: PollPolicy,
        classes: TaskClasses,
        random: Callable[[], float],
        *,
        limited: bool = False,
    ) -> None:
        self._limited = limited
        self._batch = batch
        self._policy = policy
        self._classes = classes
        self._random = random
        self._log = LaneLog(CALM_INTERVALS * policy.max_interval)
        self._lanes: dict[str, CredentialLane] = {}
        self._due = DueLanes()
        self._closed = ClosedLanes(policy, self._due)
        self._under_way: set[Batch] = set()
        self._most_lanes = MAX_IDLE_LANES  # at this number of lanes, idle ones are removed

    def join(self, credential: Credential) -> None:
        """Give a new credential its lane. A credential with the same name gets its earlier lane, if that is kept."""
        lane = self._lanes.get(credential.name)
        if lane is None:
            if len(self._lanes) >= self._most_lanes:
                self._forget_idle()
            lane = self._lanes[credential.name] = CredentialLane(credential, self._batch)
        lane.credential, credential.lane = credential, lane

    def _forget_idle(self) -> None:
        step = MAX_IDLE_LANES // 10
        idle = [lane for lane in self._lanes.values() if not (lane.tasks or lane.credential.in_use)]
        for lane in idle[: max(len(idle) - MAX_IDLE_LANES + step, 0)]:
            del self._lanes[lane.credential.name]
            self._log.forget(lane.credential.name)
        self._most_lanes = max(len(self._lanes) + step, MAX_IDLE_LANES)

    def clear(self) -> None:
        """Drop all tasks."""
        for lane in self._lanes.values():
            lane.clear()
        self._due.clear()
        self._closed.clear()

    # --- which tasks are read in batches --------------------------------------------------------------------------

    def take_over(self, task: PolledTask, now: float) -> bool:
        """Take a task whose single read is due at `now` into its lane; false if it must be read singly."""
        credential = task.credential
        lane = credential.lane
        if lane is None or credential.blocked or task.overdue_at is not None or not self._update_reading(task, lane):
            return False
        if now < lane.single_until:
            return False
        if lane.health.is_open:
            lane.append(task)
            lane.taken_over += 1
            self._due.put(lane, max(now, lane.began + self._least_spacing(lane)))
            return True
        return lane.health.may_ask(now) and not lane.requests and self._probe_with(task, lane, now)

    def _probe_with(self, task: PolledTask, lane: CredentialLane, now: float) -> bool:
        """Add a due task to the next probe; false if the probe has enough tasks."""
        if lane.waiting < PROBE_TASKS:
            lane.append(task)
        elif lane.entry:
            return False
        else:
            lane.put_back([task])
        enough = lane.waiting >= PROBE_TASKS
        self._due.put(lane, now if enough else now + min(PROBE_WINDOW_SECONDS, self._policy.interval / 20))
        return True

    def keep(self, tasks: Sequence[PolledTask], now: float) -> list[PolledTask]:
        """Put loaded tasks into their lanes, which release them unless they open. Return the tasks without a lane.

        They are due at the end of the first round, so they are not late before.
        """
        others = []
        kept = defaultdict[CredentialLane, list[PolledTask]](list)
        for task in tasks:
            lane = task.credential.lane
            if lane is not None and self._update_reading(task, lane):
                kept[lane].append(task)
            else:
                others.append(task)
        for lane, added in kept.items():
            lane.extend(added)
            size = lane.health.size
            due = now + batch_round(batch_spacing(self._batch.interval, lane.tasks, size), lane.tasks, size)
            for task in added:
                task.phase, task.due = Phase.BATCHED, due
        for lane in self._lanes.values():
            if lane.waiting:
                self._closed.add(lane, now)
        return others

    def rejoin(self, task: PolledTask) -> bool:
        """Keep a task that still runs in its open lane; false if it must be read singly."""
        credential = task.credential
        lane = credential.lane
        if (
            lane is None
            or task.reading is not Reading.BATCH
            or not lane.health.is_open
            or credential.blocked
            or task.overdue_at is not None
        ):
            return False
        lane.rejoin(task)
        if not lane.entry:
            self._due.put(lane, lane.began + lane.spacing)
        return True

    @staticmethod
    def remove(task: PolledTask) -> None:
        """Take a task out of the queue of its lane."""
        if task.credential.lane is not None:
            task.credential.lane.remove(task)

    def resume(self, credential: Credential, now: float) -> None:
        """Make the lane of a credential due, because the credential is good again."""
        lane = credential.lane
        if lane is not None and lane.waiting:
            self._due.put(lane, max(now, lane.began + lane.spacing))

    def learn(self, task: PolledTask, observation: Observation) -> None:
        """Learn from a single read whether the platform of a task is live."""
        lane = task.credential.lane
        if lane is None:
            return
        if isinstance(observation, TaskRecord) and observation.live:
            platform = task.task_class.platform
            if platform is None and task.reading is Reading.TEST:
                platform = ""  # records without a platform are of one platform
            if platform is not None and platform not in lane.platforms.live:
                lane.platforms = lane.platforms.with_live(platform)
                self._log.live_platform(platform, task.credential.name)
            if task.reading is not Reading.MISSING:
                task.reading = Reading.LIVE
        elif task.reading is Reading.TEST:
            task.reading = Reading.BATCH

    @staticmethod
    def _update_reading(task: PolledTask, lane: CredentialLane) -> bool:
        """Update how a task is read, if its platform is known to be live. Return whether a batch may read the task."""
        if task.reading is Reading.BATCH and task.task_class.platform in lane.platforms.live:
            task.reading = Reading.LIVE  # its class is known, so no batch is needed to learn it
        if task.reading is Reading.LIVE:
            # A batch answer can confirm a failure while single reads bring no record.
            return task.unconfirmed_failure is not None and task.failures > 0 and lane.health.is_open
        return task.reading is Reading.BATCH

    # --- requests -------------------------------------------------------------------------------------------------

    def next_at(self) -> float:
        """Returns when the next lane is due; infinity if there is none."""
        return self._due.next_at()

    def is_due(self, now: float) -> bool:
        """Whether a batch is due, or tasks of a closed lane wait to be released."""
        return bool(self._closed) or self.next_at() <= now

    def take(self, now: float) -> Batch | None:
        """Return the batch that has been due for the longest time, its tasks in phase POLLING; None if none is due."""
        while (due := self._due.pop_due(now)) is not None:
            was_due, lane = due
            if lane.credential.blocked or not lane.health.may_ask(now) or (lane.requests and not lane.health.is_open):
                continue
            is_open = lane.health.is_open
            size = lane.health.size if is_open else min(lane.health.size, PROBE_TASKS)
            tasks, last = lane.take(size)
            if tasks:
                for task in tasks:
                    task.phase = _POLLING
                lane.requests, lane.in_requests = lane.requests + 1, lane.in_requests + len(tasks)
                lane.began, lane.taken_over = begun_on_time(was_due, now, lane.spacing), 0
                if lane.waiting and is_open:
                    self._due.put(lane, lane.began + lane.spacing)
                batch = Batch(lane.credential, lane, tasks, was_due, now, is_probe=not is_open, last=last)
                self._under_way.add(batch)
                return batch
        return None

    def apply_answer(self, batch: Batch, observation: BatchObservation, now: float) -> None:
        """Apply an answer that came at `now` to the lane."""
        self._note_health(batch.lane, BatchRequest(len(batch.tasks), batch.began, now), observation)
        batch.due = batch.began + max(batch.lane.round_seconds, now - batch.began)

    def results(self, batch: Batch, tasks: Sequence[PolledTask], answer: BatchObservation) -> Sequence[BatchResult]:
        """Return the results of an answer for some tasks of its batch. Tasks that were dropped have none.

        Without an answer, the tasks go back to the queue if the lane was open; else they are read singly now.
        """
        lane, tasks = batch.lane, [task for task in tasks if task.phase is Phase.POLLING]
        if isinstance(answer, BatchAnswer):
            return [self._result(task, lane, answer) for task in tasks]
        is_large = isinstance(answer, BatchTooLarge)
        if (isinstance(answer, TaskMissing) and lane.health.is_open) or (is_large and len(batch.tasks) == 1):
            for task in tasks:
                task.reading = Reading.MISSING
        elif is_large or not batch.is_probe:
            lane.put_back(tasks)  # at the front: they are the next to be read in smaller batches, or to be released
            return []
        return [BatchResult(task, None, soon=True) for task in tasks]

    def _note_health(self, lane: CredentialLane, request: BatchRequest, observation: BatchObservation) -> None:
        before = lane.health.state
        lane.health = health_after(lane.health, request, observation, self._batch, self._policy.max_interval)
        self._log.answered(lane.credential.name, before, lane.health, request.ended)

    def finish(self, batch: Batch, now: float) -> None:
        """End a request after its results were handled, and set when its lane is read next."""
        lane = batch.lane
        self._under_way.discard(batch)
        lane.requests -= 1
        lane.in_requests -= len(batch.tasks)
        if not lane.waiting:
            return
        if not lane.health.is_open:
            if lane.health.may_ask(now):  # the answer to a probe was too long: a smaller probe follows now
                self._due.put(lane, now)
            else:
                self._closed.add(lane, now)
            return
        interval = batch_interval(self._batch, now - batch.began, self._policy.max_interval)
        size, tasks = lane.health.size, lane.tasks
        spacing, start, asked = batch_spacing(interval, tasks, size), lane.began, min(size, tasks)
        lane.single_rate = inf
        if may_exceed_single_reads(spacing, tasks, asked, self._policy.max_interval * (1 + JITTER_SHARE)):
            rate = self._single_rate(lane, batch, now)
            if rate > 0:
                lane.single_rate = rate
                if (rare := no_denser_than_single_reads(spacing, rate, asked, lane.taken_over)) > spacing:
                    spacing, start = rare, now
        lane.spacing, lane.round_seconds = spacing, batch_round(spacing, tasks, size)
        if lane.next_at > now:
            self._due.drop(lane)  # its time was computed with the old spacing
        self._due.put(lane, max(start + spacing, now))

    def _result(self, task: PolledTask, lane: CredentialLane, answer: BatchAnswer) -> BatchResult:
        record = answer.record_of(task.task_id)
        if record is None:
            task.reading = Reading.MISSING
            return BatchResult(task, None, soon=True)
        before = task.reading
        task.reading, counts = reading_after_record(
            lane.platforms, record, unconfirmed=task.unconfirmed_failure is not None
        )
        if task.reading is Reading.TEST:
            lane.platforms = lane.platforms.with_tested(record.platform)
        soon = task.reading is not Reading.BATCH and before is Reading.BATCH
        return BatchResult(task, record if counts else None, soon=soon)

    def _single_rate(self, lane: CredentialLane, batch: Batch, now: float) -> float:
        """Returns how many requests a second single reads of a lane's tasks would make, estimated from this batch."""
        kept = [task for task in batch.tasks if task.phase is Phase.BATCHED]
        if not kept:
            return 0.0
        delays = (max(self._classes.delay(task, now, self._random()), 0.001) for task in kept)
        return sum(1.0 / delay for delay in delays) * lane.tasks / len(kept)

    def _is_stalled(self, now: float) -> bool:
        """Whether all allowed requests are under way and late, so that no other lane is read."""
        if len(self._under_way) < self._batch.concurrency:
            return False
        return all(now - batch.began > LATE_SECONDS for batch in self._under_way)

    def _least_spacing(self, lane: CredentialLane) -> float:
        size, tasks = lane.health.size, lane.tasks
        spacing = batch_spacing(self._batch.interval, tasks, size)
        return no_denser_than_single_reads(spacing, lane.single_rate, min(size, tasks), lane.taken_over)

    # --- tasks that leave their lanes -----------------------------------------------------------------------------

    def release(self, now: float) -> Iterator[tuple[PolledTask, float]]:
        """Yield tasks of closed lanes, and of small lanes that are late, and when each is read singly."""
        if now - self.next_at() > LATE_SECONDS and (not self._limited or self._is_stalled(now)):
            yield from ((task, now) for task in self._take_late(now))
        yield from self._closed.release(now)

    def _take_late(self, now: float) -> list[PolledTask]:
        """Take the tasks of small lanes and of probes whose batches are late.

        A large lane is closed if its batch is late by the longest interval and all requests hang.
        """
        tasks: list[PolledTask] = []
        stalled = self._is_stalled(now)
        for late, lane in self._due.late(now, LATE_SECONDS):
            is_open = lane.health.is_open
            if not is_open or lane.tasks < SMALL_LANE:
                self._due.drop(lane)
                lane.single_until = now + self._policy.max_interval
                tasks += islice(iter(lane.pop, None), SMALL_LANE if is_open else PROBE_TASKS)
            elif stalled and late > self._policy.max_interval and not lane.requests:
                self._due.drop(lane)
                hanging = BatchFailed("late", "batches with other keys get no answer")
                self._note_health(lane, BatchRequest(lane.waiting, now, now), hanging)
                self._closed.add(lane, now)
        return tasks

    # --- figures --------------------------------------------------------------------------------------------------

    def figures(self) -> tuple[int, float]:
        """Returns how many tasks are read in batches, and how many requests a minute this saves at least."""
        lanes = [lane for lane in self._lanes.values() if lane.tasks and lane.health.is_open]
        singly = 60.0 / (self._policy.max_interval * (1 + JITTER_SHARE / 2))
        saved = sum(max(lane.tasks * singly - 60.0 / lane.spacing, 0.0) for lane in lanes)
        return sum(lane.tasks for lane in lanes), saved
