"""Statements for many rows at once, compiled in advance and executed with plain values.

`executemany` releases the interpreter's lock for each row, and the event loop takes it: one commit of 30 registrations
waited 60 times for the lock. And Core's work on the parameters of a row costs twice the database's work on the row.
"""

from collections import namedtuple
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Connection, Table, Update, bindparam, cast, column, func, update, values
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.engine import Dialect

from bridge.store import driver

Binds: TypeAlias = Sequence[dict[str, BindParameter[Any]]]  # for each row, its parameters by column name

# How many rows one statement takes. The largest size that fits comes first, so 15 rows take four statements. With
# PostgreSQL each statement is a round trip. A size is compiled at its first use, which takes 1 to 6 ms.
_SIZES = (32, 16, 8, 4, 2, 1)


class BulkStatement:
    """A statement for any number of rows. A row is a tuple of values for the driver, in the order of the columns."""

    def __init__(self, columns: Sequence[str], statement: Callable[[Binds], Insert | Update]) -> None:
        self._sizes = _Sizes(columns, statement, ())

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Executes the statement for these rows, in their order. Returns how many rows the database changed."""
        changed = done = 0
        for size in _SIZES:
            while len(rows) - done >= size:
                compiled = self._sizes.compiled(connection.dialect, size)
                parameters = compiled.parameters(chain.from_iterable(rows[done : done + size]))
                changed += driver.execute(connection, compiled.text, parameters)
                done += size
        return changed


class BulkQuery:
    """A statement that returns rows, for any number of keys. A key is a tuple of values for the driver.

    `columns` names the values of a key. `others` names the parameters that the statement has once. The last key is
    repeated until the number of keys is a power of two, so a repeated key must not change the result.
    """

    def __init__(self, columns: Sequence[str], statement: Callable[[Binds], Any], others: Sequence[str] = ()) -> None:
        self._sizes = _Sizes(columns, statement, others)

    def fetch(self, connection: Connection, keys: Sequence[tuple[Any, ...]], *others: Any) -> list[Any]:
        """Execute the statement; returns its rows, with a name for each column."""
        if not keys:
            return []
        size = 1 << (len(keys) - 1).bit_length()
        compiled = self._sizes.compiled(connection.dialect, size)
        filled = chain(keys, repeat(keys[-1], size - len(keys)))
        parameters = compiled.parameters(chain(chain.from_iterable(filled), others))
        return list(map(compiled.row, driver.fetch(connection, compiled.text, parameters)))


class Query(BulkQuery):
    """A statement that returns rows and has no keys; `names` are its parameters."""

    def __init__(self, statement: Any, *names: str) -> None:
        super().__init__((), lambda _: statement, names)

    def all(self, connection: Connection, *values: Any) -> list[Any]:
        """Execute the statement; returns its rows, with a name for each column."""
        return self.fetch(connection, [()], *values)

    def parts(self, connection: Connection, size: int, *values: Any) -> Generator[list[tuple[Any, ...]], None, None]:
        """Execute the statement; yields its rows as plain tuples, in lists of up to `size`: see `fetch_parts`."""
        compiled = self._sizes.compiled(connection.dialect, 1)
        return driver.fetch_parts(connection, compiled.text, compiled.parameters(values), size)


class _Sizes:
    """A statement that is compiled for each number of rows, at the first use of that number."""

    def __init__(self, columns: Sequence[str], statement: Callable[[Binds], Any], others: Sequence[str]) -> None:
        self._columns = columns
        self._statement = statement
        self._others = others
        self._compiled: dict[tuple[str, int], _Compiled] = {}

    def compiled(self, dialect: Dialect, size: int) -> "_Compiled":
        compiled = self._compiled.get((dialect.name, size))
        if compiled is None:
            names = [[f"{name}_{number}" for name in self._columns] for number in range(size)]
            binds: Binds = [dict(zip(self._columns, map(bindparam, row), strict=True)) for row in names]
            compiled = _Compiled(self._statement(binds), dialect, [*chain.from_iterable(names), *self._others])
            self._compiled[dialect.name, size] = compiled
        return compiled


class _Compiled:
    """The text of a statement for one number of rows, the order of its parameters, and the names of its columns."""

    def __init__(self, statement: Any, dialect: Dialect, names: Sequence[str]) -> None:
        compiled = statement.compile(dialect=dialect)
        self.text = str(compiled)
        self._constants = {name: value for name, value in compiled.params.items() if name not in names}
        self._names = [*names, *self._constants]
        self._in_order: Callable[[list[Any]], Sequence[Any]] | None = None  # for drivers with positional parameters
        if compiled.positiontup is not None:
            self._in_order = _picking([self._names.index(name) for name in compiled.positiontup])
        self.row = namedtuple("Row", statement.exported_columns.keys())._make  # type: ignore[attr-defined]  # noqa: PYI024

    def parameters(self, given: Iterable[Any]) -> driver.Parameters:
        """Returns the parameters in the form that the driver takes: by name or by position."""
        flat = [*given, *self._constants.values()]
        if self._in_order is None:
            return dict(zip(self._names, flat, strict=True))
        return self._in_order(flat)


def _picking(positions: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """Returns a function that picks the items of a list at these positions, in this order."""
    if positions == list(range(len(positions))):
        return lambda flat: flat[: len(positions)]
    return itemgetter(*positions) if len(positions) > 1 else lambda flat: [flat[positions[0]]]


def inserting(
    table: Table, columns: Sequence[str], on_conflict: Callable[[Insert], Insert] = lambda statement: statement
) -> BulkStatement:
    """Returns a statement that inserts rows. `on_conflict` adds the clause for rows that exist already."""
    return BulkStatement(columns, lambda binds: on_conflict(insert(table).values(list(binds))))


def updating(
    table: Table,
    columns: Sequence[str],
    *where: Any,
    once: Collection[str] = (),
    also: Mapping[str, Any] | None = None,
) -> BulkStatement:
    """Returns a statement that updates rows. The first column is the key of a row; the other columns get new values.

    Only rows that meet `where` change. A column in `once` is set only where it is null. `also` has columns that get the
    same expression in all rows. Each key may come once: of two rows with one key the database takes either.
    """

    def statement(binds: Binds) -> Update:
        types = [table.c[name].type for name in columns]
        first, *others = ([row[name] for name in columns] for row in binds)
        # The first row states the columns' types, which PostgreSQL cannot derive from nulls.
        data = [tuple(cast(bind, type_) for bind, type_ in zip(first, types, strict=True)), *map(tuple, others)]
        heads = (column(name, type_) for name, type_ in zip(columns, types, strict=True))
        given = values(*heads, name="given").data(data).cte("given")
        key, *rest = columns
        new = {name: given.c[name] for name in rest} | dict(also or {})
        new |= {name: func.coalesce(table.c[name], given.c[name]) for name in once}
        return update(table).where(table.c[key] == given.c[key], *where).values(new)

    return BulkStatement(columns, statement)
