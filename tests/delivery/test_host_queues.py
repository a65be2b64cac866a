"""The rules of the host queues at their exact limits."""

import pytest

from bridge.core.fairness import POOLS
from bridge.core.model import PendingDelivery
from bridge.core.receivers import ReceiverHealth
from bridge.delivery.fairness import (
    HOSTS_REMEMBERED,
    WAITING_IN_ALL,
    ClaimedDelivery,
    HostQueue,
    HostQueues,
)


def claimed(host: str, number: int = 0) -> ClaimedDelivery:
    delivery = PendingDelivery(f"evt_{number}", "wat_1", "app", "video.completed", "", host, b"", "", 0, 0)
    return ClaimedDelivery(delivery, 100.0)


def put(hosts: HostQueues, name: str, count: int) -> HostQueue:
    for number in range(count):
        hosts.put(hosts.get(name), claimed(name, number))
    return hosts.get(name)


def attempt(hosts: HostQueues, name: str, failures: int = 0) -> HostQueue:
    host = hosts.get(name)
    hosts.begin(host)
    hosts.end(host, failures, 0.01, answered=not failures)
    return host


def test_nothing_begins_while_every_slot_is_taken() -> None:
    hosts = HostQueues(concurrency=1, per_host=8)
    hosts.begin(attempt(hosts, "first"))
    put(hosts, "second", 1)
    attempted = hosts.get("second")
    assert not hosts.may_begin(attempted)
    assert hosts.next() is None
    hosts.end(hosts.get("first"), 0, 0.01, answered=True)
    found = hosts.next()
    assert found is not None
    assert found[0] is attempted


@pytest.mark.parametrize(("concurrency", "taken", "most"), [(128, 100, 4), (128, 120, 1), (128, 0, 8), (20, 15, 5)])
def test_a_healthy_host_may_have_fewer_attempts_the_fuller_the_slots(concurrency: int, taken: int, most: int) -> None:
    hosts = HostQueues(concurrency, per_host=8)
    others = [attempt(hosts, f"other {number}") for number in range(concurrency)]
    for other in others[:taken]:
        hosts.begin(other)
    assert hosts._max_attempts(tuple(hosts._busy))[POOLS[ReceiverHealth.HEALTHY]] == most


def test_a_paused_host_may_neither_begin_nor_wait_nor_claim_until_it_is_resumed() -> None:
    hosts = HostQueues(concurrency=2, per_host=1)
    host = hosts.get("host")
    hosts.paused = frozenset({"host"})
    assert not (hosts.may_begin(host) or hosts.may_wait(host) or hosts.wants_more(host) or hosts.plan({"host": 5}))
    hosts.paused = frozenset({"another"})
    assert hosts.may_begin(host) and hosts.may_wait(host) and hosts.wants_more(host) and hosts.plan({"host": 5})
    hosts.begin(host)
    assert not hosts.may_begin(host)


def test_an_attempt_that_was_not_made_frees_its_slot_and_shows_nothing() -> None:
    hosts = HostQueues(concurrency=3, per_host=1)
    host = attempt(hosts, "host")
    before = (host.failures, host.health, host.average_seconds)
    other = attempt(hosts, "other")
    hosts.begin(other)
    hosts.begin(host)
    put(hosts, "host", 1)
    assert hosts.next() is None
    hosts.abandon(host)
    assert (host.busy, hosts.busy) == (0, 1)
    hosts.begin(host)
    hosts.begin(host)
    hosts.abandon(host)
    assert (host.busy, hosts.busy) == (1, 2)
    hosts.abandon(host)
    assert (host.failures, host.health, host.average_seconds) == before
    found = hosts.next()
    assert found is not None
    assert found[0] is host


@pytest.mark.parametrize(("waiting", "wants"), [(0, True), (31, True), (32, True), (33, False), (64, False)])
def test_a_new_host_wants_more_until_half_of_its_queue_of_64_is_full(waiting: int, *, wants: bool) -> None:
    hosts = HostQueues(128, 8)
    assert hosts.wants_more(put(hosts, "a", waiting)) is wants


def test_a_failing_host_wants_more_only_while_nothing_waits_and_its_probe_may_begin() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"a": 3})
    host = hosts.get("a")
    assert host.health is ReceiverHealth.FAILING
    assert hosts.wants_more(host)
    put(hosts, "a", 1)
    assert not hosts.wants_more(host)
    hosts.remove_all_waiting()
    hosts.begin(host)
    assert not hosts.wants_more(host)


def test_a_removed_delivery_leaves_the_others_of_its_host_in_turn() -> None:
    hosts = HostQueues(128, 8)
    first, second = claimed("a", 1), claimed("a", 2)
    for one in (first, second):
        hosts.put(hosts.get("a"), one)
    assert hosts.remove(first)
    assert not hosts.remove(first)
    assert hosts.next() == (hosts.get("a"), second)
    assert hosts.next() is None
    hosts.put(hosts.get("a"), first)
    assert hosts.remove(first)
    assert hosts.remove_waiting(hosts.get("a")) == []
    assert hosts.next() is None
    assert hosts.ready == 0


def test_a_plan_leaves_out_a_host_that_wants_no_more_and_goes_on_with_the_next() -> None:
    hosts = HostQueues(128, 8)
    put(hosts, "full", 40)
    attempt(hosts, "later")
    assert set(hosts.plan({"full": 5, "later": 5})) == {"later"}


def test_a_plan_counts_what_waits_already_against_the_room_of_all() -> None:
    hosts = HostQueues(1, 1)
    for number in range(31):
        put(hosts, f"a{number}", 64)
    assert hosts.ready == 1984
    hosts.begin(hosts.get("a0"))
    host = attempt(hosts, "b")
    host.average_seconds = 0.001
    hosts.begin(host)
    assert hosts.plan({"b": 500}) == {"b": (WAITING_IN_ALL - 1984) // 4}


def test_a_plan_counts_what_a_host_has_waiting_already() -> None:
    hosts = HostQueues(128, 8)
    put(hosts, "a", 3)
    assert hosts.plan({"a": 100}) == {"a": 5 + 61}  # 8 attempts and 64 waiting deliveries, less the 3 that wait already
    put(hosts, "b", 10)
    assert hosts.plan({"b": 100}) == {}, "its next attempts are waiting already"
    assert hosts.plan({"c": 16}) == {"c": 8 + 8}


def test_a_plan_gives_new_hosts_attempts_until_their_share_is_used_and_then_one_that_waits() -> None:
    hosts = HostQueues(16, 8)
    names = [f"h{number}" for number in range(9)]
    plan = hosts.plan(dict.fromkeys(names, 100))
    # New hosts share 14 of 16 slots: the first has 8, six have one each. Up to 64 wait behind them.
    assert [plan[name] for name in names] == [8 + 64, *[1 + 64] * 6, 1, 1]


def test_a_plan_gives_each_host_at_most_a_quarter_of_the_room_that_is_left() -> None:
    hosts = HostQueues(128, 8)
    for number in range(31):
        put(hosts, f"a{number}", 64 if number else 63)
    assert hosts.ready == WAITING_IN_ALL - 17
    assert hosts.plan({"x": 100, "y": 100}) == {"x": 8 + 5, "y": 8 + 3}


def test_a_healthy_host_alone_is_planned_with_all_slots() -> None:
    hosts = HostQueues(16, 16)
    attempt(hosts, "a")
    assert hosts.plan({"a": 1000}) == {"a": 16 + 256}


def test_slots_of_healthy_hosts_do_not_count_against_the_share_of_new_ones() -> None:
    hosts = HostQueues(16, 8)
    healthy, new = attempt(hosts, "a"), hosts.get("b")
    for _ in range(8):
        hosts.begin(healthy)
    begun = 0
    while hosts.may_begin(new):
        hosts.begin(new)
        begun += 1
    assert begun == 2


def test_a_host_at_its_limit_does_not_stop_the_search_for_the_next() -> None:
    hosts = HostQueues(8, 1)
    hosts.begin(hosts.get("a"))
    put(hosts, "a", 1)
    put(hosts, "b", 1)
    found = hosts.next()
    assert found is not None
    assert found[0] is hosts.get("b")


@pytest.mark.parametrize(
    ("per_host", "failures", "seconds", "most"),
    [(8, 1, 0.01, 8), (8, 0, 0.01, 256), (1, 0, 100.0, 1), (1, 0, 2.0, 2), (8, 0, 20.0, 2)],
)
def test_as_many_may_wait_for_a_host_as_it_receives_in_five_seconds(
    per_host: int, failures: int, seconds: float, most: int
) -> None:
    hosts = HostQueues(128, per_host)
    host = hosts.get("a")
    hosts.begin(host)
    hosts.end(host, failures, seconds, answered=not failures)
    while hosts.may_wait(host):
        put(hosts, "a", 1)
    assert len(host.waiting) == most


def test_the_slots_of_a_host_follow_it_to_its_new_health() -> None:
    hosts = HostQueues(8, 2)
    hosts.load({"c": 1})
    hosts.begin(hosts.get("c"))
    for _ in range(2):
        hosts.begin(hosts.get("a"))
    hosts.end(hosts.get("a"), 1, 0.01, answered=False)
    assert hosts.get("a").health is hosts.get("c").health is ReceiverHealth.DOUBTFUL
    assert hosts.busy == 2


def test_the_average_duration_moves_a_fifth_towards_each_new_attempt() -> None:
    hosts = HostQueues(8, 1)
    host = hosts.get("a")
    averages = []
    for seconds in (1.0, 2.0, 1.2, 0.2):
        hosts.begin(host)
        hosts.end(host, 0, seconds, answered=True)
        averages.append(host.average_seconds)
    assert averages == pytest.approx([1.0, 1.2, 1.2, 1.0])


def test_idle_hosts_are_forgotten_above_the_maximum_down_to_half_of_it() -> None:
    hosts = HostQueues(1, 1)
    for number in range(HOSTS_REMEMBERED):
        attempt(hosts, f"h{number}")
    hosts.forget_idle()
    assert len(hosts._hosts) == HOSTS_REMEMBERED
    attempt(hosts, "one more")
    hosts.forget_idle()
    assert len(hosts._hosts) == HOSTS_REMEMBERED // 2
    assert "one more" in hosts._hosts
    assert "h0" not in hosts._hosts
