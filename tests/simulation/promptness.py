"""What must happen in time after a while without faults: polls, ends, callbacks, status events."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.invariants import Invariants
from tests.simulation.receivers import Kind
from tests.simulation.violation import require

if TYPE_CHECKING:
    from tests.simulation.world import World

CALM_SECONDS = 22.0  # a lease, the longest pause of a retry, and the first polls of adopted tasks are over by then
CALM_ALONE_SECONDS = 8.0  # with one replica: the longest pause of a retry
CLAIM_SECONDS = 4.0  # after the end of a process and of its lease, others release its claims within this time
LEASE_SECONDS = 10.0  # a replica's lease and one adoption interval, where there are several replicas
UNPOLLED_SECONDS = 12.0  # the longest interval is 3 s, a poll may take 3 s
UNSETTLED_SECONDS = 15.0  # twice an interval of 3 s and a poll of 3 s, and 3 s more
UNSENT_SECONDS = 6.0
PROMPT = {Kind.GOOD, Kind.FLAKY, Kind.BUSY, Kind.FORGETFUL, Kind.GONE}
_STATUS = {"queued": "video.queued", "in_progress": "video.in_progress"}


@dataclass(eq=False)
class Promptness:
    """Checks, once a second of virtual time, that nothing is overdue."""

    world: "World"
    invariants: Invariants
    lacking: dict[tuple[str, str], float] = field(default_factory=dict)  # since when each status event is missing
    spread: set[str] = field(default_factory=set)  # receivers that were paused: their deliveries are spread over time
    polled: dict[str, float] = field(default_factory=dict)  # by task id: when its last poll began

    def check(self) -> None:
        """Raise Violation if something is overdue."""
        self.spread |= self.world.ledger.ever_paused
        calm = self.world.faults.calm_seconds()
        if calm >= CLAIM_SECONDS:
            self._claims()
        if calm < self.calm_needed:
            return
        now, state = self.world.loop.time(), self.invariants.state
        unix = self.world.store_time()
        active = [row for row in state.watches.values() if row["state"] == "active"]
        for row in active:
            over = unix - row["deadline_at"]
            require(over < UNSETTLED_SECONDS, f"{row['id']} is active {over:.1f} s after its deadline")
        for task_id in {row["task_id"] for row in active}:
            since = max(self.polled.get(task_id, 0.0), self._watched_since(task_id))
            require(now - since < UNPOLLED_SECONDS, f"{task_id} was not polled for {now - since:.1f} s")
            words = self.world.ledger.words[task_id]
            ends = [at for at, word in words if word in {"completed", "failed"} and at > now - 60]
            watched = min(row["created_at"] for row in active if row["task_id"] == task_id) - unix + now
            told = [at for at in ends if at > watched]
            if told and words[-1][1] != "soft" and not self.world.courses[task_id].live:
                ago = min(now - told[0], calm)  # an answer that was lost in a crash is read again
                require(ago < UNSETTLED_SECONDS, f"{task_id} ended {ago:.1f} s ago")
        for row in state.outbox.values():
            late = unix - row["due_at"]
            kind = Kind(row["host"].split("-")[0])
            if kind in PROMPT and row["host"] not in self.spread:
                require(late < UNSENT_SECONDS, f"{row['id']} is due since {late:.1f} s and not sent")
        self._status_events(unix)
        self.invariants.removals.check_promptness(state, calm)

    @property
    def calm_needed(self) -> float:
        """Return for how many seconds nothing may have been wrong before `check` checks everything."""
        return CALM_SECONDS if self.world.plan.shared else CALM_ALONE_SECONDS

    def _claims(self) -> None:
        """Check that no claim lasts for long after its process has ended."""
        state, now = self.invariants.state, self.world.loop.time()
        for delivery_id, row in state.outbox.items():
            lease, host = self.invariants.claimed.get(delivery_id, ("", None))
            if host is not None and row["lease"] == lease and host.crashed:
                ago = now - host.ended_at - (LEASE_SECONDS if self.world.plan.shared else 0.0)
                require(ago < CLAIM_SECONDS, f"{delivery_id} is claimed by a process that has ended {ago:.1f} s ago")

    def _watched_since(self, task_id: str) -> float:
        tasks = self.invariants.state.tasks.values()
        opened = [row["opened_at"] for row in tasks if row["task_id"] == task_id and row["closed_at"] is None]
        return max(opened, default=0.0) - self.world.store_time() + self.world.loop.time()

    def _status_events(self, unix: float) -> None:
        """Check that each wanted status event exists 15 s after amux's next answer. A slow amux may answer late."""
        state, now = self.invariants.state, self.world.loop.time()
        for row in state.watches.values():
            if row["state"] != "active" or unix - row["created_at"] < self.calm_needed:
                continue
            kind = _STATUS.get(state.tasks[row["task"]]["status"])
            wanted = kind is not None and kind in row["events"].split(",")
            key = (row["id"], kind or "")
            if wanted and key not in state.events:
                since = self.lacking.setdefault(key, now)
                words = self.world.ledger.words[row["task_id"]]
                answered = [at for at, word in words if word == "running" and at > since]
                overdue = bool(answered) and now - answered[0] >= UNSETTLED_SECONDS
                require(not overdue, f"{row['id']} has no event {kind}")
