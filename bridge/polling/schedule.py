"""When each task is polled next: the rate limit, and the tasks that wait for their credential.

A due task whose credential has an open batch lane goes to that lane: see `lanes.py`.

Times are seconds of the monotonic clock. One timer is set for the next due task.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from math import inf
from typing import Protocol

from bridge.core.batch_lane import Lane
from bridge.core.model import Observation
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.due_heap import DueHeap
from bridge.polling.lane_schedule import RELEASED_AT_ONCE
from bridge.polling.lanes import Batch, BatchLanes
from bridge.polling.state import Credential, Phase, PolledTask

ADOPTED_WITHIN_SECONDS = 4.0  # the lease of a dead replica ends after 9 s, and the adoption takes up to 1 s more
TAKEN_OVER_AT_ONCE = 1_000  # tasks that one call moves to lanes or blocks: this takes 2 ms, then other work runs
SHORTEST_TIMER_SECONDS = 0.002
# Polls that are due within 0.2 s of a timer begin together with the next timer. A timer for one poll costs more than
# the poll, and results that come together share a commit. At 70 polls a second 0.2 s takes a fifth less CPU than
# 0.05 s, and ends are seen 0.08 s later. Above 160 polls a second a timer begins 32 polls: more at a time save nothing,
# and delay other work. With a rate limit, polls are evenly spaced instead.
TOGETHER_SECONDS = 0.2
TOGETHER_SHARE = 0.2  # of the interval: the most that a short interval may grow by
TOGETHER = 32

# amux counts arrivals, not our starts. A connection set-up or a stalled event loop can bring requests closer together
# on the way. 50 ms more than a second absorb that; they cost 5 % of the rate.
RATE_WINDOW_SECONDS = 1.05
# After a delay, starts may come earlier than evenly spaced by up to this: a tick is 50 ms, a timer 1 ms late.
CATCH_UP_SECONDS = 0.05


class RateLimiter:
    """Limits how fast requests begin: evenly spaced, and never more than the rate in one second.

    It has no clock: the time is passed in and never goes back. `rate` is starts a second, above 0. It may have a
    fraction: at 2.5 no second has more than 2 starts, and at 0.5 two starts are more than 2 s apart.
    """

    __slots__ = ("_earliest", "_starts", "_step", "_window", "last")

    def __init__(self, rate: float) -> None:
        self.last = Lane.SINGLE  # the lane of the last start: if both lanes wait, they take turns
        most = max(1, int(rate))
        self._window = RATE_WINDOW_SECONDS * max(1.0, 1.0 / rate)
        self._step = self._window / most
        self._starts: deque[float] = deque(maxlen=most)
        self._earliest = -inf

    def opens_at(self, now: float) -> float:
        """Returns when the next request may begin: at once if this is `now` or earlier."""
        starts = self._starts
        window = starts[0] + self._window if len(starts) == starts.maxlen else now
        return max(window, self._earliest - CATCH_UP_SECONDS)

    def begin(self, now: float, lane: Lane = Lane.SINGLE) -> None:
        """Count a start."""
        self.last = lane
        self._starts.append(now)
        self._earliest = max(self._earliest, now) + self._step


class ScheduleCallbacks(Protocol):
    """What the schedule calls of the Poller."""

    def wake(self) -> None:
        """Begin the due reads: the timer of the next task or lane has fired."""

    def wake_batches(self) -> None:
        """Begin a batch, because it comes before the next single read."""

    def expire(self, task: PolledTask, /) -> None:
        """Settle an overdue task without a last poll, because its credential is blocked."""


class PollSchedule:
    """Returns the tasks that may be polled now, the one with the oldest due time first.

    `rate_per_second` limits the requests of all lanes together; 0 is no limit. `random` draws from [0, 1). Without
    `lanes` no task is read in a batch.
    """

    def __init__(  # noqa: PLR0913  a rule each
        self,
        policy: PollPolicy,
        credentials: Credentials,
        callbacks: ScheduleCallbacks,
        *,
        rate_per_second: float,
        clock: Callable[[], float],
        random: Callable[[], float],
        lanes: BatchLanes | None = None,
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        self._callbacks = callbacks
        self._rate_limiter = RateLimiter(rate_per_second) if rate_per_second else None
        self._clock = clock
        self._random = random
        self._lanes = lanes
        self._heap = DueHeap()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._gap = 0.0 if rate_per_second else min(TOGETHER_SECONDS, TOGETHER_SHARE * policy.interval)
        self._fired_at = -inf  # when the last timer fired
        self._timer_interval = inf  # seconds between the last two timers
        self._begun = 0  # polls since the last timer
        self._waiting = False  # all due polls have begun, and the timer is set for the next one
        self._stopped = False

    def stop(self) -> None:
        """Return no more tasks."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> PolledTask | None:
        """Return the next task that may be polled now, in phase POLLING.

        If there is none, set the timer for the next due task.
        """
        now = self._clock()
        if self._stopped or (self._waiting and now < self._timer_at):
            return None  # the usual case after a poll
        limiter, lanes = self._rate_limiter, self._lanes
        if limiter is not None and lanes is not None and limiter.last is Lane.SINGLE and lanes.next_at() <= now:
            self._callbacks.wake_batches()  # the lanes take turns: a batch is next
        opens = now if limiter is None else limiter.opens_at(now)
        for _ in range(TAKEN_OVER_AT_ONCE):
            task = self._heap.pop_due(now) if opens <= now else None
            if task is None:
                self._waiting = True
                break
            credential = task.credential
            if credential.blocked and credential.probe is not task:
                self._block(task)
                continue
            if lanes is not None and lanes.take_over(task, now):
                continue
            if limiter is not None:
                limiter.begin(now)
            task.phase = Phase.POLLING
            self._begun += 1
            return task
        self._set_poll_timer(max(self._heap.next_due(), opens), now)
        if lanes is not None:
            self._set_timer(max(lanes.next_at(), opens), now)
        return None

    def is_due(self) -> bool:
        """Whether a task or a batch is due that is not read, because all workers are busy.

        Tasks that wait for the timer do not count.
        """
        now = self._clock()
        if not (self._waiting and now < self._timer_at) and self._heap.next_due() <= now:
            return True
        return self._lanes is not None and self._lanes.is_due(now)

    def take_batch(self) -> Batch | None:
        """Return the next batch that may be read now, its tasks in phase POLLING.

        If there is none, set the timer for the next one.
        """
        lanes, limiter = self._lanes, self._rate_limiter
        if self._stopped or lanes is None:
            return None
        now = self._clock()
        if limiter is None:
            opens = now
        elif limiter.last is Lane.BATCH and self._heap.next_due() <= now:
            return None  # the lanes take turns: a single read is next
        else:
            opens = limiter.opens_at(now)
        batch = lanes.take(now) if opens <= now else None
        if batch is None:
            self._set_timer(max(lanes.next_at(), opens), now)
        elif limiter is not None:
            limiter.begin(now, Lane.BATCH)
        return batch

    def schedule_at(self, task: PolledTask, due: float) -> None:
        """Poll a task at `due`, or later if its credential is blocked."""
        if task.credential.blocked:
            task.due = due
            self._block(task)
            return
        self._heap.put(task, due)  # as `schedule_single`, but inlined: this runs once for each poll
        if due < self._timer_at:
            self._set_poll_timer(due, self._clock())

    def schedule_next(self, task: PolledTask, due: float) -> None:
        """Keep a task in its batch lane, or poll it at `due` if it must be read singly."""
        if self._lanes is None or not self._lanes.rejoin(task):
            self.schedule_at(task, due)
        elif (next_at := self._lanes.next_at()) < self._timer_at:
            self._set_timer(next_at, self._clock())

    def schedule_single(self, task: PolledTask, due: float) -> None:
        """Poll a task singly at `due`. If its credential is blocked then, only the probe is polled."""
        if task.phase is Phase.BATCHED and self._lanes is not None:
            self._lanes.remove(task)
        self._heap.put(task, due)
        if due < self._timer_at:
            self._set_poll_timer(due, self._clock())

    def remove(self, task: PolledTask, phase: Phase) -> None:
        """Take a task out of the heap, its lane and its credential's waiting tasks, and set its new phase."""
        if task.phase is Phase.BATCHED and self._lanes is not None:
            self._lanes.remove(task)
        self._heap.remove(task)
        task.phase = phase
        credential = task.credential
        if credential.blocked:
            credential.waiting.pop(task, None)
            if credential.probe is task:
                credential.probe = None
            self.ensure_probe(credential)

    def update_credential(self, task: PolledTask, observation: Observation, now: float) -> None:
        """Apply an answer to the credential of `task`: block it, keep it blocked, or resume all its waiting tasks."""
        credential = task.credential
        was_probe = credential.probe is task
        resumed = self._credentials.note_answer(task, observation, now)
        if was_probe:
            credential.probe = None
        if resumed:
            waiting = list(credential.waiting)
            credential.waiting.clear()
            self.schedule_evenly(waiting)
            if self._lanes is not None:
                self._lanes.resume(credential, now)
                self._set_timer(self._lanes.next_at(), now)
        elif was_probe:
            self._choose_probe(credential)

    def schedule_evenly(self, tasks: list[PolledTask]) -> None:
        """Make tasks due evenly over one interval. A task's interval is the delay that its backoff has reached.

        If all tasks were spread over 5 s, tasks with an interval of 15 s would be polled in bursts.
        """
        now = self._clock()
        groups: dict[float, list[PolledTask]] = defaultdict(list)
        for task in tasks:
            groups[self._interval(task)].append(task)
        # Tasks with the same interval are a group. Tasks come in the order of their age, so those with a long interval
        # come first. If all were one group, the last tasks with a long interval would be due together with the first
        # ones with a short interval, at twice the rate.
        for interval, group in groups.items():
            for place, task in enumerate(group):
                self.schedule_at(task, now + (place + self._random()) / len(group) * interval)

    def schedule_loaded(self, tasks: list[PolledTask]) -> None:
        """Make loaded tasks due evenly over one interval.

        More than `RELEASED_AT_ONCE` tasks wait in their lanes, not in the heap.
        """
        if self._lanes is not None and len(tasks) > RELEASED_AT_ONCE:
            credentials = {task.credential for task in tasks}
            tasks = self._lanes.keep(tasks, self._clock())
            self.release_closed_lanes()
            for credential in credentials:
                self.ensure_probe(credential)
        self.schedule_evenly(tasks)

    def schedule_soon(self, task: PolledTask) -> None:
        """Make a task due at random within 4 s, or within one interval if that is shorter.

        This spreads tasks that are added together.
        """
        self.schedule_at(task, self._clock() + self._random() * min(self._interval(task), ADOPTED_WITHIN_SECONDS))

    def clear(self, tasks: Iterable[PolledTask]) -> None:
        """Drop tasks and all credentials."""
        for task in tasks:
            self._heap.remove(task)
            task.phase = Phase.DROPPED
        if self._lanes is not None:
            self._lanes.clear()
        self._credentials.clear()

    def release_closed_lanes(self) -> None:
        """Poll tasks singly whose batch lane has closed, or is small and late; call it at each tick."""
        if self._lanes is not None:
            for task, due in self._lanes.release(self._clock()):
                task.phase = Phase.SCHEDULED  # its lane has removed it already
                self.schedule_at(task, due)

    def _block(self, task: PolledTask) -> None:
        """Keep a task until its credential is good again. The first task that is kept becomes the probe."""
        credential = task.credential
        if task.overdue_at is not None:
            self._callbacks.expire(task)
        elif credential.probe is None or credential.probe is task:
            credential.probe = task
            self.schedule_single(task, max(credential.health.resumes_at, self._clock()))
        else:
            task.phase = Phase.BLOCKED
            credential.waiting[task] = None

    def ensure_probe(self, credential: Credential) -> None:
        """Choose a probe for a blocked credential that has none.

        A credential without tasks may have been replaced by a new one with the same key, which has its lane now.
        """
        is_replaced = credential.lane is not None and credential.lane.credential is not credential
        if credential.blocked and credential.probe is None and not is_replaced:
            self._choose_probe(credential)

    def _choose_probe(self, credential: Credential) -> None:
        """Make the task that has waited longest the probe. A task with its own error must not stay the probe."""
        credential.probe = next(iter(credential.waiting), None)
        if credential.probe is not None:
            del credential.waiting[credential.probe]
        elif credential.lane is not None:
            credential.probe = credential.lane.pop()
        if credential.probe is not None:
            credential.probe.phase = Phase.BLOCKED  # so that `schedule_single` does not remove it from a lane
            self.schedule_single(credential.probe, max(credential.health.resumes_at, self._clock()))

    def _interval(self, task: PolledTask) -> float:
        # At least one interval: with a first delay of 0, all tasks would be due at once after a restart.
        return max(self._policy.delay_after(task.steps, 0.0), self._policy.interval)

    def _set_poll_timer(self, due: float, now: float) -> None:
        """Sets the timer for `due`, or later: between two timers, up to `TOGETHER` polls become due."""
        gap = min(self._gap, TOGETHER * self._timer_interval / max(self._begun, 1))
        self._set_timer(max(due, self._fired_at + gap), now)

    def _set_timer(self, moment: float, now: float) -> None:
        if moment >= self._timer_at or self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = moment
        delay = max(moment - now, SHORTEST_TIMER_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer, self._timer_at, self._waiting = None, inf, False
        now = self._clock()
        self._timer_interval, self._fired_at, self._begun = now - self._fired_at, now, 0
        self._callbacks.wake()
