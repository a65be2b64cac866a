"""The rules of the host queues at their exact limits."""

import pytest

from bridge.core.model import PendingDelivery
from bridge.delivery.fairness import (
    HOSTS_REMEMBERED,
    WAITING_IN_ALL,
    ClaimedDelivery,
    HostHealth,
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


@pytest.mark.parametrize(("waiting", "wants"), [(0, True), (31, True), (32, True), (33, False), (64, False)])
def test_a_new_host_wants_more_until_half_of_its_queue_of_64_is_full(waiting: int, *, wants: bool) -> None:
    hosts = HostQueues(128, 8)
    assert hosts.wants_more(put(hosts, "a", waiting)) is wants


def test_a_failing_host_wants_more_only_while_nothing_waits_and_its_probe_may_begin() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"a": 3})
    host = hosts.get("a")
    assert host.health is HostHealth.FAILING
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
