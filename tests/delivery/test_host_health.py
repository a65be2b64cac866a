"""The rules of fairness between hosts, without deliveries or time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.core.fairness import WAITING_PER_HOST, WAITING_PER_NEW_HOST
from bridge.core.model import PendingDelivery
from bridge.core.receivers import ReceiverHealth
from bridge.delivery.fairness import (
    HOSTS_PER_CLAIM,
    HOSTS_REMEMBERED,
    WAITING_IN_ALL,
    ClaimedDelivery,
    HostQueue,
    HostQueues,
)


def claimed(host: str, number: int = 0, begins_before: float = 100.0) -> ClaimedDelivery:
    return ClaimedDelivery(
        PendingDelivery(f"evt_{number}", "wat_1", "app", "video.completed", "", host, b"", "", 0, 0), begins_before
    )


def make_healthy(hosts: HostQueues, name: str, seconds: float = 0.01) -> HostQueue:
    host = hosts.get(name)
    hosts.begin(host)
    hosts.end(host, 0, seconds, answered=True)
    return host


def begin_all(hosts: HostQueues, host: HostQueue) -> int:
    begun = 0
    while hosts.may_begin(host):
        hosts.begin(host)
        begun += 1
    return begun


def fill(hosts: HostQueues, many: int, prefix: str = "hangs") -> None:
    for number in range(many):
        begin_all(hosts, hosts.get(f"{prefix}{number}"))


def test_one_host_gets_eight_attempts_at_a_time() -> None:
    hosts = HostQueues(128, 8)
    assert begin_all(hosts, hosts.get("a")) == 8


def test_one_host_alone_never_gets_more_than_half_of_the_slots() -> None:
    hosts = HostQueues(16, 16)
    assert begin_all(hosts, make_healthy(hosts, "a")) == 8


def test_a_single_slot_is_used() -> None:
    hosts = HostQueues(1, 1)
    assert begin_all(hosts, hosts.get("a")) == 1


@pytest.mark.parametrize("hanging", [1, 16, 17, 40, 70])
def test_hosts_that_hang_leave_room_for_a_new_host(hanging: int) -> None:
    hosts = HostQueues(128, 8)
    fill(hosts, hanging)
    assert hosts.may_begin(hosts.get("new"))


@pytest.mark.parametrize("hanging", [17, 128, 1000])
def test_hosts_that_hang_never_take_the_last_slots_of_healthy_hosts(hanging: int) -> None:
    hosts = HostQueues(128, 8)
    healthy = make_healthy(hosts, "healthy")
    fill(hosts, hanging)
    assert begin_all(hosts, healthy) >= 2


def test_healthy_hosts_that_begin_to_hang_leave_room_for_another() -> None:
    hosts = HostQueues(128, 8)
    for number in range(25):
        make_healthy(hosts, f"hangs{number}")
    healthy = make_healthy(hosts, "healthy")
    fill(hosts, 25)
    assert hosts.may_begin(healthy)


@pytest.mark.parametrize(("busy", "each"), [(2, 8), (8, 8), (16, 5), (100, 1)])
def test_busy_healthy_hosts_share_the_slots(busy: int, each: int) -> None:
    hosts = HostQueues(128, 8)
    busy_hosts = [make_healthy(hosts, f"h{number}") for number in range(busy)]
    begun = True
    while begun:  # one attempt of each host in turn
        begun = False
        for host in busy_hosts:
            if hosts.may_begin(host):
                hosts.begin(host)
                begun = True
    assert min(host.busy for host in busy_hosts) >= each


def test_failing_hosts_get_one_attempt_each_and_half_of_the_slots_together() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({f"down{number}": 3 for number in range(1000)})
    fill(hosts, 1000, "down")
    assert hosts.busy == 64
    assert begin_all(hosts, make_healthy(hosts, "healthy")) == 8
    assert hosts.may_begin(hosts.get("new"))


def test_a_host_is_failing_from_its_third_failure_until_it_answers() -> None:
    hosts = HostQueues(128, 8)
    host = hosts.get("a")
    for failures, health in ((1, ReceiverHealth.DOUBTFUL), (2, ReceiverHealth.DOUBTFUL), (3, ReceiverHealth.FAILING)):
        hosts.begin(host)
        hosts.end(host, failures, 15.0, answered=False)
        assert host.health is health
    assert begin_all(hosts, host) == 1
    hosts.end(host, 0, 0.1, answered=True)
    assert begin_all(hosts, host) == 8


def test_a_refused_target_leaves_the_health_of_a_new_host_unknown() -> None:
    hosts = HostQueues(128, 8)
    host = hosts.get("a")
    hosts.begin(host)
    hosts.end(host, 0, 0.0, answered=False)
    assert host.health is ReceiverHealth.UNKNOWN


def test_nothing_waits_for_a_failing_host() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 3})
    assert not hosts.may_wait(hosts.get("down"))


@pytest.mark.parametrize(("seconds", "many"), [(0.001, WAITING_PER_HOST), (1.0, 40), (15.0, 2)])
def test_as_many_deliveries_wait_as_a_host_receives_in_five_seconds(seconds: float, many: int) -> None:
    hosts = HostQueues(128, 8)
    host = make_healthy(hosts, "a", seconds)
    while hosts.may_wait(host):
        hosts.put(host, claimed("a"))
    assert hosts.ready == many


def test_the_room_for_waiting_deliveries_is_shared_between_hosts() -> None:
    hosts = HostQueues(128, 8)
    for number in range(20):
        host = make_healthy(hosts, f"busy{number}")
        while hosts.may_wait(host):
            hosts.put(host, claimed(host.name))
    assert hosts.ready < WAITING_IN_ALL
    assert hosts.may_wait(hosts.get("new"))


def test_late_deliveries_are_removed_and_the_others_keep_their_order() -> None:
    hosts = HostQueues(128, 8)
    waiting = [claimed("a", 1, 50.0), claimed("a", 2, 10.0), claimed("a", 3, 50.0), claimed("b", 4, 10.0)]
    for one in waiting:
        hosts.put(hosts.get(one.delivery.host), one)
    assert {one.delivery.id for one in hosts.remove_late(10.0)} == {"evt_2", "evt_4"}
    assert [one.delivery.id for one in hosts.remove_all_waiting()] == ["evt_1", "evt_3"]
    assert (hosts.ready, hosts.next()) == (0, None)


def test_a_waiting_delivery_can_be_removed() -> None:
    hosts = HostQueues(128, 8)
    first, second = claimed("a", 1), claimed("a", 2)
    hosts.put(hosts.get("a"), first)
    hosts.put(hosts.get("a"), second)
    assert hosts.remove(first)
    assert not hosts.remove(first)
    assert hosts.remove(second)
    assert (hosts.ready, hosts.next()) == (0, None)


def test_a_plan_starts_with_the_hosts_whose_last_attempt_is_oldest() -> None:
    hosts = HostQueues(4, 4)
    for name in ("b", "a"):
        make_healthy(hosts, name)
    assert list(hosts.plan({"a": 1, "b": 1, "c": 1})) == ["c", "b", "a"]


def test_a_plan_claims_one_probe_for_a_failing_host_and_nothing_during_it() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 5})
    assert hosts.plan({"down": 500}) == {"down": 1}
    hosts.begin(hosts.get("down"))
    assert hosts.plan({"down": 500}) == {}


def test_a_plan_claims_at_most_what_is_due() -> None:
    hosts = HostQueues(128, 8)
    make_healthy(hosts, "a")
    assert hosts.plan({"a": 3, "b": 1_000}) == {"a": 3, "b": 8 + WAITING_PER_NEW_HOST}


def test_a_plan_claims_nothing_until_half_of_the_queue_is_sent() -> None:
    hosts = HostQueues(128, 8)
    host = make_healthy(hosts, "a")
    for number in range(WAITING_PER_HOST // 2 + 1):
        hosts.put(host, claimed("a", number))
    assert hosts.plan({"a": 1_000}) == {}
    hosts.remove_late(100.0)
    assert hosts.plan({"a": 1_000})["a"] == 8 + WAITING_PER_HOST


def test_a_host_that_finds_every_slot_taken_gets_one_waiting_delivery() -> None:
    hosts = HostQueues(128, 8)
    fill(hosts, 200)
    assert hosts.plan({"new": 50}) == {"new": 1}


def test_a_plan_has_a_limited_number_of_hosts() -> None:
    assert len(HostQueues(10_000, 8).plan({f"h{number}": 1 for number in range(1_000)})) == HOSTS_PER_CLAIM


def test_idle_hosts_are_forgotten_but_failing_and_busy_ones_are_not() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 3})
    busy = hosts.get("busy")
    hosts.begin(busy)
    hosts.put(hosts.get("waits"), claimed("waits"))
    for number in range(HOSTS_REMEMBERED):
        hosts.get(f"h{number}")
    hosts.forget_idle()
    assert hosts.get("down").failures == 3
    assert hosts.get("busy") is busy
    assert hosts.remove(next(iter(hosts.get("waits").waiting)))


class Traffic(RuleBasedStateMachine):
    """Lets attempts start and end, and deliveries wait, in any order and with any answers."""

    names = st.sampled_from([f"h{number}" for number in range(6)])

    def __init__(self) -> None:
        super().__init__()
        self.hosts = HostQueues(8, 3)
        self.busy: dict[str, int] = {}
        self.number = 0

    @rule(name=names)
    def waits(self, name: str) -> None:
        host = self.hosts.get(name)
        if self.hosts.may_wait(host) or (not host.waiting and self.hosts.may_begin(host)):
            self.number += 1
            self.hosts.put(host, claimed(name, self.number, float(self.number)))

    @rule()
    def begins(self) -> None:
        found = self.hosts.next()
        if found is None:
            assert not any(
                host.waiting and self.hosts.may_begin(host) for host in map(self.hosts.get, [f"h{n}" for n in range(6)])
            )
            return
        host, _ = found
        assert self.hosts.may_begin(host)
        assert host.health is not ReceiverHealth.FAILING or host.busy == 0
        self.hosts.begin(host)
        self.busy[host.name] = self.busy.get(host.name, 0) + 1

    @rule(name=names, fails=st.booleans())
    def ends(self, name: str, fails: bool) -> None:  # noqa: FBT001
        if self.busy.get(name):
            host = self.hosts.get(name)
            self.hosts.end(host, host.failures + 1 if fails else 0, 0.1, answered=not fails)
            self.busy[name] -= 1

    @rule(now=st.floats(0, 50))
    def late(self, now: float) -> None:
        assert all(one.begins_before <= now for one in self.hosts.remove_late(now))

    @rule(due=st.dictionaries(names, st.integers(1, 1_000)))
    def plans(self, due: dict[str, int]) -> None:
        plan = self.hosts.plan(due)
        assert all(0 < room <= due[name] for name, room in plan.items())
        assert sum(plan.values()) <= WAITING_IN_ALL + 8
        for name in plan:
            host = self.hosts.get(name)
            assert host.health is not ReceiverHealth.FAILING or (plan[name] == 1 and not host.busy)

    @invariant()
    def limits_hold(self) -> None:
        assert self.hosts.busy == sum(self.busy.values()) <= 8
        assert all(count <= 3 for count in self.busy.values())
        assert self.hosts.ready == sum(len(self.hosts.get(f"h{n}").waiting) for n in range(6)) <= WAITING_IN_ALL


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@settings(max_examples=50, deadline=None)
@given(
    waiting=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    concurrency=st.integers(1, 20),
    per_host=st.integers(1, 8),
    failing=st.sets(st.integers(0, 29)),
)
def test_every_waiting_delivery_is_sent_whatever_the_other_hosts_have(
    waiting: list[int], concurrency: int, per_host: int, failing: set[int]
) -> None:
    """The oldest attempt ends first, until no delivery waits."""
    hosts = HostQueues(concurrency, per_host)
    hosts.load({f"h{number}": 3 for number in failing})
    for number, many in enumerate(waiting):
        for one in range(many):
            hosts.put(hosts.get(f"h{number}"), claimed(f"h{number}", one))
    under_way: list[HostQueue] = []
    left = sum(waiting)
    while left:
        while found := hosts.next():
            hosts.begin(found[0])
            under_way.append(found[0])
            left -= 1
        assert under_way, "no attempt may start, and none is under way"
        first = under_way.pop(0)
        hosts.end(first, first.failures, 0.1, answered=not first.failures)
    assert hosts.ready == 0


@settings(max_examples=50, deadline=None)
@given(healthy=st.integers(1, 60), hanging=st.integers(0, 200))
def test_with_few_slots_every_host_gets_one_attempt_in_each_round(healthy: int, hanging: int) -> None:
    hosts = HostQueues(32, 8)
    names = [f"h{number}" for number in range(healthy)]
    for name in names:
        host = make_healthy(hosts, name)
        for number in range(3):
            hosts.put(host, claimed(name, number))
    fill(hosts, hanging)  # new hosts that hang until the end
    order: list[str] = []
    while found := hosts.next():
        hosts.begin(found[0])
        order.append(found[0].name)
        hosts.end(found[0], 0, 0.01, answered=True)
    assert order == names * 3
