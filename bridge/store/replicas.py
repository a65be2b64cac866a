"""Which replica polls which task: leases, epochs, taking over and handing over.

The functions are operations (see `group_commit.py`), and locks for other operations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, exists, insert, literal_column, select, true, update

from bridge.core.errors import LostClaim, StoreUnavailable
from bridge.store.bulk_statements import BulkQuery, Query
from bridge.store.database import Database
from bridge.store.records import TaskView
from bridge.store.row_mapping import task_view
from bridge.store.schema import outbox, replicas, tasks, unindexed

LOCAL = "local"  # the one replica of an SQLite file; it keeps its tasks over a restart
LEASE_SECONDS = 9.0  # a dead replica's tasks are polled again within 15 s: others check all leases each second
LEAVING = -1  # the value of `owned_tasks` for a replica that takes no more tasks


@dataclass(frozen=True, slots=True)
class Replica:
    """This process, as the database knows it. It owns its tasks as long as its row has this epoch."""

    id: str
    epoch: int
    shared: bool
    now: Callable[[], float]  # Unix seconds by the database's clock
    new_lease: Callable[[], str]
    joined_at: float  # by the clock of running seconds; the first lease begins at this time

    @property
    def identity(self) -> tuple[str, int]:
        """The id and the epoch. Claims that were made under another identity are lost."""
        return self.id, self.epoch


_LOCK_EPOCH = (
    select(replicas.c.epoch)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True)  # a replica that raises the epoch waits for the transactions that have this lock
)
_LOCKED_REPLICA = (
    select(replicas.c.id, replicas.c.epoch)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True)
    .cte("locked_replica")
)
_LOCK_OWN = BulkQuery(
    ("task",),
    lambda binds: (
        select(tasks.c.id)
        # Unindexed: with the index of owners, SQLite would read all open tasks of the owner.
        .join(_LOCKED_REPLICA, _LOCKED_REPLICA.c.id == unindexed(tasks.c.owner))
        .where(
            tasks.c.closed_at.is_(None),
            tasks.c.id.in_([bind["task"] for bind in binds]),
            _LOCKED_REPLICA.c.epoch == bindparam("epoch"),
        )
        .order_by(tasks.c.id)
        .with_for_update(of=tasks)
    ),
    ("replica", "epoch"),
)


def holds_claim(connection: Connection, replica: Replica) -> bool:
    """Whether the replica still owns its tasks. If so, no other replica can take them before this transaction ends."""
    epoch = connection.execute(_LOCK_EPOCH, {"replica": replica.id}).scalar_one_or_none()
    return epoch == replica.epoch


def lock_own(connection: Connection, replica: Replica, task_rows: Sequence[str]) -> set[str]:
    """Returns the ids of the tasks that are open and owned by the replica. They stay so until this transaction ends."""
    keys = [(row,) for row in sorted(set(task_rows))]
    return {row.id for row in _LOCK_OWN.fetch(connection, keys, replica.id, replica.epoch)}


_FIND_EPOCH = select(replicas.c.epoch).where(replicas.c.id == bindparam("replica"))
_INSERT = insert(replicas)
_RAISE_EPOCH = update(replicas).where(replicas.c.id == bindparam("replica")).values(epoch=replicas.c.epoch + 1)
_RELEASE_CLAIMS = (
    update(outbox)
    .where(outbox.c.holder == bindparam("replica"))
    .values(lease=None, holder=None, due_at=bindparam("now"), set_at=bindparam("now"))
)


def join(connection: Connection, database: Database) -> Replica:
    """Writes the row of this replica; returns the replica. It gets a new id on PostgreSQL, the next epoch on SQLite."""
    name = f"rep_{database.new_token()}" if database.shared else LOCAL
    joined_at = database.system.running()  # before the lease's end is computed: the process may pause at any line
    now = database.now()
    epoch = connection.execute(_FIND_EPOCH, {"replica": name}).scalar_one_or_none()
    if epoch is None:
        row = {"id": name, "epoch": 1, "started_at": now, "owned_tasks": 0, "probed": 0}
        connection.execute(_INSERT, row | {"expires_at": now + LEASE_SECONDS})
        return Replica(name, 1, database.shared, database.now, database.new_token, joined_at)
    connection.execute(_RAISE_EPOCH, {"replica": name})
    # No other process uses this file, so the deliveries that the last process had claimed are due now.
    connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})
    return Replica(name, epoch + 1, database.shared, database.now, database.new_token, joined_at)


_RENEW = (
    update(replicas)
    .where(replicas.c.id == bindparam("replica"), replicas.c.epoch == bindparam("our_epoch"))
    .values(expires_at=bindparam("until"), owned_tasks=bindparam("owned"))
)


def renew(connection: Connection, replica: Replica, owned_tasks: int) -> None:
    """Renew the replica's lease: one row for all its tasks. Raises LostClaim if another replica has taken the tasks."""
    parameters = {"replica": replica.id, "our_epoch": replica.epoch, "owned": owned_tasks}
    if not connection.execute(_RENEW, parameters | {"until": replica.now() + LEASE_SECONDS}).rowcount:
        raise _taken_over()


def _taken_over() -> LostClaim:
    return LostClaim("another replica has taken over the tasks of this replica")


_PROBE = update(replicas).where(replicas.c.id == bindparam("replica")).values(probed=1 - replicas.c.probed)


def probe(connection: Connection, replica: Replica) -> None:
    """Write one small value, to test writing. Raises StoreUnavailable if the replica's row is missing."""
    if not connection.execute(_PROBE, {"replica": replica.id}).rowcount:
        raise StoreUnavailable("this replica is unknown to the database")


# --- taking over --------------------------------------------------------------------------------------------------

_LOCK_DEAD = (
    select(replicas.c.id)
    .where(replicas.c.expires_at < bindparam("now"), replicas.c.id != bindparam("replica"))
    .order_by(replicas.c.id)
    .with_for_update(skip_locked=True)
)
# The order is that of the index on owners. In another order PostgreSQL reads every open task, 11 ms for 20,000.
_LOCK_UNOWNED = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.owner.is_(None))
    .order_by(tasks.c.owner)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_LOCK_ORPHANED = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.owner.in_(bindparam("dead", expanding=True)))
    .order_by(tasks.c.owner)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_LOCK_CHANGED = (
    select(tasks.c.id)
    .where(tasks.c.owner == bindparam("replica"), tasks.c.changed_elsewhere)
    .order_by(tasks.c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_TAKE_OVER = (
    update(tasks)
    .where(tasks.c.id.in_(bindparam("ids", expanding=True)))
    .values(owner=bindparam("replica"), changed_elsewhere=False)
    .returning(tasks)
)
_DELETE_DEAD = delete(replicas).where(
    replicas.c.id.in_(bindparam("dead", expanding=True)),
    ~exists(select(tasks.c.id).where(tasks.c.owner == replicas.c.id, tasks.c.closed_at.is_(None))),
)


def adopt(connection: Connection, replica: Replica, limit: int) -> list[TaskView]:
    """Take over tasks that no replica polls, and reload own tasks that changed: up to `limit` of each kind.

    An own task has changed when another replica gave it to this one or registered a watch that asks for its status, or
    when a cancellation closed it, at any replica. A closed task of the result is marked as closed.
    Raises LostClaim if another replica has taken the tasks of this one.
    """
    now = replica.now()
    if not holds_claim(connection, replica):
        raise _taken_over()
    dead = list(connection.execute(_LOCK_DEAD, {"now": now, "replica": replica.id}).scalars())
    for name in dead:  # first: if the dead replica continues, it can write nothing from now on
        connection.execute(_RAISE_EPOCH, {"replica": name})
        connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})
    found = set(connection.execute(_LOCK_UNOWNED, {"most": limit}).scalars())
    if dead:
        found.update(connection.execute(_LOCK_ORPHANED, {"dead": dead, "most": limit}).scalars())
    found.update(connection.execute(_LOCK_CHANGED, {"replica": replica.id, "most": limit}).scalars())
    rows = connection.execute(_TAKE_OVER, {"ids": sorted(found), "replica": replica.id}).all() if found else []
    if dead:
        connection.execute(_DELETE_DEAD, {"dead": dead})
    return [task_view(row, row.id)._replace(status_update_due=row.wants_status) for row in rows]


# --- handing over -------------------------------------------------------------------------------------------------

_GIVE_UP_TASKS = (
    update(tasks).where(tasks.c.owner == bindparam("replica"), tasks.c.closed_at.is_(None)).values(owner=None)
)
_TAKE_NO_MORE = update(replicas).where(replicas.c.id == bindparam("replica")).values(owned_tasks=LEAVING)
_DELETE = delete(replicas).where(replicas.c.id == bindparam("replica"))


def hand_over(connection: Connection, replica: Replica) -> None:
    """Releases all tasks of the replica, which gets no new ones from now on. Its claims on deliveries stay."""
    connection.execute(_TAKE_NO_MORE, {"replica": replica.id})
    connection.execute(_GIVE_UP_TASKS, {"replica": replica.id})


def leave(connection: Connection, replica: Replica) -> None:
    """Release all claims on deliveries. On a shared database also release the tasks and delete the replica's row."""
    connection.execute(_RELEASE_CLAIMS, {"replica": replica.id, "now": replica.now()})
    if replica.shared:
        # The row first: this waits for replicas that are assigning a task to it, so that these tasks are released too.
        connection.execute(_DELETE, {"replica": replica.id})
        connection.execute(_GIVE_UP_TASKS, {"replica": replica.id})


# --- the owner of a new task --------------------------------------------------------------------------------------

_others = replicas.alias("others")
_least_loaded = (
    select(_others.c.id, _others.c.owned_tasks)
    .where(
        _others.c.id != bindparam("replica"),
        _others.c.expires_at > bindparam("now"),
        _others.c.owned_tasks > LEAVING,
    )
    .order_by(_others.c.owned_tasks, _others.c.id)
    .limit(literal_column("1"))
    .subquery("least_loaded")
)
_LOADS = Query(
    select(
        *(replicas.c.epoch, replicas.c.expires_at, replicas.c.owned_tasks),
        *(_least_loaded.c.id.label("other"), _least_loaded.c.owned_tasks.label("others_tasks")),
    )
    .join_from(replicas, _least_loaded, true(), isouter=True)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True, of=replicas),  # as in _LOCK_EPOCH
    *("replica", "now"),
)
# No replica may delete the owner's row before the task is committed. Otherwise no replica would take the task over. A
# renewal of the row does not wait for this lock.
_LOCK_LIVE = (
    select(replicas.c.id)
    .where(replicas.c.id == bindparam("replica"), replicas.c.expires_at > bindparam("now"))
    .with_for_update(read=True, key_share=True)
)
UNEVEN = 1.25  # a replica assigns new tasks to the least loaded one if it has a quarter more tasks than that one
SMALL = 20  # and at least 20 more, because a small difference does not matter


def owner_of_new(connection: Connection, replica: Replica) -> str | None:
    """Returns the id of the replica that will poll a new task: this one, or one with clearly fewer tasks.

    Returns None if another replica has taken this one's tasks. The owner stays the owner until this transaction ends.
    """
    now = replica.now()
    found = _LOADS.all(connection, replica.id, now)
    if not found or found[0].epoch != replica.epoch:
        return None
    [loads] = found
    may_own = loads.owned_tasks > LEAVING and loads.expires_at > now
    if loads.other is None or (may_own and loads.owned_tasks <= loads.others_tasks * UNEVEN + SMALL):
        return replica.id
    locked = connection.execute(_LOCK_LIVE, {"replica": loads.other, "now": now}).first()
    return replica.id if locked is None else str(loads.other)
