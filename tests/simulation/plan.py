"""The plan of a seed: the world's settings, and what apps, operators and faults do, and when."""

from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any

from tests.simulation.amux import Course, End, Route, Trouble
from tests.simulation.receivers import Kind
from tests.simulation.upgrades import Inherited, Left


class HoldUp(StrEnum):
    """What holds up a transaction: its process freezes, or the database does not answer."""

    FREEZE = "freeze"
    HANG = "hang"


MONTH = 2_592_000.0
STATUS_EVENTS = ("video.queued", "video.in_progress")
TERMINAL_EVENTS = ("video.completed", "video.failed", "video.timed_out", "video.unavailable")


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens at a virtual second. `what` is the name of an action of `Faults` or `Requests`."""

    at: float
    what: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.what} {' '.join(map(str, self.arguments))}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed decides beforehand. The rest is drawn while the simulation runs, from the same seed."""

    seed: int
    replicas: int
    shared: bool
    span: float
    stall_share: float
    stall_seconds: float
    route: Route
    retries: str
    wall_error: float
    amux_slow: float
    courses: tuple[Course, ...]
    actions: tuple[Action, ...]
    per_host: int = 16
    retention: float = MONTH
    cache_bytes: int = 0
    breaking_share: float = 0.0  # the share of amux's videos that break off
    inherited: tuple[Inherited, ...] = ()
    upgrade_ends: tuple[int, ...] = ()  # the processes are killed before these statements of the upgrade
    readers: tuple[str, ...] = ("shop",)  # apps that read the event feed; "" is an operator, who reads all events

    def without(self, dropped: set[int]) -> "Plan":
        """Return the plan without some of its actions."""
        return replace(self, actions=tuple(one for index, one in enumerate(self.actions) if index not in dropped))


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(seed)
    shared = random.random() < 0.55
    replicas = 2 if shared and random.random() < 0.8 else 1
    span = random.choice((8.0, 12.0, 20.0, 30.0))
    courses = tuple(_course(random, number, span) for number in range(random.randint(3, 10)))
    actions: list[Action] = []
    troubled = random.random()  # worlds up to 0.2 have no faults, so promptness is always checked
    receivers = _receivers(random)
    for number, course in enumerate(courses):
        actions += _registrations(random, course.task_id, number, span, course.key, receivers)
    actions += _requests(random, span, len(actions))
    if troubled > 0.2:
        actions += _faults(random, span, replicas, courses, shared=shared, many=troubled > 0.7)
        actions += _hold_ups(random, span, replicas, shared=shared)
    more = Random(f"{seed} more")
    apps = more.random() < 0.4
    inherited = _inherited(more, span, courses, receivers) if more.random() < 0.15 else ()
    ends = tuple(more.randint(1, 70) for _ in range(more.choice((0, 1, 1, 2)))) if inherited and troubled > 0.2 else ()
    actions = _more(more, span, len(actions)) + [_by_an_app(more, one) if apps else one for one in actions]
    cache_bytes = more.choice((0, 2_500, 1 << 30))
    if shared and troubled > 0.2 and more.random() < 0.15:
        actions += _burst(more, span, replicas, courses)
    if shared and troubled > 0.2 and more.random() < 0.2:
        actions.append(Action(1_001.0 + span * more.random(), "clock", _clock_step(more, replicas)))
    if more.random() < 0.6:
        actions += _contents(more, span, replicas, calm=troubled <= 0.2)
    return Plan(
        seed=seed,
        replicas=replicas,
        shared=shared,
        span=span,
        stall_share=random.choice((0.0, 0.0, 0.02, 0.2)),
        stall_seconds=random.choice((0.01, 0.3)),
        route=random.choice((Route.READS, Route.READS, Route.MISSING, Route.FILTERED, Route.OVERLOADED)),
        retries=random.choice(("1,2", "0.5,1,4", "none", "3")),
        wall_error=random.choice((0.0, 0.0, 0.15)),
        amux_slow=random.choice((0.0, 0.1, 0.5)),
        courses=courses,
        actions=tuple(sorted(actions, key=lambda one: one.at)),
        per_host=random.choice((1, 2, 16)),
        retention=more.choice((MONTH, MONTH, 4.0, 12.0)),
        cache_bytes=cache_bytes,
        breaking_share=more.choice((0.0, 0.0, 0.3)),
        inherited=_recent(inherited) if _is_set_back(actions) else inherited,
        upgrade_ends=ends,
        readers=("shop", "lab", "") if apps else ("shop",),
    )


def _contents(random: Random, span: float, replicas: int, *, calm: bool) -> list[Action]:
    """Return reads of videos, sometimes several at once, and sometimes a full disk."""
    found = []
    for _ in range(random.randint(1, 4)):
        at, choice = 1_004.0 + 1.5 * span * random.random(), random.random()
        for _ in range(random.choice((1, 1, 3))):
            how = random.choice(("app", "app", "operator", "link"))
            byte_range = random.choice(("", "", "bytes=0-99", "bytes=150-", "bytes=-70", "bytes=5000-5010"))
            found.append(Action(at + 0.3 * random.random(), "content", (choice, how, byte_range)))
    if not calm and random.random() < 0.3:
        seconds = random.choice((1.0, 10.0))
        found.append(Action(1_004.0 + span * random.random(), "disk", (random.randrange(replicas), seconds)))
    return found


def _clock_step(random: Random, replicas: int) -> tuple[int, float]:
    """Return which replica's clock is set, and by how many seconds. The server's clock gives the times in the store."""
    return random.randrange(replicas), random.choice((-3600.0, -8.0, 8.0, 3600.0))


def _burst(random: Random, span: float, replicas: int, courses: tuple[Course, ...]) -> list[Action]:
    """Return many watches on one task with one receiver, whose deliveries wait in memory and in the outbox.

    Meanwhile a process is frozen for about as long as its lease, or is held up while it claims.
    """
    course = random.choice(courses)
    receiver = f"https://{random.choice((Kind.GOOD, Kind.GOOD, Kind.SLOW))}-1.example"
    at = 1_001.0 + span * 0.4 * random.random()
    found = []
    for number in range(random.choice((12, 30))):
        arguments = (course.task_id, f"{receiver}/burst-{number}", TERMINAL_EVENTS, 40.0, course.key)
        found.append(Action(at + 0.3 * random.random(), "register", arguments))
    ends_at = max(course.ends_at, at) + 1.0
    for _ in range(random.choice((1, 2))):
        replica, moment = random.randrange(replicas), ends_at + 3.0 * random.random()
        if random.random() < 0.6:
            found.append(Action(moment, "freeze", (replica, random.choice((7.0, 8.0, 8.5, 9.0, 9.5)))))
        else:
            where, seconds = random.choice(("before", "after")), random.choice((3.9, 9.5, 12.0, 20.0))
            found.append(Action(moment, "hold_up", (replica, "claim", HoldUp.HANG, where, seconds)))
    return found


def _inherited(random: Random, span: float, courses: tuple[Course, ...], receivers: list[str]) -> tuple[Inherited, ...]:
    """Return watches of version 0.2.0: on the tasks of this world, and on other tasks that have ended."""
    found = []
    known = [course.task_id for course in courses if course.key == "sk-one"]
    for number in range(random.randint(1, 8)):
        left = random.choice(list(Left)) if not known or random.random() < 0.6 else Left.ACTIVE
        if left is Left.ACTIVE and not known:
            left = Left.PENDING
        events = set(random.sample(TERMINAL_EVENTS, random.choice((1, 4))))
        if left is Left.ACTIVE:
            events |= set(random.sample(STATUS_EVENTS, random.randint(0, 2)))
        else:
            events.add("video.completed")
        task_id = random.choice(known) if left is Left.ACTIVE else f"old_{number}"
        url = f"https://{random.choice(receivers)}/old-{number}"
        age, seconds = random.choice((2.0, 60.0, 3_000_000.0)), random.choice((-1.0, 1.0, 10.0, span, 40.0))
        found.append(Inherited(task_id, url, tuple(sorted(events)), left, age, seconds, random.choice(("shop", "lab"))))
    return tuple(found)


def _is_set_back(actions: list[Action]) -> bool:
    return any(one.what == "clock" and one.arguments[1] < 0 for one in actions)


def _recent(inherited: tuple[Inherited, ...]) -> tuple[Inherited, ...]:
    """Return the watches, each registered a minute ago at most, for plans that set the clock back.

    An older watch may end an hour late: its deadline still follows the clock, or it gets its whole time again.
    """
    return tuple(replace(one, age=min(one.age, 60.0)) for one in inherited)


def _by_an_app(random: Random, action: Action) -> Action:
    """Return a registration as one of two apps makes it, sometimes with an Idempotency-Key that others use too."""
    if action.what != "register":
        return action
    app, key = random.choice(("shop", "shop", "lab")), random.choice(("", "one", "two", "three"))
    return replace(action, arguments=(*action.arguments, app, key))


def _more(random: Random, span: float, watches: int) -> list[Action]:
    """Return requests that wait for the end of a watch, and requests about a watch of another app."""
    found = []
    for _ in range(random.randint(0, watches // 4)):
        at = 1_002.0 + span * random.random()
        found.append(Action(at, "wait", (random.random(), random.choice((5.0, 20.0)))))
    for _ in range(random.randint(0, 2)):
        what = random.choice(("read", "cancel", "envelope", "content", "resend"))
        found.append(Action(1_002.0 + 1.5 * span * random.random(), "trespass", (random.random(), what)))
    return found


def _course(random: Random, number: int, span: float) -> Course:
    live = random.random() < 0.4
    begins_at = 1_000.0 + span * random.random() * 0.5
    end = random.choices((End.COMPLETED, End.FAILED, End.NEVER, End.UNKNOWN, End.REJECTED), weights=(60, 15, 12, 6, 6))[
        0
    ]
    return Course(
        task_id=f"task_{number}",
        live=live,
        begins_at=begins_at,
        ends_at=begins_at + span * random.random(),
        end=end,
        soft=random.choice((0.0, 0.1, 0.5)) if live else 0.0,
        model=random.choice(("sora-2", "kling-v2")),
        key=random.choice(("sk-one", "sk-one", "sk-two")),
    )


def _receivers(random: Random) -> list[str]:
    """Return the names of the receivers: many, or only two, so that deliveries wait for one another."""
    kinds = random.choices(list(Kind), weights=[30, 10, 15, 10, 6, 5, 4, 8], k=40)
    if random.random() < 0.4:
        few = random.sample((Kind.GOOD, Kind.SLOW, Kind.SLOW, Kind.HANGING, Kind.FLAKY, Kind.BUSY), 2)
        return [f"{kind}-1.example" for kind in few]
    return [f"{kind}-{random.randint(1, 3)}.example" for kind in kinds]


def _registrations(  # noqa: PLR0917
    random: Random, task_id: str, number: int, span: float, key: str, receivers: list[str]
) -> list[Action]:
    """Return one to three registrations for a task. The later ones may come when the task has ended."""
    found = []
    for place in range(random.choices((1, 2, 3), weights=(70, 20, 10))[0]):
        events = set(random.sample(TERMINAL_EVENTS, random.choice((1, 4, 4, 4))))
        if random.random() < 0.6:
            events |= set(random.sample(STATUS_EVENTS, random.randint(1, 2)))
        at = 1_000.5 + span * random.random() * (0.6 if place == 0 else 1.0)
        seconds = random.choices((3.0, 10.0, span, 40.0, 70.0), weights=(20, 25, 30, 20, 5))[0]
        name = random.choice(receivers)
        found.append(
            Action(at, "register", (task_id, f"https://{name}/{number}-{place}", tuple(sorted(events)), seconds, key))
        )
        if random.random() < 0.2:  # the app repeats the request, as after a lost answer
            found.append(replace(found[-1], at=at + random.choice((0.0, 0.5, 4.5))))
    return found


def _requests(random: Random, span: float, watches: int) -> list[Action]:
    found = []
    for _ in range(random.randint(0, watches)):
        at = 1_001.0 + span * 1.2 * random.random()
        if random.random() < 0.5:
            found.append(Action(at, "cancel", (random.random(),)))
        else:
            found.append(Action(at, "resend", (random.random(),)))
    for _ in range(random.choice((0, 0, 0, 1, 2))):
        receiver = f"{random.choice((Kind.GOOD, Kind.FLAKY, Kind.SLOW))}-{random.randint(1, 3)}.example:443"
        at = 1_001.0 + span * random.random()
        found.append(Action(at, "pause", (receiver,)))
        if random.random() < 0.7:
            found.append(Action(at + random.choice((0.5, 5.0, 12.0)), "resume", (receiver,)))
    if random.random() < 0.15:
        found.append(Action(1_001.0 + span * random.random(), "resend_dead", ()))
    return found


def _registrations_at(random: Random, at: float, courses: tuple[Course, ...]) -> list[Action]:
    """Return registrations at a time when the database is bad: their answers come late, or not at all."""
    found = []
    for place in range(random.randint(0, 3)):
        course = random.choice(courses)
        events = tuple(sorted({*TERMINAL_EVENTS, *STATUS_EVENTS}))
        url = f"https://good-{place}.example/late"
        found.append(Action(at + 0.4 * random.random(), "register", (course.task_id, url, events, 40.0, course.key)))
    return found


def _faults(
    random: Random, span: float, replicas: int, courses: tuple[Course, ...], *, shared: bool, many: bool
) -> list[Action]:
    found: list[Action] = []
    for _ in range(random.randint(2, 6) if many else random.randint(1, 2)):
        at, replica = 1_001.0 + span * random.random(), random.randrange(replicas)
        kind = random.choices(
            ("crash", "freeze", "restart", "database", "amux", "clock"), weights=(20, 18, 10, 30, 15, 7)
        )[0]
        if kind == "clock" and shared:
            kind = "freeze"
        match kind:
            case "crash":
                found.append(Action(at, "crash", (replica, random.choice((0.1, 1.0, 5.0, 15.0)))))
            case "freeze":
                found.append(Action(at, "freeze", (replica, random.choice((0.3, 2.0, 7.0, 9.5, 12.0, 15.0, 25.0)))))
            case "restart":
                found.append(Action(at, "restart", (replica, random.choice((0.1, 3.0)))))
            case "database":
                weather = random.choice(("refusing", "unknown", "failing", "slow", "hanging"))
                found.append(Action(at, "database", (weather, random.choice((0.5, 3.0, 8.0)))))
                found += _registrations_at(random, at, courses)
                if replicas > 1 and random.random() < 0.6:  # long enough to lose the lease
                    weather = random.choice(("refusing", "unknown", "hanging", "hanging"))
                    found[-1] = Action(at, "database", (weather, random.choice((3.0, 12.0, 20.0)), replica))
            case "amux":
                trouble = random.choice([one for one in Trouble if one is not Trouble.NONE])
                found.append(Action(at, "amux", (trouble, random.choice((1.0, 5.0, 12.0)))))
            case _:
                found.append(Action(at, "clock", (replica, random.choice((-3600.0, -8.0, 8.0, 3600.0)))))
    return found


def _hold_ups(random: Random, span: float, replicas: int, *, shared: bool) -> list[Action]:
    """Return faults in the middle of a certain transaction: its process freezes, or the database hangs."""
    found: list[Action] = []
    for _ in range(random.choice((0, 1, 1, 2)) if shared else random.choice((0, 0, 1))):
        how, where = random.choice(list(HoldUp)), random.choice(("before", "after"))
        seconds = random.choice((2.0, 3.9, 9.5, 12.0, 20.0) if how is HoldUp.FREEZE else (2.0, 3.9, 9.5, 12.0))
        operation = random.choice(
            ("claim", "claim", "settle", "record_attempts", "record_statuses", "register", "renew")
        )
        at = 1_001.0 + span * random.random()
        found.append(Action(at, "hold_up", (random.randrange(replicas), operation, how, where, seconds)))
    return found
