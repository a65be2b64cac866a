"""Notices for operators: each change gets one notice, even if several replicas see it. The outbox sends it.

A notice is written in the transaction that writes its cause, so either both are stored or none. A *condition* is a
state that lasts: a failing receiver, a refused key. Its row is inserted with the notice of its beginning, and deleted
with the notice of its end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from bridge.core.delivery import FAILURES_UNTIL_PROBING
from bridge.core.operations import (
    FIRST_IDS,
    MOST_A_MINUTE,
    SUM_UP_SECONDS,
    Notice,
    NoticeType,
    summed_up,
)
from bridge.store.advisory_locks import NOTICES
from bridge.store.group_commit import GroupWriter
from bridge.store.notice_writing import NoticeSettings, NoticeTarget, write
from bridge.store.reader import Reader
from bridge.store.schema import (
    IS_ACTIVE,
    conditions,
    dead_reports,
    deliveries,
    hosts,
    notices,
    outbox,
    tasks,
    watches,
)

RECEIVER, KEY, DEAD = "receiver", "key", "dead"  # the kinds of conditions; DEAD is the last notice of dead deliveries
MOST_AT_ONCE = 500  # receivers in a transaction, 0.1 s; the others are handled a second later
MOST_ROWS_READ = 1_000  # rows from which the apps of a notice are read

_TRY_LOCK = select(func.pg_try_advisory_xact_lock(NOTICES))


# --- what has changed ---------------------------------------------------------------------------------------------

_of_receiver = (conditions.c.kind == literal_column(f"'{RECEIVER}'")) & (conditions.c.name == hosts.c.host)
_STARTED_FAILING = (
    select(hosts.c.host)
    .where(hosts.c.failures >= FAILURES_UNTIL_PROBING, ~select(conditions.c.name).where(_of_receiver).exists())
    .limit(MOST_AT_ONCE)
)
_RECOVERED = (
    select(conditions.c.name, conditions.c.since)
    .where(
        conditions.c.kind == literal_column(f"'{RECEIVER}'"),
        ~select(hosts.c.host)
        .where(hosts.c.host == conditions.c.name, hosts.c.failures >= FAILURES_UNTIL_PROBING)
        .exists(),
    )
    .limit(MOST_AT_ONCE)
)
_begin = insert(conditions)
_BEGIN = _begin.on_conflict_do_nothing(index_elements=["kind", "name"]).returning(conditions.c.name)
_RENEW = _begin.on_conflict_do_update(index_elements=["kind", "name"], set_={"since": _begin.excluded.since})
_END = (
    delete(conditions)
    .where(conditions.c.kind == bindparam("a_kind"), conditions.c.name == bindparam("a_name"))
    .returning(conditions.c.since)
)
_PENDING = select(func.count()).select_from(outbox).where(outbox.c.host == bindparam("a_host"))
_some_pending = (
    select(watches.c.app)
    .select_from(outbox)
    .join(deliveries, deliveries.c.id == outbox.c.id)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .where(outbox.c.host == bindparam("a_host"))
    .limit(MOST_ROWS_READ)
    .subquery()
)
_APPS_PENDING = select(_some_pending.c.app).distinct().order_by(_some_pending.c.app)


def of_receiver(connection: Connection, notice: Notice) -> Notice:
    """Returns the notice, with the number of the receiver's pending deliveries and the apps of up to 1,000."""
    parameters = {"a_host": notice.receiver}
    apps = tuple(connection.execute(_APPS_PENDING, parameters).scalars())
    return replace(notice, count=connection.execute(_PENDING, parameters).scalar_one(), apps=apps)


_LATELY = (
    select(func.count())
    .select_from(notices)
    .where(notices.c.created_at > bindparam("after"), notices.c.type == bindparam("a_type"))
)


def is_due(connection: Connection, now: float) -> bool:
    """Whether there are changes for which `check` may write a notice. This takes no lock and writes nothing."""
    parameters = {"summed_up_after": now - SUM_UP_SECONDS}
    queries = _STARTED_FAILING, _RECOVERED, _DUE_REPORTS
    return any(connection.execute(query, parameters).first() is not None for query in queries)


def check(connection: Connection, settings: NoticeSettings, now: float) -> list[Notice]:
    """Write the notices about receivers and dead deliveries that are due; returns them.

    Returns an empty list while another replica does this.
    """
    # This does not wait for the lock: this transaction may hold locks that the other replica waits for.
    if connection.dialect.name == "postgresql" and not connection.execute(_TRY_LOCK).scalar_one():
        return []
    due: list[Notice] = []
    for kind, find in _FINDERS.items():
        # Without room nothing is written, so the same changes are found again later.
        if (room := MOST_A_MINUTE - _written_lately(connection, kind, now)) > 0:
            found = find(connection, now)
            due += found if len(found) <= room else [summed_up(found)]
    write(connection, settings, due)
    return due


def _written_lately(connection: Connection, kind: NoticeType, now: float) -> int:
    written: int = connection.execute(_LATELY, {"a_type": kind.value, "after": now - SUM_UP_SECONDS}).scalar_one()
    return written


def _failing(connection: Connection, now: float) -> list[Notice]:
    found = connection.execute(_STARTED_FAILING).scalars().all()
    begun = [name for name in found if connection.execute(_BEGIN, _condition(RECEIVER, name, now)).first() is not None]
    return [
        of_receiver(connection, Notice(NoticeType.RECEIVER_FAILING, now, receiver=name, since=now)) for name in begun
    ]


def _recovered(connection: Connection, now: float) -> list[Notice]:
    ended = [
        Notice(NoticeType.RECEIVER_RECOVERED, now, receiver=row.name, since=row.since)
        for row in connection.execute(_RECOVERED).all()
        if connection.execute(_END, {"a_kind": RECEIVER, "a_name": row.name}).first() is not None
    ]
    return [of_receiver(connection, notice) for notice in ended]


def _condition(kind: str, name: str, since: float) -> dict[str, Any]:
    return {"kind": kind, "name": name, "since": since}


# --- dead deliveries ----------------------------------------------------------------------------------------------

# A loose index scan, from one receiver's name to the next. A receiver whose minute is not over costs one step, for any
# number of its reports.
_reported = select(func.min(dead_reports.c.host).label("host")).cte("reported", recursive=True)
_reported = _reported.union_all(
    select(
        select(func.min(dead_reports.c.host))
        .where(dead_reports.c.host > _reported.c.host)
        .correlate(_reported)
        .scalar_subquery()
    ).where(_reported.c.host.is_not(None))
)
_DUE_REPORTS = (
    select(_reported.c.host)
    .where(
        _reported.c.host.is_not(None),
        ~select(conditions.c.name)
        .where(
            conditions.c.kind == literal_column(f"'{DEAD}'"),
            conditions.c.name == _reported.c.host,
            conditions.c.since > bindparam("summed_up_after"),
        )
        .exists(),
    )
    .limit(MOST_AT_ONCE)
)
_joined = (
    select(dead_reports.c.delivery_id, dead_reports.c.dead_at, watches.c.app)
    .join(deliveries, deliveries.c.id == dead_reports.c.delivery_id)
    .join(watches, watches.c.id == deliveries.c.watch_id)
    .where(dead_reports.c.host == bindparam("a_host"))
)
_FIRST_DEAD = _joined.order_by(dead_reports.c.dead_at, dead_reports.c.delivery_id).limit(FIRST_IDS)
_all_dead = _joined.subquery()
_DEAD_BY_APP = select(_all_dead.c.app, func.count().label("total")).group_by(_all_dead.c.app).order_by(_all_dead.c.app)
_DELETE_REPORTS = delete(dead_reports).where(dead_reports.c.host == bindparam("a_host"))
_FORGET = delete(conditions).where(
    conditions.c.kind == literal_column(f"'{DEAD}'"), conditions.c.since < bindparam("summed_up_after")
)


def _dead(connection: Connection, now: float) -> list[Notice]:
    """Returns a notice for each receiver with dead deliveries: the first at once, later ones once a minute."""
    parameters = {"summed_up_after": now - SUM_UP_SECONDS}
    found: list[Notice] = []
    for host in connection.execute(_DUE_REPORTS, parameters).scalars().all():
        first = connection.execute(_FIRST_DEAD, {"a_host": host}).all()
        by_app = {row.app: row.total for row in connection.execute(_DEAD_BY_APP, {"a_host": host})}
        connection.execute(_DELETE_REPORTS, {"a_host": host})
        if not first:
            continue  # the dead deliveries were notices, about which there is no notice
        found.append(_notice_of_dead(host, first, by_app, now))
        connection.execute(_RENEW, _condition(DEAD, host, now))
    connection.execute(_FORGET, parameters)
    return found


def _notice_of_dead(host: str, first: Sequence[Any], by_app: Mapping[str, int], now: float) -> Notice:
    return Notice(
        NoticeType.DELIVERY_DEAD,
        now,
        receiver=host,
        apps=tuple(by_app),
        count=sum(by_app.values()),
        delivery_ids=tuple(row.delivery_id for row in first),
        since=first[0].dead_at,
    )


_FINDERS: Mapping[NoticeType, Callable[[Connection, float], list[Notice]]] = {
    NoticeType.RECEIVER_FAILING: _failing,
    NoticeType.RECEIVER_RECOVERED: _recovered,
    NoticeType.DELIVERY_DEAD: _dead,
}


# --- keys ---------------------------------------------------------------------------------------------------------

_OPEN_KEYS = select(conditions.c.name).where(conditions.c.kind == literal_column(f"'{KEY}'"))
_some_active = (
    select(watches.c.app, tasks.c.credential)
    .join(tasks, tasks.c.id == watches.c.task)
    .where(IS_ACTIVE)
    .limit(MOST_ROWS_READ)
    .subquery()
)
_APPS_OF_KEY = (
    select(_some_active.c.app)
    .where(_some_active.c.credential == bindparam("a_name"))
    .distinct()
    .order_by(_some_active.c.app)
)


def refused_keys(connection: Connection) -> set[str]:
    """Returns the names of the keys that have a notice of their refusal, and none of a later acceptance."""
    return set(connection.execute(_OPEN_KEYS).scalars())


def key_refused(connection: Connection, settings: NoticeSettings, name: str, now: float) -> list[Notice]:
    """Write the notice that amux refuses a key; returns it in a list, empty if it was written before."""
    if connection.execute(_BEGIN, _condition(KEY, name, now)).first() is None:
        return []
    return _of_key(connection, settings, Notice(NoticeType.KEY_REFUSED, now, credential=name, since=now))


def key_accepted(connection: Connection, settings: NoticeSettings, name: str, now: float) -> list[Notice]:
    """Write the notice that amux accepts a key again; returns it in a list, empty without an earlier refusal."""
    ended = connection.execute(_END, {"a_kind": KEY, "a_name": name}).one_or_none()
    if ended is None:
        return []
    return _of_key(connection, settings, Notice(NoticeType.KEY_ACCEPTED, now, credential=name, since=ended.since))


def _of_key(connection: Connection, settings: NoticeSettings, notice: Notice) -> list[Notice]:
    apps = tuple(connection.execute(_APPS_OF_KEY, {"a_name": notice.credential}).scalars())
    written = [replace(notice, apps=apps)]
    write(connection, settings, written)
    return written


# --- the store's calls --------------------------------------------------------------------------------------------


class NoticeCalls:
    """The store's calls about notices. Calls raise StoreUnavailable.

    Before `enable`, pauses and dead deliveries cause no notice. Call `check` and `key_changed` only after it.
    """

    def __init__(self, reader: Reader, writer: GroupWriter) -> None:
        self._database = reader.database
        self._reader = reader
        self._writer = writer
        self.settings = NoticeSettings(reader.database.system.token_bytes)

    def enable(self, target: NoticeTarget | None, public_url: str | None) -> None:
        """Make notices of changes from now on. They are sent to `target`; if it is None, they are only returned."""
        self.settings = replace(self.settings, enabled=True, target=target, public_url=public_url)

    async def check(self) -> Sequence[Notice]:
        """Write the notices about receivers and dead deliveries that are due; returns them."""
        now = self._database.now()
        return await self._writer.run(check, self.settings, now) if await self._reader.run(is_due, now) else []

    async def key_changed(self, name: str, *, refused: bool) -> Sequence[Notice]:
        """Write the notice that amux refuses a key, or accepts it again; returns it in a list, empty if not new."""
        operation = key_refused if refused else key_accepted
        return await self._writer.run(operation, self.settings, name, self._database.now())

    async def refused_keys(self) -> set[str]:
        """Returns the names of the keys that have a notice of their refusal, and none of a later acceptance."""
        return await self._reader.run(refused_keys)
