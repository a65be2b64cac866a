"""Writes notices and their deliveries, and the dead deliveries that the next notice will name."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from bridge.core.ids import random_event_id
from bridge.core.model import PendingDelivery
from bridge.core.operations import Notice, notice_payload
from bridge.store.bulk_statements import inserting
from bridge.store.replicas import Replica
from bridge.store.schema import dead_reports, deliveries, notices, outbox


@dataclass(frozen=True, slots=True)
class NoticeTarget:
    """Where notices are sent: a URL, and its host and port."""

    url: str
    host: str


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """Whether notices are written, where they are sent (None: nowhere), and the bridge's own URL.

    `token_bytes` returns a number of random bytes, for the ids of notices.
    """

    token_bytes: Callable[[int], bytes]
    enabled: bool = False
    target: NoticeTarget | None = None
    public_url: str | None = None


# --- writing ------------------------------------------------------------------------------------------------------

_INSERT_NOTICES = inserting(notices, ("id", "type", "host", "callback_url", "created_at", "payload"))
_INSERT_OUTBOX = inserting(outbox, ("id", "host", "due_at", "set_at", "lease", "holder"))
_INSERT_DELIVERIES = inserting(
    deliveries,
    ("id", "watch_id", "type", "state", "attempts", "round_attempts", "created_at", "next_attempt_at"),
)


def write(connection: Connection, settings: NoticeSettings, made: Sequence[Notice]) -> None:
    """Write notices and their deliveries, which are due now. Writes nothing if the settings have no target.

    A notice about the receiver of notices is not written either.
    """
    target = settings.target
    if target is None:
        return
    sent = [one for one in made if one.receiver != target.host]
    ids = [random_event_id(settings.token_bytes(20)) for _ in sent]
    rows = [
        (new_id, one.type.value, target.host, target.url, one.at, notice_payload(one, new_id, settings.public_url))
        for new_id, one in zip(ids, sent, strict=True)
    ]
    _INSERT_NOTICES.execute(connection, rows)
    _INSERT_OUTBOX.execute(connection, [(row[0], row[2], row[4], row[4], None, None) for row in rows])
    _INSERT_DELIVERIES.execute(connection, [(row[0], "", row[1], "pending", 0, 0, row[4], row[4]) for row in rows])


_LOAD: Any = (
    select(
        *(notices.c.id, notices.c.type, notices.c.host, notices.c.callback_url, notices.c.created_at),
        *(notices.c.payload, deliveries.c.round_attempts, deliveries.c.attempts),
    )
    .join(deliveries, deliveries.c.id == notices.c.id)
    .where(notices.c.id.in_(bindparam("ids", expanding=True)))
)


def claimed(connection: Connection, ids: Sequence[str], lease: str, replica: Replica) -> list[PendingDelivery]:
    """Returns the deliveries with these ids, which were just claimed. They belong to notices and have no watch."""
    return [
        PendingDelivery(
            id=row.id,
            watch_id="",
            app="",
            type=row.type,
            callback_url=row.callback_url,
            host=row.host,
            payload=row.payload,
            lease=lease,
            round_attempts=row.round_attempts,
            created_at=row.created_at,
            attempts=row.attempts,
            claimed_by=replica.identity,
        )
        for row in connection.execute(_LOAD, {"ids": ids})
    ]


_REPORT_DEAD = inserting(
    dead_reports,
    ("delivery_id", "host", "dead_at"),
    lambda statement: statement.on_conflict_do_nothing(index_elements=["delivery_id"]),
)


def report_dead(connection: Connection, dead: Iterable[tuple[str, str, float]]) -> None:
    """Write deliveries (id, host, Unix seconds) that became dead, for the next notice about their receiver."""
    _REPORT_DEAD.execute(connection, sorted(dead))
