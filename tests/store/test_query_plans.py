"""SQLite's query plans. SQLite keeps no statistics, so the plan for ten rows is the plan for a million.

Few rows must be found by an index of their own: no query here may read all settled watches or all watches of an app.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event

from bridge.core.model import DeliveryState, EventType, Outcome, WatchState
from bridge.store import driver
from bridge.store.event_feed import largest_number
from bridge.store.near_deadline import NearDeadlineCount
from bridge.store.records import DeadFilter, EventQuery, WatchQuery
from bridge.store.replicas import lock_own
from bridge.store.store import Store
from tests.databases import delete_rows
from tests.store.builders import new_watch, register, repeat_of

READS_ALL = (
    "SCAN watches",
    "SCAN watches USING INDEX sqlite_autoindex_watches_1",
    "SEARCH watches USING INDEX sqlite_autoindex_watches_1 (id<?)",
    "SEARCH watches USING INDEX ix_watches_app (app=?)",
    "SEARCH watches USING COVERING INDEX ix_watches_app (app=?)",
    "SEARCH watches USING INDEX ix_watches_app (app=? AND id<?)",
    "SCAN deliveries",
    "SCAN tasks",
    "SCAN events",
)


@contextmanager
def plans(store: Store) -> Iterator[list[str]]:
    """Collects the steps of the query plan of every SELECT in the block. The list is filled at the end of the block."""
    found: list[str] = []
    seen: list[str] = []
    traced: list[Any] = []

    def trace(connection: Any, *_: Any) -> None:
        traced.append(connection)
        connection.set_trace_callback(seen.append)

    database = store._database
    event.listen(database._reading, "checkout", trace)
    database.transaction(lambda connection: trace(connection.connection.dbapi_connection))
    try:
        yield found
    finally:
        event.remove(database._reading, "checkout", trace)
        for connection in traced:
            connection.set_trace_callback(None)
    for statement in seen:
        if statement.startswith(("SELECT", "WITH")):
            found += database.read(partial(_plan, statement=statement))


def _plan(connection: Connection, statement: str) -> list[str]:
    return [row[3] for row in driver.fetch(connection, f"EXPLAIN QUERY PLAN {statement}", ())]


@pytest.mark.parametrize("app", [None, "app"])
@pytest.mark.parametrize(
    "conditions",
    [
        {"task_id": "task_1"},
        {"task_id": "task_1", "state": WatchState.ACTIVE},
        {"task_id": "task_1", "state": WatchState.SETTLED},
        {"state": WatchState.ACTIVE},
        {"state": WatchState.CANCELLED},
        {"outcome": Outcome.FAILED},
        {"outcome": Outcome.FAILED, "state": WatchState.SETTLED},
        {"outcome": Outcome.COMPLETED, "task_id": "task_1"},
        {"outcome": Outcome.COMPLETED, "delivery_state": DeliveryState.DEAD},
        {"delivery_state": DeliveryState.PENDING},
        {"delivery_state": DeliveryState.DEAD},
        {"state": WatchState.SETTLED, "delivery_state": DeliveryState.DEAD},
    ],
    ids=str,
)
async def test_a_list_of_few_watches_reads_few_rows(
    sqlite_store: Store, conditions: dict[str, Any], app: str | None
) -> None:
    with plans(sqlite_store) as steps:
        await sqlite_store.watches(WatchQuery(limit=50, cursor="wat_z", app=app, **conditions))
    assert steps
    assert not set(steps).intersection(READS_ALL)


@pytest.mark.parametrize("conditions", [{}, {"app": "app"}, {"app": "app", "host": "127.0.0.1"}], ids=str)
async def test_dead_deliveries_are_found_by_their_own_index(sqlite_store: Store, conditions: dict[str, Any]) -> None:
    delete_rows(sqlite_store)  # rows of other tests
    with plans(sqlite_store) as steps:
        await sqlite_store.count_dead(DeadFilter(**conditions))
        await sqlite_store.retry_dead(DeadFilter(**conditions))
    assert steps.count("SCAN deliveries USING INDEX ix_deliveries_dead") == 2
    assert not set(steps).intersection(READS_ALL)


@pytest.mark.parametrize(
    "conditions",
    [
        {"state": WatchState.ACTIVE},
        {"state": WatchState.CANCELLED},
        {"outcome": Outcome.TIMED_OUT},
        {"delivery_state": DeliveryState.PENDING},
        {"delivery_state": DeliveryState.DEAD},
        {"tasks": ("row",)},
        {"nearing": 1_000.0},
    ],
    ids=str,
)
async def test_the_operators_table_of_few_watches_reads_few_rows(
    sqlite_store: Store, conditions: dict[str, Any]
) -> None:
    with plans(sqlite_store) as steps:
        await sqlite_store.watches(WatchQuery(limit=50, cursor="wat_z", given_up_only=True, **conditions))
    assert steps
    assert not set(steps).intersection(READS_ALL)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (EventQuery(100, app="app"), "ix_events_app (app=? AND number>?)"),
        (EventQuery(100), "ux_events_number (number>?)"),
        (
            EventQuery(100, app="app", types=frozenset({EventType.FAILED})),
            "ix_events_app (app=? AND number>? AND number<?)",
        ),
        (EventQuery(100, types=frozenset({EventType.FAILED})), "ux_events_number (number>? AND number<?)"),
    ],
    ids=str,
)
async def test_a_page_of_the_event_feed_reads_the_page_only(sqlite_store: Store, query: EventQuery, index: str) -> None:
    with plans(sqlite_store) as steps:
        await sqlite_store.feed.page(query)
    assert any(step.endswith(index) for step in steps)
    assert not [step for step in steps if "TEMP B-TREE" in step or step == "SCAN events"]


async def test_the_newest_number_is_looked_up_in_an_index(sqlite_store: Store) -> None:
    """Each settlement needs the newest number, and so does each request that waits for events."""
    with plans(sqlite_store) as steps:
        await sqlite_store.feed.latest("app")
        await sqlite_store.feed.latest(None)
        sqlite_store._database.read(largest_number)
    assert [step for step in steps if " events " in step] == [
        "SEARCH events USING COVERING INDEX ix_events_app (app=? AND number>?)",
        "SEARCH events USING INDEX ux_events_number (number>?)",
        "SEARCH events USING INDEX ux_events_number (number>?)",
    ]


@pytest.mark.parametrize("count", [1, 10, 250])
async def test_the_tasks_of_a_settlement_are_found_by_their_ids(sqlite_store: Store, count: int) -> None:
    rows = [f"row_{number}" for number in range(count)]
    with plans(sqlite_store) as steps:
        sqlite_store._database.read(lambda connection: lock_own(connection, sqlite_store.replica, rows))
    assert [step for step in steps if " tasks " in step] == ["SEARCH tasks USING INDEX sqlite_autoindex_tasks_1 (id=?)"]


async def test_a_registration_finds_equal_watches_and_open_tasks_by_one_index_of_task_ids(sqlite_store: Store) -> None:
    """A task id may have thousands of ended watches and closed tasks: they are not read."""
    new = new_watch(sqlite_store)
    await register(sqlite_store, new)
    with plans(sqlite_store) as steps:
        await sqlite_store.register_all([repeat_of(new), new_watch(sqlite_store, task_id=new.watch.task_id)])
    assert steps.count("SEARCH watches USING INDEX ux_watches_task (task=? AND <expr>=?)") == 1
    assert steps.count("SEARCH tasks USING INDEX ux_tasks_task_id (task_id=? AND <expr>>?)") == 1
    assert steps.count("SEARCH tasks USING INDEX ux_tasks_task_id (task_id=? AND <expr>=?)") == 1
    assert not set(steps).intersection(READS_ALL)


async def test_a_start_reads_the_open_tasks_in_the_order_of_the_table(sqlite_store: Store) -> None:
    """The index of open tasks is in random order. Through this index, a million tasks took more than a minute."""
    with plans(sqlite_store) as steps:
        await sqlite_store.own_tasks()
    assert steps == ["SCAN tasks"]


async def test_tasks_without_an_owner_are_found_by_their_own_index(sqlite_store: Store) -> None:
    await sqlite_store.rejoin()
    with plans(sqlite_store) as steps:
        await sqlite_store.adopt(100)
    assert [step for step in steps if " tasks " in step] == [
        "SEARCH tasks USING INDEX ix_tasks_owner (owner=?)",
        "SEARCH tasks USING INDEX ix_tasks_news (owner=?)",
    ]


async def test_the_watches_near_their_deadline_are_counted_without_the_table(sqlite_store: Store) -> None:
    """The count runs every 15 s. To read a million rows in random order would take seconds of CPU time."""
    seen: list[str] = []
    database = sqlite_store._database

    def count(connection: Connection) -> list[tuple[Any, ...]]:
        connection.connection.dbapi_connection.set_trace_callback(seen.append)  # type: ignore[union-attr]
        NearDeadlineCount().count(connection, sqlite_store.now())
        connection.connection.dbapi_connection.set_trace_callback(None)  # type: ignore[union-attr]
        return driver.fetch(connection, f"EXPLAIN {next(one for one in seen if 'deadline_at' in one)}", ())

    program = database.read(count)
    [(root,)] = database.read(
        lambda connection: driver.fetch(
            connection, "SELECT rootpage FROM sqlite_master WHERE name = 'ix_watches_deadline'", ()
        )
    )
    index = {step[2] for step in program if step[1] == "OpenRead" and step[3] == root}
    assert len(index) == 1
    assert {step[2] for step in program if step[1] == "Column"} == index


async def test_the_count_of_watches_near_their_deadline_does_not_read_late_deadlines(sqlite_store: Store) -> None:
    await register(sqlite_store, new_watch(sqlite_store))
    await sqlite_store.dashboard.nearing_deadline()
    with plans(sqlite_store) as steps:
        await sqlite_store.dashboard.nearing_deadline()
    assert [step for step in steps if " watches " in step] == [
        "SEARCH watches USING INDEX ix_watches_deadline (deadline_at<?)"
    ]


async def test_queries_that_run_every_few_seconds_read_few_rows(sqlite_store: Store) -> None:
    with plans(sqlite_store) as steps:
        await sqlite_store.active_count()
        await sqlite_store.delivery_counts()
        await sqlite_store.receivers.in_trouble()
        await sqlite_store.receivers.failing_count()
        await sqlite_store.dashboard.nearing_deadline()
        await sqlite_store.due_hosts()
        await sqlite_store.next_due_at()
        await sqlite_store.overdue(None, 100)
    assert steps
    assert not set(steps).intersection(READS_ALL)
