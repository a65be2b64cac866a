"""Statements that were compiled in advance, executed by the driver itself: psycopg's or Python's own for SQLite.

SQLAlchemy takes 10 to 25 µs for each statement, and two or three times as long when other code ran before; the driver
takes 2. A watch has about 17 statements.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

# A connection is of no more use after these: the server became read-only (25006), is ending or restarting it
# (57P01-57P05), has no room (53300), ended an idle transaction (25P03), or the way to it broke (class 08).
_DROPPING = frozenset({"25006", "25P03", "53300", "57P01", "57P02", "57P03", "57P04", "57P05"})
_DROPPING_CLASS = "08"


def execute(connection: Connection, statement: str, *parameters: Parameters) -> int:
    """Execute a statement; returns how many rows it changed. Raises DBAPIError, as SQLAlchemy does.

    Without `parameters` it may be several statements, where the driver takes them.
    """
    driver: Any = connection.connection.dbapi_connection  # psycopg's and sqlite3's own
    try:
        rowcount: int = driver.execute(statement, *parameters).rowcount
    except connection.dialect.loaded_dbapi.Error as error:
        raise _converted(connection, statement, error) from error
    return rowcount


def fetch(connection: Connection, statement: str, parameters: Parameters) -> list[tuple[Any, ...]]:
    """Execute a statement; returns its rows. Raises DBAPIError, as SQLAlchemy does."""
    driver: Any = connection.connection.dbapi_connection  # psycopg's and sqlite3's own
    try:
        rows: list[tuple[Any, ...]] = driver.execute(statement, parameters).fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise _converted(connection, statement, error) from error
    return rows


def drops_connection(code: str | None) -> bool:
    """Whether a connection is of no more use after an error with this SQLSTATE."""
    return code is not None and (code in _DROPPING or code.startswith(_DROPPING_CLASS))


def _converted(connection: Connection, statement: str, error: Any) -> BaseException:
    """The error as SQLAlchemy raises it. When the connection was lost, all others are replaced before their next use.

    As SQLAlchemy does it: to dispose of the pool would leave open those that other threads use at this moment.
    """
    dialect = connection.dialect
    code = getattr(error, "sqlstate", None)
    lost = drops_connection(code) or dialect.is_disconnect(error, connection.connection, None)
    if lost:
        connection.engine.pool._invalidate(connection.connection, error)  # noqa: SLF001  it has no public form
        connection.invalidate(error)
    converted: BaseException = DBAPIError.instance(
        statement, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect
    )
    return converted
