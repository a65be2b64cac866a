"""What the bridge sends to the receiver of a watch: the URL, the headers, and the bytes of each event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection, bindparam, func, select

from bridge.core.errors import NotFound
from bridge.core.ids import event_id
from bridge.core.model import EventType
from bridge.core.trace_context import TraceContext
from bridge.store.encryption import Cipher
from bridge.store.row_mapping import trace_of
from bridge.store.schema import deliveries, events, watches


@dataclass(frozen=True, slots=True)
class BuiltEvent:
    """One event of a watch, and the bytes that are sent for it.

    `id` is its `webhook-id`, also for an event that is not delivered.
    """

    id: str
    type: EventType
    payload: bytes


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The callback URL of a watch, its own headers and secret (decrypted), and its events, oldest first."""

    callback_url: str = field(repr=False)  # its query may hold a secret
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(repr=False)
    trace: TraceContext | None = None
    events: Sequence[BuiltEvent] = ()


_WATCH = select(
    *(watches.c[name] for name in ("callback_url", "headers", "secret", "traceparent", "tracestate"))
).where(watches.c.id == bindparam("an_id"))
_EVENTS = (
    select(events.c.type, func.coalesce(events.c.body, events.c.payload).label("sent"), deliveries.c.id)
    .outerjoin(deliveries, (deliveries.c.watch_id == events.c.watch_id) & (deliveries.c.type == events.c.type))
    .where(events.c.watch_id == bindparam("an_id"))
    .order_by(events.c.created_at, events.c.terminal)
)


def outgoing(connection: Connection, cipher: Cipher, watch_id: str) -> Outgoing:
    """Returns what is sent for a watch. Raises NotFound, and BadSetting when a secret does not decrypt."""
    row = connection.execute(_WATCH, {"an_id": watch_id}).one_or_none()
    if row is None:
        raise NotFound("there is no such watch")
    headers = {} if row.headers is None else orjson.loads(cipher.decrypt(watch_id, row.headers))
    secret = None if row.secret is None else cipher.decrypt(watch_id, row.secret)
    built = [
        BuiltEvent(row.id or event_id(watch_id, EventType(row.type)), EventType(row.type), row.sent)
        for row in connection.execute(_EVENTS, {"an_id": watch_id})
    ]
    return Outgoing(row.callback_url, headers, secret, trace_of(row), built)
