"""When each task is polled next: the heap, the pace, and the credentials that rest. One timer rings for them all."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from math import inf

from bridge.core.model import Observation
from bridge.core.schedule import PollPolicy
from bridge.polling.credentials import Credentials
from bridge.polling.pace import RateLimiter
from bridge.polling.state import Credential, DueHeap, Phase, PolledTask

TAKEN_OVER_WITHIN_SECONDS = 4.0  # 9 s of a dead replica's lease and 1 s of others' looks went by before
SHORTEST_TIMER_SECONDS = 0.002  # what falls due within it begins together: one timer for many polls


class PollSchedule:
    """Gives out the tasks that may be polled now, the longest due first.

    `ring` is called when one is due again; `expired` gets an overdue task whose credential rests: no last poll is
    possible. `random` draws from [0, 1).
    """

    def __init__(  # noqa: PLR0913  a rule each
        self,
        policy: PollPolicy,
        credentials: Credentials,
        *,
        rate_per_second: float,
        clock: Callable[[], float],
        random: Callable[[], float],
        ring: Callable[[], None],
        expired: Callable[[PolledTask], None],
    ) -> None:
        self._policy = policy
        self._credentials = credentials
        self._rate_limiter = RateLimiter(rate_per_second) if rate_per_second else None
        self._clock = clock
        self._random = random
        self._ring = ring
        self._expired = expired
        self._schedule = DueHeap()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = inf
        self._stopped = False

    def stop(self) -> None:
        """Give out nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> PolledTask | None:
        """The next task that may be polled now, in phase POLLING; else None, and the timer is set for it."""
        if self._stopped:
            return None
        now = self._clock()
        pace = self._rate_limiter
        opens = now if pace is None else pace.opens_at(now)
        while opens <= now:
            task = self._schedule.pop_due(now)
            if task is None:
                break
            credential = task.credential
            if credential.resting and credential.probe is not task:
                self.hold(task)
                continue
            if pace is not None:
                pace.begin(now)
            task.phase = Phase.POLLING
            return task
        self._arm(max(self._schedule.next_due(), opens), now)
        return None

    def plan(self, task: PolledTask, due: float) -> None:
        """Poll a task at a moment, or later while its credential rests."""
        if task.credential.resting:
            task.due = due
            self.hold(task)
            return
        self._schedule.put(task, due)  # as `put`, without its call: once a poll
        if due < self._armed_for:
            self._arm(due, self._clock())

    def put(self, task: PolledTask, due: float) -> None:
        """Poll a task at a moment."""
        self._schedule.put(task, due)
        if due < self._armed_for:
            self._arm(due, self._clock())

    def hold(self, task: PolledTask) -> None:
        """Keep a task until its credential is good again; the first that is kept is the one that asks."""
        credential = task.credential
        if task.overdue_at is not None:
            self._expired(task)
        elif credential.probe is None or credential.probe is task:
            credential.probe = task
            self.put(task, max(credential.resumes_at, self._clock()))
        else:
            task.phase = Phase.HELD
            credential.held[task] = None

    def leave(self, task: PolledTask, phase: Phase) -> None:
        """Take a task out of the heap and of its credential's hands, for another phase."""
        self._schedule.withdraw(task)
        task.phase = phase
        credential = task.credential
        if credential.resting:
            credential.held.pop(task, None)
            if credential.probe is task:
                self._next_probe(credential)

    def judge(self, task: PolledTask, said: Observation, now: float) -> None:
        """Let an answer to a poll of `task` count for its credential: rest, go on resting, or wake all it holds."""
        credential = task.credential
        probing = credential.probe is task
        resumed = self._credentials.judge(task, said, now)
        if probing:
            credential.probe = None
        if resumed:
            held = list(credential.held)
            credential.held.clear()
            self.spread(held)
        elif probing:
            self._next_probe(credential)

    def spread(self, tasks: list[PolledTask]) -> None:
        """Make tasks due evenly over one interval, each over its own: as if they had never stopped.

        Over five seconds alone, tasks that are polled every 15 s would come back in three bursts a minute.
        """
        now = self._clock()
        groups: dict[float, list[PolledTask]] = defaultdict(list)
        for task in tasks:
            groups[self._span(task)].append(task)
        # Each interval's tasks by themselves: tasks come in the order of their age, and so do their intervals. Spread
        # in one row, the last of the longer ones would fall among the first of the others, at twice the rate.
        for span, group in groups.items():
            for place, task in enumerate(group):
                self.plan(task, now + (place + self._random()) / len(group) * span)

    def schedule_soon(self, task: PolledTask) -> None:
        """Make a task due soon, but not at once: for tasks that come one by one and many at a time."""
        self.plan(task, self._clock() + self._random() * min(self._span(task), TAKEN_OVER_WITHIN_SECONDS))

    def try_new_key(self, configured_key: Callable[[], str | None]) -> None:
        """Ask at once when the configured key that was refused has been replaced."""
        probe = self._credentials.probe_of_new_key(configured_key)
        if probe is not None:
            self.put(probe, self._clock())

    def forget(self, tasks: Iterable[PolledTask]) -> None:
        """Drop tasks, the credentials with them."""
        for task in tasks:
            self._schedule.withdraw(task)
            task.phase = Phase.DROPPED
        self._credentials.forget()

    def _span(self, task: PolledTask) -> float:
        # A first delay of nothing must not make a restart a burst.
        return max(self._policy.delay_after(task.steps, 0.0), self._policy.interval)

    def _next_probe(self, credential: Credential) -> None:
        """The one that has been held for longest asks next: a task with a trouble of its own must not ask for all."""
        credential.probe = next(iter(credential.held), None)
        if credential.probe is not None:
            del credential.held[credential.probe]
            self.put(credential.probe, max(credential.resumes_at, self._clock()))

    def _arm(self, moment: float, now: float) -> None:
        if moment >= self._armed_for or self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = moment
        delay = max(moment - now, SHORTEST_TIMER_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer, self._armed_for = None, inf
        self._ring()
