"""Migrations make exactly the tables of `schema.py`, once, completely or not at all, and refuse a newer schema."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, Engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from bridge.core.errors import BadSetting
from bridge.store.database import Database, PostgresDatabase, SqliteDatabase, closing, connect
from bridge.store.migrate import head, migrate, upgrade
from bridge.store.open import open_database
from bridge.store.schema import metadata
from tests.databases import PostgresServer, empty_file


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{empty_file(tmp_path / 'bridge.db')}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.empty()


def tables(database: Database) -> set[str]:
    return database.read(lambda connection: set(inspect(connection).get_table_names()))


def index_definitions(connection: Connection) -> set[tuple[str, str]]:
    """Returns the names and definitions of all indexes."""
    sqlite = connection.dialect.name == "sqlite"
    query = (
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if sqlite
        else "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
    )
    return {(row[0], " ".join(row[1].split())) for row in connection.execute(text(query))}


def tables_without_rowid(connection: Connection) -> set[str]:
    """Returns the SQLite tables that are ordered by their key. Alembic does not compare this property."""
    if connection.dialect.name != "sqlite":
        return set()
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%WITHOUT ROWID%'"
    return set(connection.execute(text(query)).scalars())


def differences(connection: Connection) -> list[Any]:
    """Returns the differences between a database and `schema.py`, as Alembic sees them, without the indexes.

    Alembic does not know that some indexes belong to one dialect, and cannot read those of expressions.
    """
    options = {"compare_type": True, "include_object": lambda _object, _name, kind, *_rest: kind != "index"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*expression-based index")
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def test_the_revisions_build_what_a_new_database_gets(empty_url: str) -> None:
    with closing(connect(empty_url)) as database:
        database.transaction(upgrade)
        assert database.read(differences) == []
        built, without_rowid = database.read(index_definitions), database.read(tables_without_rowid)
        versions = database.read(lambda connection: connection.execute(text("SELECT * FROM alembic_version")).all())
        database.transaction(lambda connection: connection.execute(text("DROP TABLE alembic_version")))
        database.transaction(metadata.drop_all)
        migrate(database)
        assert database.read(differences) == []
        assert database.read(index_definitions) == built
        assert database.read(tables_without_rowid) == without_rowid
        again = database.read(lambda connection: connection.execute(text("SELECT * FROM alembic_version")).all())
        assert again == versions == [(head(),)]


def test_a_new_database_is_made_without_alembic(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from bridge.store.database import SqliteDatabase
from bridge.store.migrate import migrate
migrate(SqliteDatabase(Path({str(empty_file(tmp_path / "bridge.db"))!r})))
sys.exit("alembic" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_database_is_migrated_once(empty_url: str) -> None:
    with closing(connect(empty_url)) as database:
        migrate(database)
        assert tables(database) == {*metadata.tables, "alembic_version"}
        with statements() as seen:
            migrate(database)
        assert not any("CREATE" in one or ("alembic" in one.lower() and "INSERT" in one) for one in seen)


def test_several_bridges_that_start_at_once_migrate_once(empty_url: str, encryption_key: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: open_database(empty_url, [encryption_key]), range(4)))
    fingerprints = {cipher.fingerprint("test", b"data") for _, cipher in opened}
    found = [tables(database) for database, _ in opened]
    for database, _ in opened:
        database.close()
    assert all(names == {*metadata.tables, "alembic_version"} for names in found)
    assert len(fingerprints) == 1


def test_several_processes_can_open_a_new_file_at_once(tmp_path: Path) -> None:
    """A service and commands may start together. SQLite reports "locked" at once when two switch one file to WAL."""

    def use(database: SqliteDatabase) -> None:
        database.transaction(lambda connection: connection.execute(text("CREATE TABLE IF NOT EXISTS used (n)")))

    with ThreadPoolExecutor(6) as pool:
        for number in range(60):
            path = empty_file(tmp_path / f"{number}.db")
            databases = [SqliteDatabase(path) for _ in range(6)]
            list(pool.map(use, databases))
            for database in databases:
                database.close()


def test_a_database_of_the_first_version_is_migrated_with_its_rows(empty_url: str) -> None:
    first = import_module("bridge.store.migrations.versions.0001_first")

    def begin(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            first.upgrade()
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
        connection.execute(text("INSERT INTO hosts (host, failures, at) VALUES ('a.example:443', 3, 1.5)"))

    with closing(connect(empty_url)) as database:
        database.transaction(begin)
        migrate(database)
        stored = database.read(lambda connection: connection.execute(text("SELECT host, failures FROM hosts")).all())
        assert stored == [("a.example:443", 3)]
        assert database.read(differences) == []


def test_revisions_keep_old_pages_in_files_and_the_writer_keeps_them_in_memory(tmp_path: Path) -> None:
    """A revision may change all rows of a table, which need not fit in memory."""

    def temp_store(connection: Connection) -> int:
        found: int = connection.execute(text("PRAGMA temp_store")).scalar_one()
        return found

    default, in_memory = 0, 2
    with closing(SqliteDatabase(empty_file(tmp_path / "bridge.db"))) as database:
        assert database.large_transaction(temp_store) == default
        assert database.transaction(temp_store) == in_memory
        assert database.read(temp_store) == default


def test_a_newer_schema_is_refused_in_one_sentence(database_url: str, encryption_key: str) -> None:
    with closing(connect(database_url)) as database:
        database.transaction(
            lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        )
        with pytest.raises(BadSetting, match=r"^BRIDGE_DATABASE_URL: .* newer bridge \(schema 9999\)$"):
            open_database(database_url, [encryption_key])
        database.transaction(
            lambda connection: connection.execute(
                text("UPDATE alembic_version SET version_num = :head"), {"head": head()}
            )
        )


def test_a_migration_cut_short_by_a_power_failure_leaves_nothing_and_the_next_start_completes_it(
    tmp_path: Path,
) -> None:
    """A copy of the files that is made during the migration has what a killed process leaves."""
    path = empty_file(tmp_path / "bridge.db")
    left = tmp_path / "left"
    left.mkdir()

    def copy() -> None:
        for file in tmp_path.glob("bridge.db*"):
            shutil.copyfile(file, left / file.name)

    with closing(SqliteDatabase(path)) as database, at_statement(12, copy):
        migrate(database)
    with closing(SqliteDatabase(left / "bridge.db")) as database:
        assert tables(database) == set()
        migrate(database)
        assert tables(database) == {*metadata.tables, "alembic_version"}


def test_a_migration_cut_short_by_a_lost_connection_leaves_nothing_and_the_next_start_completes_it(
    postgres_server: PostgresServer,
) -> None:
    url = postgres_server.empty()
    name = url.rpartition("/")[2]

    def cut() -> None:
        postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608

    with closing(PostgresDatabase(url)) as database:
        with at_statement(12, cut, times=2), pytest.raises(DBAPIError):
            migrate(database)
        assert tables(database) == set()
        migrate(database)
        assert tables(database) == {*metadata.tables, "alembic_version"}


def test_a_migration_has_no_statement_timeout(postgres_server: PostgresServer, real_store_limits: None) -> None:
    """An index on a large table takes minutes to build. Every other statement has a limit of 3.5 s."""
    found: dict[str, str] = {}
    with closing(PostgresDatabase(postgres_server.empty())) as database:

        @event.listens_for(database._writing, "after_cursor_execute")
        def look(_connection: object, cursor: Any, statement: str, *_rest: object) -> None:
            if statement.lstrip().startswith("CREATE INDEX") and not found:
                for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                    found[name] = cursor.connection.execute(f"SHOW {name}").fetchone()[0]

        migrate(database)
        assert found == dict.fromkeys(found, "0")
        assert len(found) == 3
        stored = database.read(lambda connection: connection.execute(text("SHOW statement_timeout")).scalar_one())
        assert stored == "3500ms"


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collects the statements that this process executes during the block."""
    seen: list[str] = []

    def add(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", add)
    yield seen
    event.remove(Engine, "before_cursor_execute", add)


@contextmanager
def at_statement(number: int, action: Any, *, times: int = 1) -> Iterator[None]:
    """Call `action` before every `number`-th statement that makes a table or an index, but only `times` times."""
    made = 0
    calls = 0

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        nonlocal made, calls
        made += statement.lstrip().startswith("CREATE")
        if made == number and calls < times:
            made, calls = 0, calls + 1
            action()

    event.listen(Engine, "before_cursor_execute", count)
    yield
    event.remove(Engine, "before_cursor_execute", count)
    assert calls == times
