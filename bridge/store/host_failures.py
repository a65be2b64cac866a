"""Failures in a row of each host, written in the transaction that records the attempts."""

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from bridge.store.records import AttemptResult
from bridge.store.schema import hosts

_insert_host = insert(hosts)
_HOST_FAILED = _insert_host.on_conflict_do_update(
    index_elements=["host"], set_={"failures": _insert_host.excluded.failures, "at": _insert_host.excluded.at}
)
# All hosts are locked first, in one order. Otherwise two replicas could deadlock: each would write failed hosts first,
# and a host that failed for one may have answered the other.
_LOCK_HOSTS = (
    select(hosts.c.host)
    .where(hosts.c.host.in_(bindparam("hosts", expanding=True)))
    .order_by(hosts.c.host)
    .with_for_update()
)
_HOSTS_ANSWERED = delete(hosts).where(hosts.c.host.in_(bindparam("hosts", expanding=True)))


def write(connection: Connection, items: Sequence[AttemptResult]) -> None:
    """Write how many attempts in a row failed at each host. A host that answered has no row afterwards."""
    failures = {item.host: (item.host_failures, item.at) for item in items if item.host_failures is not None}
    failed = [{"host": host, "failures": count, "at": at} for host, (count, at) in sorted(failures.items()) if count]
    answered = sorted(host for host, (count, _) in failures.items() if not count)
    if len(failures) > 1:
        connection.execute(_LOCK_HOSTS, {"hosts": sorted(failures)}).all()
    if failed:
        connection.execute(_HOST_FAILED, failed)
    if answered:
        connection.execute(_HOSTS_ANSWERED, {"hosts": answered})
