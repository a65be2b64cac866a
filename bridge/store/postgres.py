"""Connections to PostgreSQL: how they are made, when they are dropped, and how long a transaction may take.

Everything works through a connection pooler in transaction mode (PgBouncer), where each transaction may run on another
session of the server: no limits in the start packet, no prepared statements, no state of a session.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from bridge.core.database_url import postgres_url
from bridge.core.errors import BadSetting
from bridge.store import driver

# Of a host in the URL. psycopg tries the addresses of several hosts in turn, each for so long.
CONNECT_SECONDS = 3
DEFAULTS = {
    "connect_timeout": str(CONNECT_SECONDS),
    "application_name": "amux-bridge",
    # A server that is cut off must not block the writer's thread: nothing else could be written meanwhile.
    "tcp_user_timeout": "4000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "2",
}
RETRIABLE = frozenset({"40001", "40P01"})  # serialization failure, deadlock
# What waiting does not change. libpq gives no code for a failed connection, only the text.
_LASTING = (
    *("password authentication failed", "no pg_hba.conf entry", "does not support SSL", "invalid sslmode"),
    *("certificate verify failed", "root certificate", "server certificate for", "statement pooling"),
)  # fmt: skip


def sqlstate(error: DBAPIError) -> str | None:
    """Returns PostgreSQL's code of an error. None if the server sent none, as when a connection breaks."""
    code: str | None = getattr(error.orig, "sqlstate", None)
    return code


def may_open_later(error: DBAPIError) -> bool:
    """Whether a database that did not open may do so within seconds: it starts, fails over or is full."""
    code = sqlstate(error)
    if any(text in str(error.orig) for text in _LASTING):
        return False
    return code is None or driver.drops_connection(code) or code in RETRIABLE or code == "57014"


def make_engine(url: str, *, limits: Mapping[str, float], pool_seconds: float) -> Engine:
    """Returns an engine whose transactions have `limits` (names of the server's settings and seconds).

    Raises BadSetting for a URL that libpq does not take.
    """
    conninfo = _conninfo(url)
    assignments = "; ".join(f"SET LOCAL {name} = {seconds * 1000:.0f}" for name, seconds in limits.items())
    # Autocommit: the driver begins nothing by itself. One message begins the transaction and sets its limits; a pooler
    # would refuse them in the start packet, and would pass what is set for the session to others.
    begin = f"BEGIN; {assignments}"
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: _connect(conninfo),
        isolation_level="AUTOCOMMIT",
        pool_size=6,  # the writer, three readers and two searches
        max_overflow=0,
        pool_timeout=pool_seconds,
        pool_use_lifo=True,  # the connections that are used least are the ones that a pooler or a firewall may end
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
    """Returns libpq's reason only where it is about a parameter's name: other reasons repeat parts of the URL."""
    if "URI query parameter" in reason:
        return " ".join(reason.split())
    return "libpq cannot read this URL; characters such as @ : / % in a password must be percent-encoded"


def _connect(conninfo: str) -> Any:
    import psycopg

    return psycopg.connect(conninfo, prepare_threshold=None)
