"""Planted bugs: changes of the bridge's source that the simulation must find. Each is made in a process of its own."""

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutation:
    """`old` occurs once in a module and becomes `new`. The simulation finds it within so many seeds from 0 on."""

    name: str
    module: str
    old: str
    new: str
    seeds: int

    @property
    def path(self) -> Path:
        """The file of the module."""
        return ROOT / f"{self.module.replace('.', '/')}.py"


MUTATIONS = (
    Mutation(
        "watches that have ended are settled again: no WHERE state = 'active'",
        "bridge.store.settlement",
        '.where(IS_ACTIVE, watches.c.task.in_([bind["task"] for bind in binds]))',
        '.where(watches.c.task.in_([bind["task"] for bind in binds]))',
        150,
    ),
    Mutation(
        "a registration is answered before its commit",
        "bridge.store.group_commit",
        "                await self._runner.submit(partial(self._execute, batch))\n",
        "                running = self._runner.submit(partial(self._execute, batch))\n"
        "                if any(call.operation.__name__ == 'register' for call in batch):\n"
        "                    self._transaction(lambda c: (_execute_grouped(c, batch), c.rollback()))\n"
        "                    self._resolve(batch)\n"
        "                await running\n",
        150,
    ),
    Mutation(
        "the lease fence is dropped: a write does not check the task's owner and its epoch",
        "bridge.store.replicas",
        "        .join(_LOCKED_REPLICA, _LOCKED_REPLICA.c.id == unindexed(tasks.c.owner))\n"
        "        .where(\n"
        "            tasks.c.closed_at.is_(None),\n"
        '            tasks.c.id.in_([bind["task"] for bind in binds]),\n'
        '            _LOCKED_REPLICA.c.epoch == bindparam("epoch"),\n'
        "        )\n"
        "        .order_by(tasks.c.id)\n"
        "        .with_for_update(of=tasks)\n"
        "    ),\n"
        '    ("replica", "epoch"),\n',
        '        .where(tasks.c.closed_at.is_(None), tasks.c.id.in_([bind["task"] for bind in binds]))\n'
        "        .order_by(tasks.c.id)\n"
        "        .with_for_update(of=tasks)\n"
        "    ),\n"
        '    ("replica", "epoch"),\n',
        1500,
    ),
    Mutation(
        "the end of a watch does not stop its status events",
        "bridge.store.ending",
        '    pending = connection.execute(_PENDING, {"those": asked}).scalars().all() if asked else ()\n',
        "    pending = ()\n",
        750,
    ),
    Mutation(
        "claims are not released at the start",
        "bridge.store.replicas",
        '    connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})\n    return Replica(name, epoch + 1',
        "    return Replica(name, epoch + 1",
        1500,
    ),
    Mutation(
        "a dead replica's claims are not released",
        "bridge.store.replicas",
        '        connection.execute(_RAISE_EPOCH, {"replica": name})\n'
        '        connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})\n',
        '        connection.execute(_RAISE_EPOCH, {"replica": name})\n',
        750,
    ),
    Mutation(
        "a task whose registration was committed late is not polled",
        "bridge.service.jobs",
        "            store.on_late_task = self._late_tasks.append",
        "            pass",
        900,
    ),
    Mutation(
        "`status_update_due` is cleared after the write",
        "bridge.polling.result_writer",
        "            self._refused.report_success()\n            self._publish(write, changed)\n",
        "            self._refused.report_success()\n"
        "            task.status_update_due = False\n"
        "            self._publish(write, changed)\n",
        500,
    ),
    Mutation(
        "the record of an attempt does not check the claim",
        "bridge.store.outbox",
        "    found = select(*columns).where(outbox.c.id.in_(ids), _CLAIM_KEY.in_(claims))\n",
        "    found = select(*columns).where(outbox.c.id.in_(ids))\n",
        1500,
    ),
    Mutation(
        "a retry that is requested during an attempt is forgotten",
        "bridge.store.outbox",
        "    requested = {claim for claim, set_at in marks.items() if set_at == RETRY_REQUESTED}\n",
        "    requested = set()\n",
        150,
    ),
    Mutation(
        "a live failure is not confirmed",
        "bridge.core.watch",
        "    if not observation.live or (doubt is not None and began >= doubt.since + interval):\n",
        "    if True:\n",
        100,
    ),
    Mutation(
        "a failed attempt is due again at once",
        "bridge.store.outbox",
        "(items[claim].delivery_id, at, items[claim].at, None, None) for claim, at in again.items() if claim in marks",
        "(items[claim].delivery_id, items[claim].at, items[claim].at, None, None) for claim in again if claim in marks",
        150,
    ),
    Mutation(
        "a settlement that the store refuses is dropped",
        "bridge.polling.result_writer",
        "        self._refused.add(write.task, write, retried=write.retried)\n",
        "        self._give_back(write.task, closed=True)\n        return\n",
        600,
    ),
    Mutation(
        "a cancellation at another replica does not reach the owner",
        "bridge.store.settlement",
        '        changed_elsewhere=and_(tasks.c.owner.is_not(None), bindparam("shared", type_=Boolean)),\n',
        '        changed_elsewhere=and_(tasks.c.owner.is_(None), bindparam("shared", type_=Boolean)),\n',
        750,
    ),
    Mutation(
        "a watch times out a minute after its deadline",
        "bridge.polling.result_writer",
        "        if watch.deadline_at <= began_at:\n",
        "        if watch.deadline_at + 60 <= began_at:\n",
        100,
    ),
    Mutation(
        "a dead replica's tasks are not adopted",
        "bridge.store.replicas",
        "    if dead:\n        found.update(",
        "    if False:\n        found.update(",
        150,
    ),
    Mutation(
        "tasks are kept after the lease has ended",
        "bridge.polling.poller",
        "        self._schedule.clear(self._tasks.values())\n        self._tasks.clear()\n",
        "        return\n",
        150,
    ),
    Mutation(
        "410 does not end a delivery",
        "bridge.core.delivery",
        "GONE = 410",
        "GONE = 418",
        100,
    ),
)


class _MutatedLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, mutation: Mutation) -> None:
        super().__init__(mutation.module, str(mutation.path))
        self._mutation = mutation

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        source = self._mutation.path.read_text()
        if source.count(self._mutation.old) != 1:
            raise ImportError(
                f"{self._mutation.name}: the text to change is there {source.count(self._mutation.old)} times"
            )
        return compile(source.replace(self._mutation.old, self._mutation.new), str(self._mutation.path), "exec")


class _Finder:
    """Finds the one module that is changed."""

    def __init__(self, mutation: Mutation) -> None:
        self._mutation = mutation

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutation.module:
            return None
        return importlib.util.spec_from_file_location(name, self._mutation.path, loader=_MutatedLoader(self._mutation))


def plant(name: str) -> None:
    """Change the source of the bridge for this process. Call it before the bridge is imported."""
    [mutation] = [one for one in MUTATIONS if one.name == name]
    sys.meta_path.insert(0, _Finder(mutation))
