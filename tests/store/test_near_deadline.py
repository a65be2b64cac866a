"""The number of watches near their deadline, compared with a count of all watches."""

from sqlalchemy import Connection, text

from bridge.store.near_deadline import COUNTED, NearDeadlineCount
from bridge.store.store import Store
from tests.store.builders import new_watch, register, register_watch, settle

_COUNT_ALL = text("SELECT count(*) FROM watches WHERE state = 'active' AND deadline_at - :now <= timeout_seconds * 0.1")


def count_all(connection: Connection, now: float) -> int:
    """Returns the number of watches near their deadline, of all watches."""
    count: int = connection.execute(_COUNT_ALL, {"now": now}).scalar_one()
    return count


def counts(store: Store, counted: NearDeadlineCount, now: float) -> tuple[int, int]:
    """Returns the number that `counted` returns, and the number of all watches."""
    return store._database.read(counted.count, now), store._database.read(count_all, now)


async def test_watches_with_any_timeout_are_counted_from_the_last_tenth_of_their_time_on(store: Store) -> None:
    counted, now = NearDeadlineCount(), store.now()
    assert counts(store, counted, now) == (0, 0)
    for timeout in (50.0, 1_000.0, 1_000.0, 80_000.0):
        await register_watch(store, timeout=timeout)
    found = []
    for seconds in (1, 44, 46, 890, 910, 1_100, 71_000, 73_000):
        [count, expected] = counts(store, counted, now + seconds)
        assert count == expected
        found.append(count)
    assert found == [0, 0, 1, 1, 3, 3, 3, 4]


async def test_a_later_watch_with_a_longer_timeout_is_counted_in_its_last_tenth(store: Store) -> None:
    counted, now = NearDeadlineCount(), store.now()
    await register_watch(store, timeout=1_000.0)
    assert counts(store, counted, now) == (0, 0)
    await register_watch(store, timeout=10_000.0)
    assert counts(store, counted, now + 9_100) == (2, 2)


async def test_after_the_clock_was_set_back_the_longest_timeout_is_read_again(store: Store) -> None:
    counted, now = NearDeadlineCount(), store.now()
    await register_watch(store, timeout=100.0)
    assert counts(store, counted, now + 86_400) == (1, 1)
    await register_watch(store, timeout=1_000.0)
    assert counts(store, counted, now + 910) == (2, 2)


async def test_a_watch_that_ended_is_not_counted(store: Store) -> None:
    counted = NearDeadlineCount()
    await settle(store, await register_watch(store, age=990.0, timeout=1_000.0))
    await register_watch(store, age=990.0, timeout=1_000.0)
    assert counts(store, counted, store.now()) == (1, 1)


async def test_at_most_a_thousand_are_counted(store: Store) -> None:
    late = [new_watch(store, age=990.0, timeout=1_000.0) for _ in range(COUNTED + 1)]
    for each in late:
        await register(store, each)
    assert counts(store, NearDeadlineCount(), store.now()) == (COUNTED, COUNTED + 1)
