"""Many rows by one statement: prebuilt, and executed with plain values.

`executemany` gives the interpreter's lock away for each row, and the event loop takes it: a commit of 30 registrations
took 60 turns. And what Core does with each row's parameters costs twice what the database does with the row.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Connection, Table, Update, bindparam, cast, column, func, update, values
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.engine import Dialect

Binds: TypeAlias = Sequence[dict[str, BindParameter[Any]]]  # a row's parameters by their columns, for each row

# How many rows go at once, the largest that fits first: each is a text to compile and to keep prepared.
_SIZES = (32, 8, 1)


class Bulk:
    """A statement for any number of rows, each a tuple of values that the driver takes, in the columns' order."""

    def __init__(self, columns: Sequence[str], statement: Callable[[Binds], Insert | Update]) -> None:
        self._columns = columns
        self._statement = statement
        self._prepared: dict[tuple[str, int], _Prepared] = {}

    def execute(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute it for these rows, in their order; how many the database says that it changed."""
        changed = done = 0
        for size in _SIZES:
            while len(rows) - done >= size:
                changed += self._of(connection.dialect, size).execute(connection, rows[done : done + size])
                done += size
        return changed

    def _of(self, dialect: Dialect, size: int) -> "_Prepared":
        found = self._prepared.get((dialect.name, size))
        if found is None:
            names = [[f"{name}_{number}" for name in self._columns] for number in range(size)]
            binds: Binds = [dict(zip(self._columns, map(bindparam, row), strict=True)) for row in names]
            found = _Prepared(self._statement(binds), dialect, list(chain.from_iterable(names)))
            self._prepared[dialect.name, size] = found
        return found


class _Prepared:
    """A statement's text for one size, and how its parameters are given."""

    def __init__(self, statement: Insert | Update, dialect: Dialect, names: Sequence[str]) -> None:
        compiled = statement.compile(dialect=dialect)
        self._text = str(compiled)
        self._names = names
        self._places = None
        if compiled.positiontup is not None:
            self._places = itemgetter(*map(names.index, compiled.positiontup))

    def execute(self, connection: Connection, rows: Iterable[tuple[Any, ...]]) -> int:
        flat = list(chain.from_iterable(rows))
        given = dict(zip(self._names, flat, strict=True)) if self._places is None else self._places(flat)
        return connection.exec_driver_sql(self._text, given).rowcount


def inserting(
    table: Table, columns: Sequence[str], but: Callable[[Insert], Insert] = lambda statement: statement
) -> Bulk:
    """Insert rows of these columns; `but` says what a conflict does."""
    return Bulk(columns, lambda binds: but(insert(table).values(list(binds))))


def updating(
    table: Table,
    columns: Sequence[str],
    *where: Any,
    once: Collection[str] = (),
    also: Mapping[str, Any] | None = None,
) -> Bulk:
    """Set columns of the rows that the first one, a key, names, of those that are `where`.

    Those in `once` keep what they hold, `also` is the same for all. A key may come once: of two rows with one key the
    database takes any.
    """

    def statement(binds: Binds) -> Update:
        types = [table.c[name].type for name in columns]
        first, *others = ([row[name] for name in columns] for row in binds)
        # The first row tells PostgreSQL the columns' types, which it cannot see from nulls.
        data = [tuple(cast(bind, type_) for bind, type_ in zip(first, types, strict=True)), *map(tuple, others)]
        heads = (column(name, type_) for name, type_ in zip(columns, types, strict=True))
        given = values(*heads, name="given").data(data).cte("given")
        key, *rest = columns
        new = {name: given.c[name] for name in rest} | dict(also or {})
        new |= {name: func.coalesce(table.c[name], given.c[name]) for name in once}
        return update(table).where(table.c[key] == given.c[key], *where).values(new)

    return Bulk(columns, statement)
