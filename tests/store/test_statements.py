"""How many statements a watch takes, from registration to delivery, as PostgreSQL's own log shows."""

import re
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import Connection, text

from bridge.store.open import open_store
from bridge.store.replicas import adopt
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests import store_limits
from tests.databases import PostgresServer
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    attempt_result,
    execute,
    new_watch,
    record_attempt,
    record_status,
    register_watch,
    retry_at,
    settle,
)

Logged = Callable[[], list[str]]

_LOGGED = re.compile(r"LOG: {2}(?:statement|execute [^:]+): (.*?)(?=\n\S|\Z)", re.DOTALL)
_TABLE = re.compile(r"(?:FROM|INTO|UPDATE) (?!\()(\w+)")


@pytest.fixture
def logging_url(postgres_server: PostgresServer) -> str:
    """A database that logs every statement."""
    url = postgres_server.migrated()
    postgres_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET log_statement = 'all'")
    return url


@pytest.fixture
async def store(logging_url: str, encryption_key: str) -> AsyncIterator[Store]:
    opened = await open_store(logging_url, [encryption_key], Metrics())
    await register_watch(opened)  # the first registration counts the active watches
    yield opened
    await opened.close()


@pytest.fixture
def logged(postgres_server: PostgresServer, store: Store) -> Logged:
    """Returns a function that returns the statements since its last call: the first word of each, and its table."""
    seen = len(postgres_server.log.read_text())

    def read_new() -> list[str]:
        nonlocal seen
        text = postgres_server.log.read_text()
        new, seen = text[seen:], len(text)
        return [_short(statement) for statement in _LOGGED.findall(new)]

    return read_new


def _short(statement: str) -> str:
    words = " ".join(statement.split())
    words = re.sub(r"^WITH given.*?\)\) UPDATE", "UPDATE", words)
    main = re.sub(r"^WITH .*\) SELECT", "WITH", words)
    return " ".join([words.partition(" ")[0].rstrip(";"), *_TABLE.findall(main)[:1]])


async def test_a_watch_takes_four_transactions_with_the_fewest_statements(store: Store, logged: Logged) -> None:
    one = await register_watch(store)
    assert logged() == ["BEGIN", "SELECT watches", "SELECT replicas", "INSERT tasks", "INSERT watches", "COMMIT"]
    await record_status(store, one)
    assert logged() == ["BEGIN", "WITH tasks", "SELECT watches", "UPDATE tasks", "COMMIT"]
    [end] = (await settle(store, one)).claimed
    claimed = ["BEGIN", "WITH tasks", "SELECT watches"]
    ended = ["UPDATE watches", "INSERT events", "INSERT outbox", "INSERT deliveries", "UPDATE tasks", "COMMIT"]
    assert logged() == [*claimed, *ended]
    await record_attempt(store, attempt_result(store, end))
    assert logged() == ["BEGIN", "DELETE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]


async def test_pending_status_events_are_looked_up_only_for_a_watch_that_asked_for_them(
    store: Store, logged: Logged
) -> None:
    one = await register_watch(store, events=ALL_EVENTS)
    await record_status(store, one)
    logged()
    await settle(store, one)
    assert logged().count("SELECT outbox") == 1


async def test_a_failed_attempt_takes_as_few_statements(store: Store, logged: Logged) -> None:
    [end] = (await settle(store, await register_watch(store))).claimed
    logged()
    await record_attempt(store, attempt_result(store, end, retry_at(store.now() - 1)))
    assert logged() == ["BEGIN", "SELECT outbox", "UPDATE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]
    [again] = await store.claim({end.host: 1}, 60.0)
    logged()
    await record_attempt(store, attempt_result(store, again, DEAD))
    assert logged() == ["BEGIN", "DELETE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]


async def test_a_heartbeat_is_one_row_however_many_tasks_there_are(store: Store, logged: Logged) -> None:
    for tasks in (1, 100):
        await store.register_all([new_watch(store) for _ in range(tasks)])
        logged()
        await store.renew(tasks)
        assert logged() == ["BEGIN", "UPDATE replicas", "COMMIT"]


async def test_a_read_takes_one_transaction_whose_begin_sets_its_limits(
    store: Store, logged: Logged, postgres_server: PostgresServer
) -> None:
    """A pooler in transaction mode keeps no limits that are set for a session."""
    one = await register_watch(store)
    logged()
    await store.watch(one.watch.id, None)
    assert logged() == ["BEGIN", "SELECT watches", "SELECT deliveries", "SELECT audit", "COMMIT"]
    await store.overdue(None, 10)
    assert logged() == ["BEGIN", "SELECT watches", "COMMIT"]
    begin = f"BEGIN; SET LOCAL statement_timeout = {3500 * store_limits.FACTOR:.0f}; SET LOCAL lock_timeout"
    assert begin in postgres_server.log.read_text()


async def test_many_registrations_share_one_transaction_and_its_queries(store: Store, logged: Logged) -> None:
    """Each registration inserts two rows, in groups of a power of two. Each SELECT runs once for all registrations."""
    await store.register_all([new_watch(store) for _ in range(50)])
    statements = logged()
    assert statements.count("COMMIT") == 1
    assert len([one for one in statements if one.startswith("SELECT")]) == 2
    assert len(statements) == 2 + 2 + 2 * len([32, 16, 2])


OWNED = """
    INSERT INTO tasks (id, key, task_id, credential, status, polls, owner, news, wants_status, opened_at)
    SELECT 'tsk_many' || n, 'key' || n, 'task' || n, 'configured', 'unknown', 0, :owner, false, false, 0
    FROM generate_series(1, 20000) AS n
"""
READ = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'tasks'")


async def test_adopting_reads_the_unowned_tasks_and_not_every_open_one(store: Store) -> None:
    """The plan must not depend on statistics: they may be from a time when no task had an owner."""
    execute(store, OWNED, owner=None)
    execute(store, "ANALYZE tasks")
    execute(store, "TRUNCATE tasks")  # TRUNCATE keeps the statistics
    execute(store, OWNED, owner="rep_elsewhere")
    one = await register_watch(store)
    execute(store, "UPDATE tasks SET owner = NULL WHERE id = :id", id=one.view.task.row)

    def adopt_and_count(connection: Connection) -> tuple[int, int]:
        found = adopt(connection, store.replica, 500)
        return len(found), connection.execute(READ).scalar_one()

    adopted, read = store._database.transaction(adopt_and_count)
    assert adopted == 1
    assert read < 100
