"""Fairness between hosts, by its rules alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge.core.model import PendingDelivery
from bridge.delivery.fairness import (
    HOSTS_IN_A_CLAIM,
    HOSTS_REMEMBERED,
    READY_IN_ALL,
    READY_OF_NEW_HOST,
    READY_OF_ONE_HOST,
    ClaimedDelivery,
    HostHealth,
    HostQueue,
    HostQueues,
)


def held(host: str, number: int = 0, begins_before: float = 100.0) -> ClaimedDelivery:
    return ClaimedDelivery(
        PendingDelivery(f"evt_{number}", "wat_1", "app", "video.completed", "", host, b"", "", 0, 0), begins_before
    )


def prove(hosts: HostQueues, name: str, seconds: float = 0.01) -> HostQueue:
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


def test_one_host_has_eight_attempts_at_a_time() -> None:
    hosts = HostQueues(128, 8)
    assert begin_all(hosts, hosts.get("a")) == 8


def test_one_host_alone_never_holds_more_than_half() -> None:
    hosts = HostQueues(16, 16)
    assert begin_all(hosts, prove(hosts, "a")) == 8


def test_a_single_slot_is_used() -> None:
    hosts = HostQueues(1, 1)
    assert begin_all(hosts, hosts.get("a")) == 1


@pytest.mark.parametrize("hanging", [1, 16, 17, 40, 70])
def test_hanging_hosts_leave_room_for_one_that_is_new(hanging: int) -> None:
    hosts = HostQueues(128, 8)
    fill(hosts, hanging)
    assert hosts.may_begin(hosts.get("new"))


@pytest.mark.parametrize("hanging", [17, 128, 1000])
def test_hosts_that_hang_never_take_the_last_slots_of_those_that_answer(hanging: int) -> None:
    hosts = HostQueues(128, 8)
    well = prove(hosts, "well")
    fill(hosts, hanging)
    assert begin_all(hosts, well) >= 2


def test_hosts_that_answered_and_then_hang_leave_room_as_well() -> None:
    hosts = HostQueues(128, 8)
    for number in range(25):
        prove(hosts, f"hangs{number}")
    well = prove(hosts, "well")
    fill(hosts, 25)
    assert hosts.may_begin(well)


@pytest.mark.parametrize(("busy", "each"), [(2, 8), (8, 8), (16, 5), (100, 1)])
def test_busy_hosts_that_answer_share_the_slots(busy: int, each: int) -> None:
    hosts = HostQueues(128, 8)
    those = [prove(hosts, f"h{number}") for number in range(busy)]
    begun = True
    while begun:  # one after the other, as their turns come
        begun = False
        for host in those:
            if hosts.may_begin(host):
                hosts.begin(host)
                begun = True
    assert min(host.busy for host in those) >= each


def test_failing_hosts_have_one_attempt_each_and_half_of_the_slots_together() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({f"down{number}": 3 for number in range(1000)})
    fill(hosts, 1000, "down")
    assert hosts.busy == 64
    assert begin_all(hosts, prove(hosts, "well")) == 8
    assert hosts.may_begin(hosts.get("new"))


def test_a_host_fails_from_the_third_failure_until_it_answers() -> None:
    hosts = HostQueues(128, 8)
    host = hosts.get("a")
    for failures, standing in ((1, HostHealth.DOUBTED), (2, HostHealth.DOUBTED), (3, HostHealth.FAILING)):
        hosts.begin(host)
        hosts.end(host, failures, 15.0, answered=False)
        assert host.standing is standing
    assert begin_all(hosts, host) == 1
    hosts.end(host, 0, 0.1, answered=True)
    assert begin_all(hosts, host) == 8


def test_a_refused_target_says_nothing_of_a_new_host() -> None:
    hosts = HostQueues(128, 8)
    host = hosts.get("a")
    hosts.begin(host)
    hosts.end(host, 0, 0.0, answered=False)
    assert host.standing is HostHealth.NEW


def test_nothing_waits_for_a_failing_host() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 3})
    assert not hosts.may_wait(hosts.get("down"))


@pytest.mark.parametrize(("seconds", "many"), [(0.001, READY_OF_ONE_HOST), (1.0, 40), (15.0, 2)])
def test_as_many_wait_as_a_host_takes_in_five_seconds(seconds: float, many: int) -> None:
    hosts = HostQueues(128, 8)
    host = prove(hosts, "a", seconds)
    while hosts.may_wait(host):
        hosts.put(host, held("a"))
    assert hosts.ready == many


def test_the_waiting_room_is_shared_as_the_slots_are() -> None:
    hosts = HostQueues(128, 8)
    for number in range(20):
        host = prove(hosts, f"busy{number}")
        while hosts.may_wait(host):
            hosts.put(host, held(host.name))
    assert hosts.ready < READY_IN_ALL
    assert hosts.may_wait(hosts.get("new"))


def test_late_ones_are_taken_out_and_the_others_keep_their_order() -> None:
    hosts = HostQueues(128, 8)
    waiting = [held("a", 1, 50.0), held("a", 2, 10.0), held("a", 3, 50.0), held("b", 4, 10.0)]
    for one in waiting:
        hosts.put(hosts.get(one.owed.host), one)
    assert {one.owed.id for one in hosts.take_late(10.0)} == {"evt_2", "evt_4"}
    assert [one.owed.id for one in hosts.take_all_waiting()] == ["evt_1", "evt_3"]
    assert (hosts.ready, hosts.next()) == (0, None)


def test_one_that_waits_can_be_taken_out() -> None:
    hosts = HostQueues(128, 8)
    first, second = held("a", 1), held("a", 2)
    hosts.put(hosts.get("a"), first)
    hosts.put(hosts.get("a"), second)
    assert hosts.take(first)
    assert not hosts.take(first)
    assert hosts.take(second)
    assert (hosts.ready, hosts.next()) == (0, None)


def test_a_plan_claims_for_those_first_that_began_longest_ago() -> None:
    hosts = HostQueues(4, 4)
    for name in ("b", "a"):
        prove(hosts, name)
    assert list(hosts.plan({"a": 1, "b": 1, "c": 1})) == ["c", "b", "a"]


def test_a_plan_gives_a_probe_to_a_failing_host_and_nothing_while_it_runs() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 5})
    assert hosts.plan({"down": 500}) == {"down": 1}
    hosts.begin(hosts.get("down"))
    assert hosts.plan({"down": 500}) == {}


def test_a_plan_claims_no_more_than_is_due() -> None:
    hosts = HostQueues(128, 8)
    prove(hosts, "a")
    assert hosts.plan({"a": 3, "b": 1_000}) == {"a": 3, "b": 8 + READY_OF_NEW_HOST}


def test_a_plan_waits_until_half_of_what_was_claimed_has_gone() -> None:
    hosts = HostQueues(128, 8)
    host = prove(hosts, "a")
    for number in range(READY_OF_ONE_HOST // 2 + 1):
        hosts.put(host, held("a", number))
    assert hosts.plan({"a": 1_000}) == {}
    hosts.take_late(100.0)
    assert hosts.plan({"a": 1_000})["a"] == 8 + READY_OF_ONE_HOST


def test_a_host_that_finds_every_slot_taken_has_one_delivery_wait() -> None:
    hosts = HostQueues(128, 8)
    fill(hosts, 200)
    assert hosts.plan({"new": 50}) == {"new": 1}


def test_a_plan_names_a_bounded_number_of_hosts() -> None:
    assert len(HostQueues(10_000, 8).plan({f"h{number}": 1 for number in range(1_000)})) == HOSTS_IN_A_CLAIM


def test_idle_hosts_are_forgotten_but_failing_and_busy_ones_are_not() -> None:
    hosts = HostQueues(128, 8)
    hosts.load({"down": 3})
    busy = hosts.get("busy")
    hosts.begin(busy)
    hosts.put(hosts.get("waits"), held("waits"))
    for number in range(HOSTS_REMEMBERED):
        hosts.get(f"h{number}")
    hosts.forget_idle()
    assert hosts.get("down").failures == 3
    assert hosts.get("busy") is busy
    assert hosts.take(next(iter(hosts.get("waits").waiting)))


class Traffic(RuleBasedStateMachine):
    """Any order of beginnings, endings and waitings, with any answers."""

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
            self.hosts.put(host, held(name, self.number, float(self.number)))

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
        assert host.standing is not HostHealth.FAILING or host.busy == 0
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
        assert all(one.begins_before <= now for one in self.hosts.take_late(now))

    @rule(due=st.dictionaries(names, st.integers(1, 1_000)))
    def plans(self, due: dict[str, int]) -> None:
        plan = self.hosts.plan(due)
        assert all(0 < room <= due[name] for name, room in plan.items())
        assert sum(plan.values()) <= READY_IN_ALL + 8
        for name in plan:
            host = self.hosts.get(name)
            assert host.standing is not HostHealth.FAILING or (plan[name] == 1 and not host.busy)

    @invariant()
    def limits_hold(self) -> None:
        assert self.hosts.busy == sum(self.busy.values()) <= 8
        assert all(count <= 3 for count in self.busy.values())
        assert self.hosts.ready == sum(len(self.hosts.get(f"h{n}").waiting) for n in range(6)) <= READY_IN_ALL


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@settings(max_examples=50, deadline=None)
@given(
    waiting=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    concurrency=st.integers(1, 20),
    per_host=st.integers(1, 8),
    failing=st.sets(st.integers(0, 29)),
)
def test_whoever_waits_is_served_whatever_the_others_have(
    waiting: list[int], concurrency: int, per_host: int, failing: set[int]
) -> None:
    """First in, first out among attempts; every host's next turn comes before anyone's turn after next."""
    hosts = HostQueues(concurrency, per_host)
    hosts.load({f"h{number}": 3 for number in failing})
    for number, many in enumerate(waiting):
        for one in range(many):
            hosts.put(hosts.get(f"h{number}"), held(f"h{number}", one))
    under_way: list[HostQueue] = []
    left = sum(waiting)
    while left:
        while found := hosts.next():
            hosts.begin(found[0])
            under_way.append(found[0])
            left -= 1
        assert under_way, "nobody may begin, and nobody is under way"
        first = under_way.pop(0)
        hosts.end(first, first.failures, 0.1, answered=not first.failures)
    assert hosts.ready == 0


@settings(max_examples=50, deadline=None)
@given(healthy=st.integers(1, 60), hogs=st.integers(0, 200))
def test_with_scarce_slots_every_host_has_its_turn_in_each_round(healthy: int, hogs: int) -> None:
    hosts = HostQueues(32, 8)
    names = [f"h{number}" for number in range(healthy)]
    for name in names:
        host = prove(hosts, name)
        for number in range(3):
            hosts.put(host, held(name, number))
    fill(hosts, hogs)  # new hosts that hang for good
    order: list[str] = []
    while found := hosts.next():
        hosts.begin(found[0])
        order.append(found[0].name)
        hosts.end(found[0], 0, 0.01, answered=True)
    assert order == names * 3
