"""Operations of owners, apps and receivers, and crashes, in any order on a real file: the invariants always hold."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bridge.core.delivery import Verdict
from bridge.core.errors import LostClaim, NotFound, WatchCancelled, WatchConflict, WatchSettled
from bridge.core.ids import event_id
from bridge.core.model import TERMINAL_EVENTS, EventType, PendingDelivery, TaskSnapshot, Watch
from bridge.core.watch import Ending
from bridge.store.records import DeadFilter, RegisteredWatch
from bridge.store.store import Store
from tests.databases import delete_rows
from tests.store.builders import (
    DEAD,
    DELIVERED,
    HOST,
    QUEUED,
    RUNNING,
    attempt_result,
    completed,
    failed,
    new_watch,
    record_attempt,
    retry_at,
    rows,
    settlement,
    status_change,
    timed_out,
)

T0 = 1_795_446_245.0
TASKS = st.integers(0, 2)
PICKS = st.integers(0, 1_000)
SECONDS = st.sampled_from([0.0, 1.0, 30.0, 4_000.0])
EVENTS = st.sampled_from(
    [TERMINAL_EVENTS, TERMINAL_EVENTS | {EventType.QUEUED, EventType.IN_PROGRESS}, frozenset({EventType.FAILED})]
)
ENDINGS: list[Callable[[Watch], Ending | None]] = [lambda _: None, completed, failed, timed_out]

# Each query finds rows that must not exist.
FORBIDDEN = {
    "an active watch without an open task": """
        SELECT watches.id FROM watches LEFT JOIN tasks ON tasks.id = watches.task AND tasks.closed_at IS NULL
        WHERE watches.state = 'active' AND tasks.id IS NULL""",
    "an open task without an active watch or an owner": """
        SELECT id FROM tasks WHERE closed_at IS NULL AND (owner IS NOT 'local' OR NOT EXISTS
        (SELECT 1 FROM watches WHERE watches.task = tasks.id AND watches.state = 'active'))""",
    "two open tasks of one key": "SELECT key FROM tasks WHERE closed_at IS NULL GROUP BY key HAVING count(*) > 1",
    "a watch whose state and terminal events disagree": """
        SELECT watches.id FROM watches LEFT JOIN events ON events.watch_id = watches.id AND events.terminal
        GROUP BY watches.id HAVING count(events.type) <> (watches.state = 'settled')
        OR (watches.state = 'settled') <> (watches.outcome IS NOT NULL)
        OR (watches.state = 'active') <> (watches.ended_at IS NULL)""",
    "a pending delivery that is not in the outbox, or the other way round": """
        SELECT id FROM deliveries WHERE (state = 'pending') <> (id IN (SELECT id FROM outbox))
        UNION ALL SELECT id FROM outbox WHERE id NOT IN (SELECT id FROM deliveries)""",
    "a delivery with a time that its state does not have": """
        SELECT id FROM deliveries WHERE (state = 'delivered') <> (delivered_at IS NOT NULL)
        OR (state = 'dead') <> (dead_at IS NOT NULL) OR (state = 'pending') <> (next_attempt_at IS NOT NULL)""",
    "a delivery due before it was postponed, or with half a claim": """
        SELECT id FROM outbox WHERE due_at < set_at OR (lease IS NULL) <> (holder IS NULL)""",
    "a delivery with a wrong count of attempts": """
        SELECT id FROM deliveries WHERE attempts <> (SELECT count(*) FROM attempts WHERE delivery_id = deliveries.id)
        OR round_attempts > attempts""",
    "a row whose watch is gone": """
        SELECT id FROM deliveries WHERE watch_id NOT IN (SELECT id FROM watches)
        UNION ALL SELECT watch_id FROM events WHERE watch_id NOT IN (SELECT id FROM watches)
        UNION ALL SELECT delivery_id FROM attempts WHERE delivery_id NOT IN (SELECT id FROM deliveries)
        UNION ALL SELECT id FROM tasks WHERE id NOT IN (SELECT task FROM watches)""",
}


class Clock:
    """A clock in Unix seconds that the test sets."""

    def __init__(self) -> None:
        self.at = T0

    def __call__(self) -> float:
        return self.at


class Bridge(RuleBasedStateMachine):
    """The operations on a store, and the invariants."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.runner = asyncio.Runner()
        self.number = 0  # ids are numbered here, so that a sequence can be repeated
        self.tasks: list[str] = []
        self.watches: list[str] = []
        self.claims: list[PendingDelivery] = []  # valid, lost and used claims
        self.final: dict[str, tuple[Any, ...]] = {}
        self.retried: set[str] = set()  # deliveries that were retried on request
        self.payloads: dict[tuple[str, str], bytes] = {}
        delete_rows(store)
        self.runner.run(store.rejoin())

    def teardown(self) -> None:
        self.runner.close()

    # --- apps -----------------------------------------------------------------------------------------------------

    @rule(task=TASKS, path=TASKS, events=EVENTS, timeout=SECONDS, key=st.sampled_from([None, "a", "b"]))
    def register(self, task: int, path: int, events: frozenset[EventType], timeout: float, key: str | None) -> None:
        self.number += 1
        new = new_watch(
            self.store,
            number=self.number,
            task_id=f"task_{task}",
            path=f"{path}",
            events=events,
            timeout=timeout + 1,
            options=repr((sorted(events), timeout)).encode(),
            key=None if key is None else (key, repr((task, path, sorted(events), timeout)).encode()),
        )
        [result] = self.runner.run(self.store.register_all([new]))
        if not isinstance(result, RegisteredWatch):
            assert result.code in {"watch_conflict", "idempotency_conflict"}
            if isinstance(result, WatchConflict):
                assert result.watch_id in self.watches
            return
        if result.watch.id == new.watch.id:
            assert result.created
            assert result.task is not None
            self.watches.append(new.watch.id)
            self.tasks.append(result.view.task.row)
        else:
            assert result.watch.id in self.watches

    @precondition(lambda self: self.watches)
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        watch_id = self.watches[pick % len(self.watches)]
        try:
            view = self.runner.run(self.store.cancel(watch_id, "app"))
        except NotFound:
            assert watch_id not in self.final  # retention has deleted it
        except WatchSettled:
            assert self.final[watch_id][0] == "settled"
        else:
            assert view.watch.state == "cancelled"
            assert all(delivery.state != "pending" or delivery.id in self.retried for delivery in view.deliveries)

    # --- the poller -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.tasks)
    @rule(pick=PICKS, endings=st.lists(st.sampled_from(ENDINGS), min_size=3, max_size=3))
    def settle(self, pick: int, endings: list[Callable[[Watch], Ending | None]]) -> None:
        task = self.tasks[pick % len(self.tasks)]

        def ending(watch: Watch) -> Ending | None:
            return endings[int(watch.id[-2:]) % 3](watch)

        self.add_claims(self.store.settle(settlement(self.store, task, ending)))

    @precondition(lambda self: self.tasks)
    @rule(pick=PICKS, snapshot=st.sampled_from([QUEUED, RUNNING]))
    def record_status(self, pick: int, snapshot: TaskSnapshot) -> None:
        self.add_claims(
            self.store.record_status(status_change(self.store, self.tasks[pick % len(self.tasks)], snapshot))
        )

    def add_claims(self, change: Any) -> None:
        try:
            self.claims += self.runner.run(change).claimed
        except LostClaim:
            return

    # --- the deliverer --------------------------------------------------------------------------------------------

    @rule(room=st.integers(1, 3), seconds=SECONDS)
    def claim(self, room: int, seconds: float) -> None:
        claimed = self.runner.run(self.store.claim({HOST: room}, seconds))
        assert len(claimed) <= room
        self.claims += claimed

    @precondition(lambda self: self.claims)
    @rule(pick=PICKS, verdict=st.sampled_from([DELIVERED, DEAD, None]), seconds=SECONDS)
    def record(self, pick: int, verdict: Verdict | None, seconds: float) -> None:
        one = self.claims[pick % len(self.claims)]
        leases = rows(self.store, "SELECT lease FROM outbox WHERE id = :id", id=one.id)
        verdict = retry_at(self.clock.at + seconds) if verdict is None else verdict
        try:
            self.runner.run(record_attempt(self.store, attempt_result(self.store, one, verdict)))
        except LostClaim:
            assert leases != [(one.lease,)]
        else:
            assert leases == [(one.lease,)]
            view = self.runner.run(self.store.delivery(one.id, None))[0]
            assert view.next_attempt_at is None or view.next_attempt_at >= self.clock.at

    @precondition(lambda self: self.claims)
    @rule(pick=PICKS)
    def release(self, pick: int) -> None:
        self.runner.run(self.store.release([self.claims[pick % len(self.claims)]]))

    @precondition(lambda self: self.claims)
    @rule(pick=PICKS)
    def retry(self, pick: int) -> None:
        one = self.claims[pick % len(self.claims)]
        try:
            view = self.runner.run(self.store.retry(one.id, "app"))
        except (NotFound, WatchCancelled):
            return
        self.retried.add(one.id)
        assert view.state == "pending"

    @rule()
    def retry_all_dead(self) -> None:
        count = self.runner.run(self.store.count_dead(DeadFilter()))
        assert self.runner.run(self.store.retry_dead(DeadFilter())) == count
        assert self.runner.run(self.store.count_dead(DeadFilter())) == 0

    # --- time and crashes -----------------------------------------------------------------------------------------

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule(seconds=SECONDS)
    def set_clock_back(self, seconds: float) -> None:
        self.clock.at -= seconds
        self.runner.run(self.store.correct_future_times())
        assert rows(self.store, "SELECT id FROM outbox WHERE abs(set_at) > :later", later=self.clock.at + 1) == []

    @rule()
    def crash(self) -> None:
        """Restart. Deliveries that the last process had claimed are due now, and its claims are lost."""
        self.runner.run(self.store.rejoin())
        assert rows(self.store, "SELECT id FROM outbox WHERE lease IS NOT NULL") == []

    @rule(seconds=SECONDS)
    def sweep(self, seconds: float) -> None:
        before = self.clock.at - seconds
        with_pending = {
            row.watch_id for row in rows(self.store, "SELECT watch_id FROM deliveries WHERE state = 'pending'")
        }
        self.runner.run(self.store.delete_ended_before(before, 100))
        left = {row.id for row in rows(self.store, "SELECT id FROM watches")}
        assert with_pending <= left
        for watch_id in self.final.keys() - left:
            del self.final[watch_id]

    # --- invariants -----------------------------------------------------------------------------------------------

    @invariant()
    def no_forbidden_rows(self) -> None:
        assert {name: found for name, query in FORBIDDEN.items() if (found := rows(self.store, query))} == {}

    @invariant()
    def final_watches_do_not_change(self) -> None:
        found = rows(self.store, "SELECT id, state, outcome, ended_at FROM watches WHERE state <> 'active'")
        now = {row.id: tuple(row[1:]) for row in found}
        assert {watch_id: now.get(watch_id) for watch_id in self.final} == self.final
        self.final = now

    @invariant()
    def events_never_change_and_are_sent_only_where_asked_for(self) -> None:
        found = rows(self.store, "SELECT watch_id, type, payload FROM events")
        now = {(row.watch_id, row.type): row.payload for row in found}
        assert all(now.get(key, payload) == payload for key, payload in self.payloads.items())
        self.payloads |= now
        asked = {row.id: row.events.split(",") for row in rows(self.store, "SELECT id, events FROM watches")}
        for row in rows(self.store, "SELECT id, watch_id, type FROM deliveries"):
            assert row.type in asked[row.watch_id]
            assert row.id == event_id(row.watch_id, EventType(row.type))


@pytest.fixture
def machine(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Bridge]:
    def make() -> Bridge:
        clock = Clock()
        monkeypatch.setattr(sqlite_store._database, "now", clock)
        return Bridge(sqlite_store, clock)

    return make


def run(machine: Any, examples: int, steps: int) -> None:
    # A step takes 10 ms and more. The tests do not limit this time.
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    run_state_machine_as_test(machine, settings=options)


def test_the_invariants_hold_in_any_order_of_operations(machine: Callable[[], Bridge]) -> None:
    run(machine, examples=8, steps=16)


@pytest.mark.long
def test_the_invariants_hold_in_long_sequences(machine: Callable[[], Bridge]) -> None:
    run(machine, examples=60, steps=50)
