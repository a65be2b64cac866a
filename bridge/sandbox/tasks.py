"""The tasks of the account, and amux's records of the tasks with a platform."""

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from bridge.sandbox.behaviour import Behaviour, VendorAnswer, implied_by
from bridge.sandbox.forms import Task, TaskView, view_at
from bridge.sandbox.records import Record, is_forgotten, record_of, refresh, sweep, vendor_view
from bridge.sandbox.sweep import Sweep
from bridge.sandbox.vendors import Reply


class Tasks:
    """All tasks by id. `clock` is monotonic, in seconds.

    `vendor_requests` counts, by task id, the requests to vendors that status requests have caused. `vendor_outage` is
    every vendor's answer while it is set.
    """

    def __init__(self, clock: Callable[[], float], default: Behaviour, sweep: Sweep) -> None:
        self.vendor_requests: Counter[str] = Counter()
        self.vendor_outage: VendorAnswer | None = None
        self._clock = clock
        self._unix = time.time() - clock()  # the times in bodies follow the tests' clock
        self._default = default
        self._sweep = sweep
        self._tasks: dict[str, Task] = {}
        self._records: dict[str, Record] = {}
        self._rows = itertools.count(1)

    def unix_now(self) -> float:
        """Returns the time in Unix seconds, by the clock."""
        return self._unix + self._clock()

    def create(self, behaviour: Behaviour, task_id: str | None, model: str, prompt: str) -> Task:
        """Creates a task; its id is `task_` and 32 characters if none is given."""
        task_id = task_id or f"task_{secrets.token_hex(16)}"
        now = self._clock()
        task = Task(task_id, next(self._rows), model, prompt, behaviour, now, self._unix + now)
        self._put(task)
        return task

    def change(self, task_id: str, behaviour: Behaviour) -> None:
        """Changes the behaviour of a task; its age and amux's record stay. Raises KeyError for an unknown task."""
        task = replace(self._tasks[task_id], behaviour=behaviour)
        record = self._records.get(task_id)
        if record is not None and record.platform is behaviour.platform:
            self._tasks[task_id] = record.task = task
            record.vendor_requests = 0
        else:
            self._put(task)

    def _put(self, task: Task) -> None:
        self._tasks[task.task_id] = task
        self._records.pop(task.task_id, None)
        self._sweep.drop(task.task_id)
        if task.behaviour.platform is not None:
            record = record_of(task, task.behaviour.platform)
            self._records[task.task_id] = record
            self._sweep.follow(record)

    def find(self, task_id: str) -> Task | None:
        """Returns the task; None if there is none or if it is not found yet because of `late_seconds`.

        If the id describes a task, such as `sandbox_0_1000_completed_17`, the first call creates the task.
        """
        task = self._tasks.get(task_id)
        if task is None:
            behaviour = implied_by(task_id, self._default)
            if behaviour is None:
                return None
            task = self.create(behaviour, task_id, "m", "")
        return task if self._clock() - task.created_clock >= task.behaviour.late_seconds else None

    def view(self, task: Task, base_url: str) -> TaskView:
        """Returns a task as it is now."""
        return view_at(task, self._clock() - task.created_clock, base_url)

    def record(self, task: Task, base_url: str) -> Record | None:
        """Returns amux's record of a task as the last sweep left it; None for a task without a platform."""
        for each, at in self._sweep.visits(self._clock()):
            sweep(
                each,
                self._ask_vendor(each, at, base_url, uses_up=not each.vendor.live),
                int(self._unix + at),
                base_url,
            )
            self._sweep.follow(each)
        return self._records.get(task.task_id)

    def ask_now(self, record: Record, base_url: str) -> bool:
        """Asks a live task's vendor, as a status request does. Returns whether amux could read the answer."""
        self.vendor_requests[record.task.task_id] += 1
        now = self._clock()
        reply = self._ask_vendor(record, now, base_url, uses_up=True)
        if reply is None:
            return False
        refresh(record, reply, int(self._unix + now), base_url)
        self._sweep.follow(record)
        return True

    def _ask_vendor(self, record: Record, at: float, base_url: str, *, uses_up: bool) -> Reply | None:
        """Returns what amux reads in the vendor's answer. With `uses_up` it uses the next of `vendor_answers` up."""
        turn = record.vendor_requests if uses_up else len(record.task.behaviour.vendor_answers)
        record.vendor_requests += uses_up
        age = at - record.task.created_clock
        view = vendor_view(record, age, base_url)
        answer = self.vendor_outage or record.task.behaviour.vendor_answer_at(turn)
        return record.vendor.reply(view, answer, forgotten=is_forgotten(record, age))
