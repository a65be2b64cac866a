"""What retention may delete: watches that ended long ago, with everything that belongs to them, and nothing else."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bridge.core.model import Answered
from tests.simulation.snapshot import Snapshot
from tests.simulation.violation import require

if TYPE_CHECKING:
    from tests.simulation.world import World

FINAL = ("settled", "cancelled")
SLACK = 0.002
SWEEPS_SECONDS = 16.0  # retention runs every 6 s, and the store may take a while


@dataclass(eq=False)
class Removals:
    """Checks what each commit deletes, and that everything old enough is deleted."""

    world: "World"
    watches: dict[str, Any] = field(default_factory=dict)  # the last row of each watch that is gone
    deliveries: dict[str, Any] = field(default_factory=dict)
    removed_at: dict[str, float] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)  # by watch: when it last had a pending delivery
    latest: float = 0.0  # the latest time that the store's clock has shown

    def note_time(self) -> None:
        """Note what the store's clock shows: retention may use this time even if the clock is then set back."""
        self.latest = max(self.latest, self.world.store_time())

    def after_commit(self, before: Snapshot, after: Snapshot) -> None:
        """Check the rows that a commit has deleted."""
        self.note_time()
        gone = before.watches.keys() - after.watches.keys()
        for watch_id in gone:
            self._watch(before.watches[watch_id])
        for key, event in before.events.items():
            if key[0] in gone:
                require(key not in after.events, f"the watch of the event {key} is gone, and the event is not")
                require(event["number"] is not None, f"the event {key} is gone before it was in the feed")
            else:
                require(key in after.events, f"the event {key} is gone")
        for row in before.deliveries.values():
            if row["state"] == "pending":
                self.idle_since[row["watch_id"]] = self.world.loop.time()
        for delivery_id, row in before.deliveries.items():
            if row["watch_id"] in gone:
                require(delivery_id not in after.deliveries, f"the watch of {delivery_id} is gone, and it is not")
                require(row["state"] != "pending" or self._has_ended(row), f"{delivery_id} is gone, and was pending")
                self.deliveries[delivery_id] = row
            else:
                require(delivery_id in after.deliveries, f"{delivery_id} is gone")
        self._tasks(before, after, gone)
        if gone:
            orphans = self.world.invariants.reader.orphans()
            require(not orphans, f"rows without their watch: {orphans}")

    def _watch(self, row: Any) -> None:
        watch_id = row["id"]
        require(row["state"] in FINAL or self._may_have_ended(row), f"{watch_id} is gone, and was {row['state']}")
        if row["state"] in FINAL:
            # The replica that wrote the end and the replica that deletes the watch may have different clocks.
            early = row["ended_at"] + self.world.plan.retention - self.latest - 2 * self.world.plan.wall_error - SLACK
            require(early <= 0, f"{watch_id} is deleted {early:.3f} s too early")
        self.watches[watch_id] = row
        self.removed_at[watch_id] = self.world.loop.time()

    def _may_have_ended(self, row: Any) -> bool:
        """Return whether a watch may have ended, without an event, and been deleted in one commit: a clock was set."""
        endings = {word for _, word in self.world.ledger.words[row["task_id"]] if word in {"completed", "failed"}}
        if row["deadline_at"] <= self.latest:
            endings |= {"timed_out", "unavailable"}
        wanted = row["events"].split(",")
        return self.world.clock_was_set and any(f"video.{ending}" not in wanted for ending in endings)

    def _has_ended(self, row: Any) -> bool:
        """Return whether a pending delivery may have ended in the commit that deleted it."""
        posts = self.world.ledger.posts[row["id"]]
        answer = posts[-1].answer if posts else None
        status = answer.status if isinstance(answer, Answered) else None
        is_last = row["round_attempts"] + 1 > len(self.world.invariants.retries)
        return answer is not None and (is_last or status == 410 or (status is not None and 200 <= status < 300))

    def _tasks(self, before: Snapshot, after: Snapshot, gone: set[str]) -> None:
        ended_now = {before.watches[one]["task"] for one in gone if before.watches[one]["state"] not in FINAL}
        for task in before.tasks.keys() - after.tasks.keys():
            closed = before.tasks[task]["closed_at"] is not None or task in ended_now
            require(closed, f"the task {task} is gone, and was open")
        if gone:
            watched = {row["task"] for row in after.watches.values()}
            for task in {before.watches[one]["task"] for one in gone}:
                require((task in after.tasks) == (task in watched), f"the task {task} of deleted watches")

    def check_promptness(self, state: Snapshot, calm: float) -> None:
        """Check that every watch that is old enough is deleted soon."""
        pending = {row["watch_id"] for row in state.deliveries.values() if row["state"] == "pending"}
        unnumbered = {key[0] for key, row in state.events.items() if row["number"] is None}
        for watch_id, row in state.watches.items():
            if row["state"] in FINAL and watch_id not in pending | unnumbered:
                late = self.world.store_time() - row["ended_at"] - self.world.plan.retention
                late = min(late, calm, self.world.loop.time() - self.idle_since.get(watch_id, 0.0))
                require(late < SWEEPS_SECONDS, f"{watch_id} should be deleted since {late:.1f} s")
