"""Loads tasks from the store into memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.aio.clocks import Clocks
from bridge.core.schedule import PollEstimate, PollPolicy
from bridge.polling.credentials import Credentials, load_keys
from bridge.polling.state import PolledTask
from bridge.polling.task_classes import TaskClasses
from bridge.store.records import TaskView
from bridge.store.store import Store


class TaskLoader:
    """Makes the tasks in memory. `tasks` has them by the ids of their rows."""

    def __init__(  # noqa: PLR0913, PLR0917  its collaborators
        self,
        store: Store,
        tasks: dict[str, PolledTask],
        credentials: Credentials,
        classes: TaskClasses,
        policy: PollPolicy,
        clocks: Clocks,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._credentials = credentials
        self._classes = classes
        self._estimate = PollEstimate(policy)
        self._clocks = clocks
        self._noting: list[set[str]] = []

    @contextmanager
    def noting_dropped(self) -> Iterator[set[str]]:
        """Yields a set of the rows of tasks that are dropped during the block.

        A query that began earlier may still return these tasks.
        """
        dropped: set[str] = set()
        self._noting.append(dropped)
        try:
            yield dropped
        finally:
            self._noting = [noting for noting in self._noting if noting is not dropped]

    def note_dropped(self, task_row: str) -> None:
        """Add a task, which has closed in the store or has another owner, to the sets of `noting_dropped`."""
        for dropped in self._noting:
            dropped.add(task_row)

    async def load(self) -> tuple[list[PolledTask], list[str]]:
        """Load the own open tasks that are not in memory. Raises StoreUnavailable.

        Returns these tasks, and the row ids of tasks in memory that are not own open tasks any more. The second list
        has tasks whose closing transaction was committed, but whose answer did not arrive.
        """
        replica, known = self._store.replica, dict.fromkeys(self._tasks)
        with self.noting_dropped() as dropped:
            rows = await self._store.own_tasks()
            keys = await load_keys(self._store, rows)
        if self._store.replica is not replica:
            return [], []  # the tasks belong to an earlier id of this replica: other replicas adopt them
        found = []
        now, offset = self._clocks.monotonic(), self._clocks.offset()
        rows.reverse()
        while rows:  # each row is dropped at once: a million rows beside a million tasks would take twice the memory
            row = rows.pop()
            known.pop(row.row, None)
            if (task := self._tasks.get(row.row)) is None:
                if row.row not in dropped:
                    found.append(self._create(row, keys.get(row.credential), now, offset))
            elif row.status_update_due:
                task.request_status_update()
        return found, list(known)

    def create(self, row: TaskView, api_key: str | None) -> PolledTask:
        """Make a task in memory. `api_key` is the key of a credential other than the configured one."""
        return self._create(row, api_key, self._clocks.monotonic(), self._clocks.offset())

    def _create(self, row: TaskView, api_key: str | None, now: float, offset: float) -> PolledTask:
        """Make a task at the moment `now`. `offset` is that of the clocks: to read them takes 1 µs."""
        credential = self._credentials.add_task(row.credential, api_key)
        task = PolledTask(row.row, row.task_id, credential, row.snapshot, row.polls)
        if row.last_polled_at is not None:
            task.started = row.last_polled_at + offset
        if row.polls:
            ago = 0.0 if task.started is None else now - task.started
            task.unstored_polls = self._estimate.after(row.polls, ago) - row.polls
        task.status_update_due = row.status_update_due
        born = now if row.opened_at is None else row.opened_at + offset
        self._classes.start(task, row.facts, born, offset)
        self._tasks[row.row] = task
        return task
