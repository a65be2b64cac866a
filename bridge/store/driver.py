"""Executes compiled statements with the driver (psycopg or sqlite3), without SQLAlchemy's work for each statement.

That work takes 10 to 25 µs, and two or three times as long when other code ran in between; the driver takes 2 µs. A
watch needs about 17 statements from its registration to its delivery.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

# After these errors a connection cannot be used again. The server became read-only (25006), stops or restarts
# (57P01-57P05), has too many connections (53300) or ended an idle transaction (25P03). Class 08: the network failed.
_DROPPING = frozenset({"25006", "25P03", "53300", "57P01", "57P02", "57P03", "57P04", "57P05"})
_DROPPING_CLASS = "08"


def execute(connection: Connection, statement: str, *parameters: Parameters) -> int:
    """Execute a statement; returns how many rows it changed. Raises DBAPIError, as SQLAlchemy does.

    Without `parameters`, `statement` may have several statements if the driver accepts that (psycopg does).
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


def fetch_parts(
    connection: Connection, statement: str, parameters: Parameters, size: int
) -> Generator[list[tuple[Any, ...]], None, None]:
    """Execute a statement; yields its rows in lists of up to `size`. Raises DBAPIError, as SQLAlchemy does.

    The rest of the rows is not in memory: psycopg needs a cursor with a name for that, which the server keeps. A
    connection has one such statement at a time. Close the iterator before the connection is used for anything else.
    """
    driver: Any = connection.connection.dbapi_connection  # psycopg's and sqlite3's own
    name = ("parts",) if connection.dialect.name == "postgresql" else ()
    try:
        with closing(driver.cursor(*name)) as cursor:
            cursor.execute(statement, parameters)
            while rows := cursor.fetchmany(size):
                yield rows
    except connection.dialect.loaded_dbapi.Error as error:
        raise _converted(connection, statement, error) from error


def drops_connection(code: str | None) -> bool:
    """Whether a connection cannot be used again after an error with this SQLSTATE."""
    return code is not None and (code in _DROPPING or code.startswith(_DROPPING_CLASS))


def _converted(connection: Connection, statement: str, error: Any) -> BaseException:
    """Returns the error as SQLAlchemy raises it. If the connection is lost, all others are replaced before their use.

    This is what SQLAlchemy does too. Disposing of the pool would not replace the connections that are in use now.
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
