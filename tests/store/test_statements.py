"""What one watch's whole life costs the database, by the statements that PostgreSQL itself logs."""

import re
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import Connection, text

from bridge.core.errors import BridgeError
from bridge.store.open import open_store
from bridge.store.replicas import Adoption, adopt
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import PostgresServer
from tests.store.builders import (
    ALL_EVENTS,
    DEAD,
    change,
    new_watch,
    recorded,
    retry_at,
    settled,
    sighted,
    tried,
    watched,
)

Logged = Callable[[], list[str]]

_LOGGED = re.compile(r"LOG: {2}(?:statement|execute [^:]+): (.*?)(?=\n\S|\Z)", re.DOTALL)
_TABLE = re.compile(r"(?:FROM|INTO|UPDATE) (?!\()(\w+)")


@pytest.fixture
def logging_url(postgres_server: PostgresServer) -> str:
    """A database whose every statement is logged."""
    url = postgres_server.migrated()
    postgres_server.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET log_statement = 'all'")
    return url


@pytest.fixture
async def store(logging_url: str, encryption_key: str) -> AsyncIterator[Store]:
    opened = await open_store(logging_url, [encryption_key], Metrics())
    await watched(opened)  # the first counts the active watches
    yield opened
    await opened.close()


@pytest.fixture
def logged(postgres_server: PostgresServer, store: Store) -> Logged:
    """What was logged since the last look: each statement's first word and its table."""
    seen = len(postgres_server.log.read_text())

    def look() -> list[str]:
        nonlocal seen
        text = postgres_server.log.read_text()
        new, seen = text[seen:], len(text)
        return [_short(statement) for statement in _LOGGED.findall(new)]

    return look


def _short(statement: str) -> str:
    words = " ".join(statement.split())
    words = re.sub(r"^WITH given.*?\)\) UPDATE", "UPDATE", words)
    main = re.sub(r"^WITH .*\) SELECT", "WITH", words)
    return " ".join([words.partition(" ")[0], *_TABLE.findall(main)[:1]])


async def test_a_watchs_life_is_four_transactions_of_the_fewest_statements(store: Store, logged: Logged) -> None:
    one = await watched(store)
    assert logged() == ["BEGIN", "SELECT watches", "SELECT replicas", "INSERT tasks", "INSERT watches", "COMMIT"]
    await sighted(store, one)
    assert logged() == ["BEGIN", "WITH tasks", "SELECT watches", "UPDATE tasks", "COMMIT"]
    [end] = (await settled(store, one)).owed
    claimed = ["BEGIN", "WITH tasks", "SELECT watches"]
    ended = ["UPDATE watches", "INSERT events", "INSERT outbox", "INSERT deliveries", "UPDATE tasks", "COMMIT"]
    assert logged() == [*claimed, *ended]
    await recorded(store, tried(store, end))
    assert logged() == ["BEGIN", "DELETE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]


async def test_only_a_watch_that_asked_for_its_status_is_looked_at_for_what_it_still_owes(
    store: Store, logged: Logged
) -> None:
    one = await watched(store, events=ALL_EVENTS)
    await sighted(store, one)
    logged()
    await settled(store, one)
    assert logged().count("SELECT outbox") == 1


async def test_an_attempt_that_failed_takes_as_few(store: Store, logged: Logged) -> None:
    [end] = (await settled(store, await watched(store))).owed
    logged()
    await recorded(store, tried(store, end, retry_at(store.now() - 1)))
    assert logged() == ["BEGIN", "SELECT outbox", "UPDATE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]
    [again] = await store.claim({end.host: 1}, 60.0)
    logged()
    await recorded(store, tried(store, again, DEAD))
    assert logged() == ["BEGIN", "SELECT outbox", "DELETE outbox", "INSERT attempts", "UPDATE deliveries", "COMMIT"]


async def test_a_heartbeat_is_one_row_however_many_tasks_it_keeps(store: Store, logged: Logged) -> None:
    for tasks in (1, 100):
        await store.register_all([new_watch(store) for _ in range(tasks)])
        logged()
        await store.renew(tasks)
        assert logged() == ["BEGIN", "UPDATE replicas", "COMMIT"]


async def test_a_question_is_no_transaction(store: Store, logged: Logged) -> None:
    one = await watched(store)
    logged()
    await store.watch(one.watch.id, None)
    assert logged() == ["SELECT watches", "SELECT deliveries"]
    await store.overdue(None, 10)
    assert logged() == ["SELECT watches"]


async def test_many_lives_share_their_transactions_and_every_look(store: Store, logged: Logged) -> None:
    """Two rows each are written at registration, 32, 8 or one at once; what is asked is asked once for all."""
    await store.register_all([new_watch(store) for _ in range(50)])
    statements = logged()
    assert statements.count("COMMIT") == 1
    assert len([one for one in statements if one.startswith("SELECT")]) == 2
    assert len(statements) == 2 + 2 + 2 * len([32, 8, 8, 1, 1])


OWNED = """
    INSERT INTO tasks (id, key, task_id, credential, status, polls, owner, news, wants_status, opened_at)
    SELECT 'tsk_many' || n, 'key' || n, 'task' || n, 'configured', 'unknown', 0, :owner, false, false, 0
    FROM generate_series(1, 20000) AS n
"""
READ = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'tasks'")


async def test_a_look_reads_what_is_free_and_not_every_open_task(store: Store) -> None:
    """Whatever PostgreSQL believes of the owners: its figures may be those of a moment when all tasks were free."""
    change(store, OWNED, owner=None)
    change(store, "ANALYZE tasks")
    change(store, "TRUNCATE tasks")  # which leaves the figures as they are
    change(store, OWNED, owner="rep_elsewhere")
    one = await watched(store)
    change(store, "UPDATE tasks SET owner = NULL WHERE id = :id", id=one.task_row)

    def look(connection: Connection) -> tuple[int, int]:
        [found] = adopt(connection, [Adoption(store.replica, 500)])
        assert not isinstance(found, BridgeError)
        return len(found), connection.execute(READ).scalar_one()

    taken, read = store._database.transaction(look)
    assert taken == 1
    assert read < 100
