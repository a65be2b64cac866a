"""Queries of due deliveries: which hosts have some, when the next one is due, and which hosts fail."""

from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, literal_column, select

from bridge.store.schema import hosts, outbox, pauses

COUNTED_PER_HOST = 1_000

# A loose index scan: from one host's name to the next. A host with a million deliveries costs no more than a host with
# one, so the backlog of a host does not delay the callbacks of others.
_host_names = select(func.min(outbox.c.host).label("host")).cte("host_names", recursive=True)
_host_names = _host_names.union_all(
    select(
        select(func.min(outbox.c.host))
        .where(outbox.c.host > _host_names.c.host)
        .correlate(_host_names)
        .scalar_subquery()
    ).where(_host_names.c.host.is_not(None))
)
_due_at_host: Select[Any] = (
    select(literal_column("1").label("one"))
    .where(outbox.c.host == _host_names.c.host, outbox.c.due_at <= bindparam("now"))
    .limit(COUNTED_PER_HOST)
    .correlate(_host_names)
)
_is_paused = select(pauses.c.host).where(pauses.c.host == _host_names.c.host).correlate(_host_names).exists()
_DUE_HOSTS = select(
    _host_names.c.host,
    select(func.count()).select_from(_due_at_host.subquery()).correlate(_host_names).scalar_subquery().label("due"),
).where(_host_names.c.host.is_not(None), ~_is_paused)
# Host by host, as above: a paused host may have a long backlog, all of it due. So no index on `due_at` alone is needed.
_earliest_at_host = select(func.min(outbox.c.due_at)).where(outbox.c.host == _host_names.c.host).correlate(_host_names)
_NEXT_DUE = select(func.min(_earliest_at_host.scalar_subquery())).where(_host_names.c.host.is_not(None), ~_is_paused)
_FAILING_HOSTS = select(hosts.c.host, hosts.c.failures)


def due_hosts(connection: Connection, now: float) -> dict[str, int]:
    """Returns the number of due deliveries of each host, counted up to 1,000. Paused hosts are left out."""
    return {row.host: row.due for row in connection.execute(_DUE_HOSTS, {"now": now}) if row.due}


def next_due_at(connection: Connection) -> float | None:
    """Returns when the next pending delivery is due (Unix seconds); None without one. Paused hosts do not count."""
    earliest: float | None = connection.execute(_NEXT_DUE).scalar_one()
    return earliest


def host_failures(connection: Connection) -> dict[str, int]:
    """Returns the number of failures in a row of each host whose last attempt failed."""
    return {row.host: row.failures for row in connection.execute(_FAILING_HOSTS)}
