"""Connections to PostgreSQL: how they are made, when they are dropped, and how long a transaction may take.

A connection pooler in transaction mode (PgBouncer) may run each transaction in another session of the server. So this
module uses no limits in the start packet, no prepared statements and no state of a session.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from bridge.core.database_url import postgres_url
from bridge.core.errors import BadSetting
from bridge.store import driver

# The limit for one address. With several hosts in the URL, psycopg tries their addresses one after the other.
CONNECT_SECONDS = 3
DEFAULTS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "application_name": "amux-bridge",
    # A server that is unreachable must not block the writer's thread for long.
    "tcp_user_timeout": "4000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
}
RETRIABLE = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# Errors that do not end by waiting. libpq gives no code for a failed connection, only a text.
_FINAL = (
    *("password authentication failed", "no pg_hba.conf entry", "does not support SSL", "invalid sslmode"),
    *("certificate verify failed", "root certificate", "server certificate for", "statement pooling"),
)  # fmt: skip


def sqlstate(error: DBAPIError) -> str | None:
    """Returns PostgreSQL's code of an error. It is None if the server sent none, as when a connection breaks."""
    code: str | None = getattr(error.orig, "sqlstate", None)
    return code


def may_open_later(error: DBAPIError) -> bool:
    """Whether a database that did not open may open within seconds, because it starts, fails over or is full."""
    code = sqlstate(error)
    if any(text in str(error.orig) for text in _FINAL):
        return False
    return code is None or driver.drops_connection(code) or code in RETRIABLE or code == "57014"


def make_engine(url: str, *, limits: Mapping[str, float], pool_seconds: float) -> Engine:
    """Returns an engine whose transactions have `limits` (names of the server's settings and seconds).

    Raises BadSetting for a URL that libpq does not take.
    """
    conninfo = _conninfo(url)
    assignments = "; ".join(f"SET LOCAL {name} = {seconds * 1000:.0f}" for name, seconds in limits.items())
    # Autocommit: the driver begins no transaction by itself. One message begins the transaction and sets its limits. A
    # pooler refuses limits in the start packet, and other clients would get the limits of a session.
    begin = f"BEGIN; {assignments}"
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(conninfo),
        isolation_level="AUTOCOMMIT",
        pool_size=6,  # the writer, three readers and two searches
        max_overflow=0,
        pool_timeout=pool_seconds,
        pool_use_lifo=True,  # so the other connections stay unused, and a pooler or a firewall can end them
        query_cache_size=200,
    )

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        driver.execute(connection, begin)

    @event.listens_for(engine, "handle_error")
    def drop_connection(context: ExceptionContext) -> None:
        if driver.drops_connection(getattr(context.original_exception, "sqlstate", None)):
            context.is_disconnect = True  # every pooled connection is then replaced before its next use

    return engine


def _conninfo(url: str) -> str:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        given = conninfo_to_dict(postgres_url(url))
    except ValueError as error:
        raise BadSetting(f"BRIDGE_DATABASE_URL: {error}") from None
    except ProgrammingError as error:
        raise BadSetting(f"BRIDGE_DATABASE_URL: {_unreadable(str(error))}") from None
    return make_conninfo(**{**DEFAULTS, **{name: str(value) for name, value in given.items()}})


def _unreadable(reason: str) -> str:
    """Returns libpq's reason if it is about a parameter's name. Others may repeat parts of the URL, and are hidden."""
    if "URI query parameter" in reason:
        return " ".join(reason.split())
    return "libpq cannot read this URL; characters such as @ : / % in a password must be percent-encoded"


def _connect(conninfo: str) -> Any:
    import psycopg

    return psycopg.connect(conninfo, prepare_threshold=None)
