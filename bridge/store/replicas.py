"""Who polls what: leases, epochs, taking over and handing over."""

import secrets as randomness
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection, bindparam, delete, exists, insert, literal_column, select, true, update

from bridge.core.errors import BridgeError, LostClaim, StoreUnavailable
from bridge.store.database import Database
from bridge.store.records import TaskRow
from bridge.store.row_mapping import task_row
from bridge.store.schema import outbox, replicas, tasks

LOCAL = "local"  # the one replica of an SQLite file; its tasks stay its own over a restart
LEASE_SECONDS = 9.0  # a dead replica's tasks are polled by others within 15 s: its lease, then a look every second
LEAVING = -1  # told instead of how many tasks it owns, by a replica that takes no more

Nothing: TypeAlias = None


@dataclass(frozen=True, slots=True)
class Replica:
    """This process, as the database knows it."""

    id: str
    epoch: int
    shared: bool
    now: Callable[[], float]  # the database's clock


_FENCE = (
    select(replicas.c.epoch)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True)  # shared: whoever raises the epoch waits for the writes that still rely on it
)
_STANDING = (
    select(replicas.c.id, replicas.c.epoch)
    .where(replicas.c.id.in_(bindparam("replicas", expanding=True)))
    .order_by(replicas.c.id)
    .with_for_update(read=True)
    .cte("standing")
)
_LOCK_OWN = (
    select(tasks.c.id, tasks.c.owner, _STANDING.c.epoch)
    .join(_STANDING, _STANDING.c.id == tasks.c.owner)
    .where(tasks.c.closed_at.is_(None), tasks.c.id.in_(bindparam("those", expanding=True)))
    .order_by(tasks.c.id)
    .with_for_update(of=tasks)
)


def holds(connection: Connection, replica: Replica) -> bool:
    """Whether the replica's claim to its tasks stands, and will until this transaction ends."""
    epoch = connection.execute(_FENCE, {"replica": replica.id}).scalar_one_or_none()
    return epoch == replica.epoch


def lock_own(connection: Connection, claims: Sequence[tuple[Replica, str]]) -> list[bool]:
    """For each claim, whether its task is open and still its replica's; both stay so until this transaction ends."""
    holders, those = {replica.id for replica, _ in claims}, {task for _, task in claims}
    found = connection.execute(_LOCK_OWN, {"replicas": sorted(holders), "those": sorted(those)})
    held = {row.id: (row.owner, row.epoch) for row in found}
    return [held.get(task) == (replica.id, replica.epoch) for replica, task in claims]


_FIND_EPOCH = select(replicas.c.epoch).where(replicas.c.id == bindparam("replica"))
_JOIN = insert(replicas)
_BUMP = update(replicas).where(replicas.c.id == bindparam("replica")).values(epoch=replicas.c.epoch + 1)
_RELEASE = (
    update(outbox)
    .where(outbox.c.holder == bindparam("replica"))
    .values(lease=None, holder=None, due_at=bindparam("now"), set_at=bindparam("now"))
)


def join(connection: Connection, works: Sequence[Database]) -> Sequence[Replica | BridgeError]:
    """Take part anew, for each of the callers."""
    return [joined(connection, database) for database in works]


def joined(connection: Connection, database: Database) -> Replica:
    """Take part: under the local name and the next epoch, or under a new id where there may be others."""
    name = f"rep_{randomness.token_hex(8)}" if database.shared else LOCAL
    now = database.now()
    epoch = connection.execute(_FIND_EPOCH, {"replica": name}).scalar_one_or_none()
    if epoch is None:
        row = {"id": name, "epoch": 1, "started_at": now, "owned_tasks": 0, "probed": 0}
        connection.execute(_JOIN, row | {"expires_at": now + LEASE_SECONDS})
        return Replica(name, 1, database.shared, database.now)
    connection.execute(_BUMP, {"replica": name})
    # Nobody else sends from this file: what was claimed when the last process died is due now.
    connection.execute(_RELEASE, {"replica": name, "now": now})
    return Replica(name, epoch + 1, database.shared, database.now)


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease to be renewed, and the load to tell the others."""

    replica: Replica
    owned_tasks: int


_RENEW = (
    update(replicas)
    .where(replicas.c.id == bindparam("replica"), replicas.c.epoch == bindparam("held"))
    .values(expires_at=bindparam("until"), owned_tasks=bindparam("owned"))
)


def renew(connection: Connection, works: Sequence[Renewal]) -> Sequence[Nothing | BridgeError]:
    """One row, however many tasks."""
    results: list[Nothing | BridgeError] = []
    for work in works:
        replica = work.replica
        given = {"replica": replica.id, "held": replica.epoch, "owned": work.owned_tasks}
        done = connection.execute(_RENEW, given | {"until": replica.now() + LEASE_SECONDS})
        results.append(None if done.rowcount else LostClaim("another replica has taken this one's tasks over"))
    return results


_PROBE = update(replicas).where(replicas.c.id == bindparam("replica")).values(probed=1 - replicas.c.probed)


def probe(connection: Connection, works: Sequence[Replica]) -> Sequence[Nothing | BridgeError]:
    """Write one small thing, to learn whether writing works."""
    for replica in set(works):
        if not connection.execute(_PROBE, {"replica": replica.id}).rowcount:
            return [StoreUnavailable("this replica is unknown to the database")] * len(works)
    return [None] * len(works)


# --- taking over --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Adoption:
    """How many tasks a replica takes over at a time."""

    replica: Replica
    limit: int


_DEAD = (
    select(replicas.c.id)
    .where(replicas.c.expires_at < bindparam("now"), replicas.c.id != bindparam("replica"))
    .order_by(replicas.c.id)
    .with_for_update(skip_locked=True)
)
# By the index on owners: ordered otherwise, PostgreSQL reads every open task to find the few, 11 ms of 20,000.
_FREE = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.owner.is_(None))
    .order_by(tasks.c.owner)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_LEFT = (
    select(tasks.c.id)
    .where(tasks.c.closed_at.is_(None), tasks.c.owner.in_(bindparam("dead", expanding=True)))
    .order_by(tasks.c.owner)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_TAKE = (
    update(tasks)
    .where(tasks.c.id.in_(bindparam("ids", expanding=True)))
    .values(owner=bindparam("replica"), news=False)
    .returning(tasks)
)
_NEWS = (
    select(tasks.c.id)
    .where(tasks.c.owner == bindparam("replica"), tasks.c.news, tasks.c.closed_at.is_(None))
    .order_by(tasks.c.id)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_FORGET = delete(replicas).where(
    replicas.c.id.in_(bindparam("dead", expanding=True)),
    ~exists(select(tasks.c.id).where(tasks.c.owner == replicas.c.id, tasks.c.closed_at.is_(None))),
)


def adopt(connection: Connection, works: Sequence[Adoption]) -> Sequence[list[TaskRow] | BridgeError]:
    """Take tasks that nobody polls, and those of our own that others have changed."""
    return [_adopted(connection, work) for work in works]


def _adopted(connection: Connection, work: Adoption) -> list[TaskRow] | BridgeError:
    replica, now = work.replica, work.replica.now()
    if not holds(connection, replica):
        return LostClaim("another replica has taken this one's tasks over")
    dead = list(connection.execute(_DEAD, {"now": now, "replica": replica.id}).scalars())
    for name in dead:  # first of all: from here on the dead replica, should it wake, writes nothing
        connection.execute(_BUMP, {"replica": name})
        connection.execute(_RELEASE, {"replica": name, "now": now})
    found = set(connection.execute(_FREE, {"most": work.limit}).scalars())
    if dead:
        found.update(connection.execute(_LEFT, {"dead": dead, "most": work.limit}).scalars())
    found.update(connection.execute(_NEWS, {"replica": replica.id, "most": work.limit}).scalars())
    taken = connection.execute(_TAKE, {"ids": sorted(found), "replica": replica.id}).all() if found else []
    if dead:
        connection.execute(_FORGET, {"dead": dead})
    return [task_row(row, sight_owed=row.wants_status) for row in taken]


# --- handing over -------------------------------------------------------------------------------------------------

_LET_GO = update(tasks).where(tasks.c.owner == bindparam("replica"), tasks.c.closed_at.is_(None)).values(owner=None)
_TAKES_NO_MORE = update(replicas).where(replicas.c.id == bindparam("replica")).values(owned_tasks=LEAVING)
_LEAVE = delete(replicas).where(replicas.c.id == bindparam("replica"))


def hand_over(connection: Connection, works: Sequence[Replica]) -> Sequence[Nothing | BridgeError]:
    """Let the tasks go, and be given no more; what is being sent stays claimed."""
    for replica in works:
        connection.execute(_TAKES_NO_MORE, {"replica": replica.id})
        connection.execute(_LET_GO, {"replica": replica.id})
    return [None] * len(works)


def leave(connection: Connection, works: Sequence[Replica]) -> Sequence[Nothing | BridgeError]:
    """Release every claim; where there may be others, the tasks and the name as well."""
    for replica in works:
        connection.execute(_RELEASE, {"replica": replica.id, "now": replica.now()})
        if replica.shared:
            # The name first: that waits for those who are giving a task to it, and their tasks are let go as well.
            connection.execute(_LEAVE, {"replica": replica.id})
            connection.execute(_LET_GO, {"replica": replica.id})
    return [None] * len(works)


# --- sharing out --------------------------------------------------------------------------------------------------

_others = replicas.alias("others")
_lightest_other = (
    select(_others.c.id, _others.c.owned_tasks)
    .where(
        _others.c.id != bindparam("replica"),
        _others.c.expires_at > bindparam("now"),
        _others.c.owned_tasks > LEAVING,
    )
    .order_by(_others.c.owned_tasks, _others.c.id)
    .limit(literal_column("1"))
    .subquery("lightest")
)
_LOADS = (
    select(
        *(replicas.c.epoch, replicas.c.expires_at, replicas.c.owned_tasks),
        *(_lightest_other.c.id.label("other"), _lightest_other.c.owned_tasks.label("others_tasks")),
    )
    .join_from(replicas, _lightest_other, true(), isouter=True)
    .where(replicas.c.id == bindparam("replica"))
    .with_for_update(read=True, of=replicas)  # as in _FENCE
)
# Until the task is committed nobody may forget its owner, or it would never be taken over. Renewing is not held up.
_STAYS = (
    select(replicas.c.id)
    .where(replicas.c.id == bindparam("replica"), replicas.c.expires_at > bindparam("now"))
    .with_for_update(read=True, key_share=True)
)
UNEVEN = 1.25  # a replica gives new tasks away when it has a quarter more than the least loaded one
SMALL = 20  # and this many more: a handful of tasks is not worth another replica's look-up


def owner_of_new(connection: Connection, replica: Replica) -> str | None:
    """Who should poll a new task: this replica, or one that is clearly less loaded; None when this one's claim is lost.

    The claim stands until this transaction ends.
    """
    now = replica.now()
    known = connection.execute(_LOADS, {"replica": replica.id, "now": now}).one_or_none()
    if known is None or known.epoch != replica.epoch:
        return None
    stays = known.owned_tasks > LEAVING and known.expires_at > now
    if known.other is None or (stays and known.owned_tasks <= known.others_tasks * UNEVEN + SMALL):
        return replica.id
    taken = connection.execute(_STAYS, {"replica": known.other, "now": now}).first()
    return replica.id if taken is None else str(known.other)
