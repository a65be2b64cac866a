"""The schema of version 0.2.0: today's tables have all its columns, and a file of that version is upgraded in place.

`schema/` holds what version 0.2.0 made: its DDL for both databases, and the dump of an SQLite file with rows.
"""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from bridge.core.errors import IdempotencyConflict
from bridge.core.model import DeliveryState, Outcome, WatchState
from bridge.store.open import open_store
from bridge.store.schema import metadata
from bridge.telemetry import Metrics
from tests.databases import empty_file
from tests.store.builders import HOST, SERVER_ERROR, attempt_result, new_watch, record_attempt, register, settlement

FOLDER = Path(__file__).parent / "schema"
KEY = "b2xkLWVuY3J5cHRpb24ta2V5LW9mLTAuMi4wLXRlc3Q="  # the encryption key of the dump
SIGNING_SECRET = "whsec_ZQ/I+SVjN4uMaEE4fpd4wv/UzO0JicNvmc4ifh20oI0="


def ddl(dialect: Dialect) -> str:
    """Returns the statements that create the tables of `schema.py`, each table followed by its indexes."""
    statements = []
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        elements: list[CreateTable | CreateIndex] = [CreateTable(table), *map(CreateIndex, indexes)]
        for element in elements:
            statement = str(element.compile(dialect=dialect)).strip()
            statements.append("\n".join(line.rstrip() for line in statement.splitlines()))
    return ";\n\n".join(statements) + ";\n"


def lines_by_statement(text: str) -> dict[str, set[str]]:
    """Returns the lines of each statement (a column or a condition each), by the statement's first line."""
    statements = [statement.strip().splitlines() for statement in text.split(";\n") if statement.strip()]
    return {lines[0]: {line.strip().rstrip(",") for line in lines} for lines in statements}


def columns(path: Path) -> set[tuple[str, str, str]]:
    """Returns every column of an SQLite file: its table, its name and its type."""
    query = "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"
    connection = sqlite3.connect(path)
    found = set(connection.execute(query).fetchall())
    connection.close()
    return found


# These are dropped or narrower since 0.2.0. Replicas of 0.2.0 that still run need more time without these indexes.
NARROWER_INDEXES = {"ix_outbox_due", "ix_outbox_holder", "ix_tasks_owner"}
WIDER_INDEXES = {"ix_watches_deadline"}  # has one more column at the end; each statement of 0.2.0 uses it as before
# An SQLite file has one process. On PostgreSQL a replica of 0.2.0 may still use these indexes.
REPLACED_WITH_SQLITE = {"ux_tasks_open", "ux_watches_active", "ix_watches_task", "ix_watches_task_id"}


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()], ids=["sqlite", "postgresql"])  # type: ignore[no-untyped-call]
def test_the_tables_have_every_column_and_nearly_every_index_of_0_2_0(dialect: Dialect) -> None:
    new = lines_by_statement(ddl(dialect))
    old = lines_by_statement((FOLDER / f"0.2.0-{dialect.name}.sql").read_text())
    missing = {head: lines - new.get(head, set()) for head, lines in old.items()}
    lacking = {head for head, lines in missing.items() if lines}
    expected = NARROWER_INDEXES | WIDER_INDEXES | (REPLACED_WITH_SQLITE if dialect.name == "sqlite" else set())
    assert {head for head in lacking if not expected.intersection(head.split())} == set()


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A database file of version 0.2.0."""
    path = empty_file(tmp_path / "bridge.db")
    connection = sqlite3.connect(path)
    connection.executescript((FOLDER / "0.2.0-database.sql").read_text())
    connection.close()
    return path


async def test_a_file_of_0_2_0_is_upgraded_in_place_and_used(old_file: Path) -> None:
    before = columns(old_file)
    store = await open_store(f"sqlite:///{old_file}", [KEY], Metrics())
    assert columns(old_file) > before

    assert await store.own_signing_secret() == SIGNING_SECRET
    assert {task.row for task in await store.own_tasks()} == {"tsk_00000001", "tsk_00000004"}
    assert await store.keys_of(["own"]) == {"own": "sk-own"}
    active, completed, dead, _, cancelled = [await store.watch(f"wat_{number:08}", "app") for number in range(1, 6)]
    assert (active.watch.state, active.task.snapshot.progress) == (WatchState.ACTIVE, 40)
    assert completed.watch.outcome is Outcome.COMPLETED
    assert [(one.state, one.last_error) for one in dead.deliveries] == [(DeliveryState.DEAD, SERVER_ERROR)]
    assert cancelled.watch.state is WatchState.CANCELLED

    claimed = {one.watch_id: one for one in await store.claim({HOST: 9}, 60.0)}
    assert set(claimed) == {active.watch.id, completed.watch.id}
    one = claimed[completed.watch.id]
    assert (one.secret, one.headers) == ("whsec_own", {"X-Token": "token"})
    assert one.payload == (await store.terminal_event(one.watch_id, "app")).payload
    await record_attempt(store, attempt_result(store, one))
    changed = await store.settle(settlement(store, "tsk_00000001"))
    assert [watch.id for watch in changed.settled] == [active.watch.id]
    await store.close()


async def test_an_idempotency_key_of_0_2_0_still_counts(old_file: Path) -> None:
    connection = sqlite3.connect(old_file)
    with connection:
        connection.execute("UPDATE idempotency SET created_at = unixepoch()")
    connection.close()
    store = await open_store(f"sqlite:///{old_file}", [KEY], Metrics())
    assert (await register(store, new_watch(store, key=("key", b"body")))).watch.id == "wat_00000001"
    with pytest.raises(IdempotencyConflict):
        await register(store, new_watch(store, key=("key", b"other")))
    await store.close()
