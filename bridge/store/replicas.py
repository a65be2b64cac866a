"""Which replica polls which task: leases, epochs, taking over and handing over.

Operations (see group_commit.py) and the locks that other operations take.
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

LOCAL = "local"  # the one replica of an SQLite file; its tasks stay its own over a restart
LEASE_SECONDS = 9.0  # another replica polls a dead one's tasks within 15 s: after the lease it looks every second
LEAVING = -1  # the value of `owned_tasks` for a replica that takes no more tasks


@dataclass(frozen=True, slots=True)
class Replica:
    """This process, as the database knows it. Its claim to its tasks holds while its row has this epoch."""

    id: str
    epoch: int
    shared: bool
    now: Callable[[], float]  # Unix seconds by the database's clock
    new_lease: Callable[[], str]
    joined_at: float  # by this process's clock of running seconds: its first lease counts from then

    @property
    def identity(self) -> tuple[str, int]:
        """The id and the epoch. A claim that was made under another identity is lost."""
        return self.id, self.epoch


_LOCK_EPOCH = (
    select(replicas.c.epoch)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True)  # shared: a replica that raises the epoch waits for the writes that still rely on it
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
        # By its index SQLite would read all open tasks of the owner.
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
    """Whether the replica's claim to its tasks holds; if so, it holds until this transaction ends."""
    epoch = connection.execute(_LOCK_EPOCH, {"replica": replica.id}).scalar_one_or_none()
    return epoch == replica.epoch


def lock_own(connection: Connection, replica: Replica, task_rows: Sequence[str]) -> set[str]:
    """Returns those of the tasks that are open and the replica's own; both stay so until this transaction ends."""
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
    """Join: with a new id where there may be other replicas, else under the local name with the next epoch."""
    name = f"rep_{database.new_token()}" if database.shared else LOCAL
    joined_at = database.system.running()  # before the lease's end is computed: the process may stop at any line
    now = database.now()
    epoch = connection.execute(_FIND_EPOCH, {"replica": name}).scalar_one_or_none()
    if epoch is None:
        row = {"id": name, "epoch": 1, "started_at": now, "owned_tasks": 0, "probed": 0}
        connection.execute(_INSERT, row | {"expires_at": now + LEASE_SECONDS})
        return Replica(name, 1, database.shared, database.now, database.new_token, joined_at)
    connection.execute(_RAISE_EPOCH, {"replica": name})
    # No other process sends from this file: what the last process had claimed when it ended is due now.
    connection.execute(_RELEASE_CLAIMS, {"replica": name, "now": now})
    return Replica(name, epoch + 1, database.shared, database.now, database.new_token, joined_at)


_RENEW = (
    update(replicas)
    .where(replicas.c.id == bindparam("replica"), replicas.c.epoch == bindparam("our_epoch"))
    .values(expires_at=bindparam("until"), owned_tasks=bindparam("owned"))
)


def renew(connection: Connection, replica: Replica, owned_tasks: int) -> None:
    """Renew the replica's lease: one row for all its tasks. Raises LostClaim when another has taken its tasks over."""
    parameters = {"replica": replica.id, "our_epoch": replica.epoch, "owned": owned_tasks}
    if not connection.execute(_RENEW, parameters | {"until": replica.now() + LEASE_SECONDS}).rowcount:
        raise _taken_over()


def _taken_over() -> LostClaim:
    return LostClaim("another replica has taken this one's tasks over")


_PROBE = update(replicas).where(replicas.c.id == bindparam("replica")).values(probed=1 - replicas.c.probed)


def probe(connection: Connection, replica: Replica) -> None:
    """Write one small value, to see whether writing works. Raises StoreUnavailable without the replica's row."""
    if not connection.execute(_PROBE, {"replica": replica.id}).rowcount:
        raise StoreUnavailable("this replica is unknown to the database")


# --- taking over --------------------------------------------------------------------------------------------------

_LOCK_DEAD = (
    select(replicas.c.id)
    .where(replicas.c.expires_at < bindparam("now"), replicas.c.id != bindparam("replica"))
    .order_by(replicas.c.id)
    .with_for_update(skip_locked=True)
)
# By the index on owners: in another order PostgreSQL reads every open task to find the few, 11 ms for 20,000.
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
    """Take over tasks that no replica polls, and reload own tasks that others changed: up to `limit` of each kind.

    A task that another replica closed, because its last watch was cancelled there, is returned once more, as closed.
    Raises LostClaim when another replica has taken this one's tasks over.
    """
    now = replica.now()
    if not holds_claim(connection, replica):
        raise _taken_over()
    dead = list(connection.execute(_LOCK_DEAD, {"now": now, "replica": replica.id}).scalars())
    for name in dead:  # before all else: from now on the dead replica, should it continue, writes nothing
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
    """Give every task up, and get no new ones. Claims on deliveries stay."""
    connection.execute(_TAKE_NO_MORE, {"replica": replica.id})
    connection.execute(_GIVE_UP_TASKS, {"replica": replica.id})


def leave(connection: Connection, replica: Replica) -> None:
    """Release every claim. Where there may be other replicas, give up the tasks and the id as well."""
    connection.execute(_RELEASE_CLAIMS, {"replica": replica.id, "now": replica.now()})
    if replica.shared:
        # The row first: this waits for replicas that are giving it a task, and those tasks are then given up as well.
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
# Until the task is committed no replica may delete its owner's row, or the task would never be taken over. A renewal of
# the row does not have to wait.
_LOCK_LIVE = (
    select(replicas.c.id)
    .where(replicas.c.id == bindparam("replica"), replicas.c.expires_at > bindparam("now"))
    .with_for_update(read=True, key_share=True)
)
UNEVEN = 1.25  # a replica gives new tasks away when it has a quarter more than the least loaded one
SMALL = 20  # and at least 20 more: a few tasks are not worth a move


def owner_of_new(connection: Connection, replica: Replica) -> str | None:
    """The replica that is to poll a new task: this one, or one that has clearly less; None when the claim is lost.

    The owner's claim holds until this transaction ends.
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
