"""What must hold at every step of a simulation: after each commit, at each callback, at each poll, and at the end."""

import base64
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from bridge.core.model import Answered, RefusedTarget
from tests.simulation.feed import Feed
from tests.simulation.hosts import EPOCH, Host
from tests.simulation.ledger import Ledger, Post
from tests.simulation.removals import FINAL, Removals
from tests.simulation.snapshot import EMPTY, Reader, Snapshot
from tests.simulation.upgrades import Upgrade
from tests.simulation.violation import Violation, require

if TYPE_CHECKING:
    from tests.simulation.world import World

CHECK_WINDOW = 0.25  # seconds between the store's answer about a claim and the callback, besides stalls of the loop
PAUSE_SECONDS = 6.0  # every replica follows a pause within 5
POLL_GRACE = 3.0  # a replica learns of a task that another one closed within about a second
SLACK = 0.002
LEASE_LEFT = 0.5  # of a second before the end of a lease, in which nothing is sent; the clocks have an error
SECRET = b"01234567890123456789012345678901"
LAPSED_SECONDS = 1.0  # for which polls may go on without a lease


@dataclass(eq=False)
class Invariants:
    """Compares the database with what the world has seen."""

    world: "World"
    reader: Reader
    ledger: Ledger
    retries: tuple[float, ...]
    feed: Feed
    removals: Removals
    state: Snapshot = EMPTY
    upgrade: Upgrade | None = None
    removed: dict[str, float] = field(default_factory=dict)  # when a row of the outbox went, or lost its claim
    claimed: dict[str, tuple[str, Host]] = field(default_factory=dict)  # by delivery: the lease, and who made it
    lapsed: dict[Host | None, float] = field(default_factory=dict)  # since when a host polls without a lease
    closed: dict[str, float] = field(default_factory=dict)  # by task_id: when its last open task closed
    ended: dict[str, float] = field(default_factory=dict)  # by watch: when its end was committed

    def begin_with(self, upgrade: Upgrade) -> None:
        """Begin with the rows of an older version, which is to be upgraded."""
        self.upgrade = upgrade
        self.reader.changed()
        self.state = self.reader.snapshot()

    def is_stored(self, watch_id: str) -> bool:
        """Whether a watch is in the database, or was until retention deleted it."""
        return watch_id in self.state.watches or watch_id in self.removals.watches

    # --- after a commit -------------------------------------------------------------------------------------------

    def watch(self, watch_id: str) -> Any:
        """Return the row of a watch; its last one, if it is deleted."""
        return self.state.watches.get(watch_id) or self.removals.watches[watch_id]

    def after_commit(self, host: Host | None = None) -> None:
        """Compare the state with the one before. `host` has made the commit."""
        if not self.reader.changed():
            return
        before, self.state = self.state, self.reader.snapshot()
        if self.upgrade is not None:
            self.upgrade.after_commit()
        self._watches(before, self.state)
        self.removals.after_commit(before, self.state)
        self.feed.after_commit(before, self.state)
        self._deliveries(before, self.state)
        self._tasks(self.state)
        if host is not None:
            self._fences(before, self.state, host)

    def _watches(self, before: Snapshot, after: Snapshot) -> None:
        for watch_id, watch in after.watches.items():
            old = before.watches.get(watch_id)
            if old is not None and old["state"] in FINAL:
                require(
                    tuple(old) == tuple(watch),
                    f"the final watch {watch_id} changed from {tuple(old)} to {tuple(watch)}",
                )
            elif watch["state"] in FINAL:
                self.ended[watch_id] = self.world.loop.time()
                if watch["state"] == "settled":
                    self._ended(watch, after)
        for key, event in before.events.items():
            new = after.events.get(key)
            require(new is None or new["payload"] == event["payload"], f"the event {key} changed")
        terminal: dict[str, str] = {}
        for (watch_id, kind), event in after.events.items():
            if event["terminal"]:
                require(watch_id not in terminal, f"the watch {watch_id} has two terminal events")
                terminal[watch_id] = kind
        for watch_id, watch in after.watches.items():
            expected = f"video.{watch['outcome']}" if watch["state"] == "settled" else None
            require(
                terminal.get(watch_id) == expected,
                f"the watch {watch_id} is {watch['state']}, and its terminal event is {terminal.get(watch_id)}",
            )

    def _ended(self, watch: Any, after: Snapshot) -> None:
        """A watch has just settled: amux, or its deadline, must have said so."""
        words = [word for _, word in self.ledger.words[watch["task_id"]]]
        late = watch["ended_at"] >= watch["deadline_at"] - SLACK
        outcome, allowed = watch["outcome"], False
        match outcome:
            case "completed":
                allowed = "completed" in words
            case "failed":
                allowed = "failed" in words or words.count("soft") > 1 or (late and "soft" in words)
            case "timed_out":
                allowed = late
            case "unavailable":
                allowed = words.count("not_found") >= 3 or words.count("rejected") >= 5
        require(allowed, f"the watch {watch['id']} of {watch['task_id']} is {outcome} after {words}")
        kind = f"video.{outcome}"
        owed = kind in watch["events"].split(",")
        found = [one for one in after.deliveries.values() if (one["watch_id"], one["type"]) == (watch["id"], kind)]
        require(len(found) == owed, f"the watch {watch['id']} has {len(found)} deliveries of {kind}, not {int(owed)}")

    def _deliveries(self, before: Snapshot, after: Snapshot) -> None:
        now = self.world.loop.time()
        for one, old in before.outbox.items():
            new = after.outbox.get(one)
            if new is None or (new["lease"] is None and old["lease"] is not None):
                self.removed[one] = now
        pending = {one for one, row in after.deliveries.items() if row["state"] == "pending"}
        require(
            after.outbox.keys() == pending, f"pending, or in the outbox, but not both: {after.outbox.keys() ^ pending}"
        )
        for delivery_id, row in after.deliveries.items():
            old = before.deliveries.get(delivery_id)
            if old is None or tuple(old) == tuple(row):
                continue
            require(old["attempts"] <= row["attempts"], f"attempts of {delivery_id} went down")
            if old["state"] != "pending" and row["state"] == "pending":
                if self.world.loop.time() < self.ledger.dead_asked_until:
                    self.ledger.resend_asked.add(delivery_id)
                require(delivery_id in self.ledger.resend_asked, f"{delivery_id} is pending again")
            if old["state"] == "pending" and row["state"] != "pending":
                self._delivery_ended(row, after)
            elif row["attempts"] > old["attempts"] and delivery_id not in self.ledger.resend_asked:
                self._postponed(row)

    def _delivery_ended(self, row: Any, after: Snapshot) -> None:
        posts = self.ledger.posts[row["id"]]
        statuses = [post.answer.status for post in posts if isinstance(post.answer, Answered)]
        if row["state"] == "delivered":
            require(any(200 <= one < 300 for one in statuses), f"{row['id']} is delivered after {statuses}")
            return
        if _superseded(row):
            watch = after.watches[row["watch_id"]]
            require(watch["state"] in FINAL, f"{row['id']} is superseded, and its watch is {watch['state']}")
            return
        used_up = row["round_attempts"] > len(self.retries)
        refused = 410 in statuses or any(isinstance(post.answer, RefusedTarget) for post in posts)
        require(used_up or refused, f"{row['id']} is dead after {row['round_attempts']} attempts ({statuses})")

    def _postponed(self, row: Any) -> None:
        """A failed attempt was recorded: the next one is not due before its time, and there is none after 410."""
        answer = self.ledger.posts[row["id"]][-1].answer
        gone = isinstance(answer, Answered) and answer.status == 410
        require(not gone, f"{row['id']} is pending after 410")
        if self.world.plan.shared:
            earliest = EPOCH + self.ledger.posts[row["id"]][-1].at + self.retries[row["round_attempts"] - 1]
            late = row["next_attempt_at"] - earliest + SLACK + 2 * self.world.plan.wall_error
            require(late >= 0, f"{row['id']} is due {-late:.3f} s too early")

    def _tasks(self, after: Snapshot) -> None:
        open_tasks: dict[str, Any] = {}
        for row in after.tasks.values():
            if row["closed_at"] is None:
                require(row["key"] not in open_tasks, f"two open tasks for {row['task_id']}")
                open_tasks[row["key"]] = row
        rows = {row["id"] for row in open_tasks.values()}
        watched = {row["task"] for row in after.watches.values() if row["state"] == "active"}
        require(watched <= rows, f"active watches on closed tasks: {watched - rows}")
        now, ids = self.world.loop.time(), {row["task_id"] for row in open_tasks.values()}
        for row in after.tasks.values():
            if row["task_id"] in ids:
                self.closed.pop(row["task_id"], None)
            else:
                self.closed.setdefault(row["task_id"], now)

    def _fences(self, before: Snapshot, after: Snapshot, host: Host) -> None:
        """What is written under a claim is written by the replica that holds it."""
        identity = self.world.replicas.identity_of(host)
        for task, row in after.tasks.items():
            old = before.tasks.get(task)
            if old is not None and (old["polls"], old["status"]) != (row["polls"], row["status"]):
                owner = before.replicas.get(old["owner"])
                held = None if owner is None else (owner["id"], owner["epoch"])
                require(held == identity, f"{row['task_id']} is written by {identity}; its owner is {held}")
        for delivery_id, row in after.outbox.items():
            old = before.outbox.get(delivery_id)
            if row["lease"] is not None and (old is None or old["lease"] != row["lease"]):
                holder = after.replicas.get(row["holder"])
                held = None if holder is None else (holder["id"], holder["epoch"])
                self.claimed[delivery_id] = row["lease"], host
                require(held == identity, f"{delivery_id} is claimed by {identity}, which is no replica with a lease")
        for delivery_id, row in after.deliveries.items():
            old = before.deliveries.get(delivery_id)
            if old is not None and row["attempts"] > old["attempts"]:
                claim = before.outbox.get(delivery_id)
                holder = None if claim is None else claim["holder"]
                require(holder == identity[0], f"an attempt of {delivery_id} is recorded by {identity}, not {holder}")

    # --- callbacks and polls ----------------------------------------------------------------------------------------

    def on_post(self, post: Post, host: Host | None) -> None:
        """A callback begins: it is the event's, it is due, and its sender holds the claim."""
        state, now = self.state, self.world.loop.time()
        event = state.events.get((post.watch_id, post.type))
        require(event is not None and event["payload"] == post.body, f"{post.id} is not the event of the store")
        self.world.contents.event_seen(orjson.loads(post.body))
        self._signed(post)
        self._slots(post, host)
        row, claim = state.deliveries.get(post.id), state.outbox.get(post.id)
        require(row is not None, f"{post.id} has no delivery")
        answered = self.ledger.cancelled.get(post.watch_id)
        calm = self.world.faults.calm_seconds()
        if answered is not None and calm > 5.0:
            require(now <= answered + self._window, f"{post.id} is sent {now - answered:.3f} s after its cancellation")
        paused = self.ledger.paused.get(f"{urlsplit(post.url).hostname}:443")
        if paused is not None and calm > PAUSE_SECONDS:
            require(now - paused < PAUSE_SECONDS, f"{post.id} is sent to a receiver that is paused")
        if claim is None or claim["lease"] is None:  # or removed and, in the same transaction, to be sent again
            recently = now - self.removed.get(post.id, 0.0) <= self._window or calm <= 5.0
            is_status = post.type in {"video.queued", "video.in_progress"}
            require(is_status and recently, f"{post.id} is sent and is not pending")
            return
        assert row is not None
        replica, _ = self.world.replicas.identity_of(host)
        self._lease(host, f"{post.id} is sent", LEASE_LEFT)
        require(claim["holder"] == replica, f"{post.id} is sent by {replica}; the claim is {claim['holder']}'s")
        if self.world.plan.shared:
            early = row["next_attempt_at"] - (EPOCH + now) - SLACK - 2 * self.world.plan.wall_error
            require(early <= 0, f"{post.id} is sent {early:.3f} s too early")

    def _signed(self, post: Post) -> None:
        """A callback is signed with its own id and the present time."""
        timestamp = post.headers["webhook-timestamp"]
        require(abs(int(timestamp) - self.world.store_time()) < 2.0, f"{post.id} has the timestamp {timestamp}")
        content = f"{orjson.loads(post.body)['id']}.{timestamp}.".encode() + post.body
        signature = base64.b64encode(hmac.digest(SECRET, content, "sha256")).decode()
        require(post.headers["webhook-signature"] == f"v1,{signature}", f"{post.id} has a wrong signature")

    def _slots(self, post: Post, host: Host | None) -> None:
        """A process makes no more attempts at a receiver at a time than the setting says."""
        receiver = urlsplit(post.url).hostname
        same = [one for one in self.ledger.under_way.get(host, ()) if urlsplit(one.url).hostname == receiver]
        most = self.world.plan.per_host
        require(len(same) <= most, f"{len(same)} attempts at {receiver} at a time, and {most} are allowed")

    def _lease(self, host: Host | None, what: str, seconds: float) -> None:
        """The replica of a host has a lease, which lasts for some more seconds."""
        if not self.world.plan.shared:
            return
        name, epoch = self.world.replicas.identity_of(host)
        row = self.state.replicas.get(name)
        require(row is not None and row["epoch"] == epoch, f"{what} by {name} {epoch}, whose lease has ended")
        assert row is not None
        left = row["expires_at"] - EPOCH - self.world.loop.time()
        require(left > seconds, f"{what} by {name}, whose lease lasts {left:.3f} s")

    @property
    def _window(self) -> float:
        return CHECK_WINDOW + 4 * self.world.plan.stall_seconds

    def on_poll(self, task_id: str, host: Host | None) -> None:
        """A poll begins: its task is open, or its owner cannot know yet that it is not."""
        try:
            self._lease(host, f"{task_id} is polled", 0.0)
        except Violation:
            # Until its next tick a replica may poll what it has loaded, or has before it froze: the result is refused.
            now = self.world.loop.time()
            since = max(self.lapsed.setdefault(host, now), 0.0 if host is None else host.away_until)
            if now - since > LAPSED_SECONDS:
                raise
        else:
            self.lapsed.pop(host, None)
        closed = self.closed.get(task_id)
        if closed is not None:
            ago = self.world.loop.time() - closed
            require(
                min(ago, self.world.faults.calm_seconds()) <= POLL_GRACE,
                f"{task_id} is polled {ago:.1f} s after its end",
            )

    # --- at the end -------------------------------------------------------------------------------------------------

    def at_end(self) -> None:
        """Everything is over: every watch, every delivery, every resend."""
        state = self.state
        for watch_id in self.ledger.registered.keys() | self.ledger.inherited:
            require(self.is_stored(watch_id), f"{watch_id} was acknowledged and is not stored")
        active = [one for one, row in state.watches.items() if row["state"] == "active"]
        require(not active, f"watches are still active: {active}")
        require(not state.outbox, f"deliveries are still pending: {list(map(tuple, state.outbox.values()))}")
        still_open = [row["task_id"] for row in state.tasks.values() if row["closed_at"] is None]
        require(not still_open, f"tasks are still open: {still_open}")
        deliveries, watches = self.removals.deliveries | state.deliveries, self.removals.watches | state.watches
        for delivery_id, row in deliveries.items():
            before = row["watch_id"] in self.ledger.inherited and row["attempts"] > 0
            require(before or _superseded(row) or self.ledger.posts[delivery_id], f"{delivery_id} was never sent")
        self.feed.at_end(state)
        for delivery_id, asked in self.ledger.resent:
            row = deliveries[delivery_id]
            over = watches[row["watch_id"]]["state"] == "cancelled" or _superseded(row)
            sent = any(post.at >= asked for post in self.ledger.posts[delivery_id])
            require(over or sent, f"{delivery_id} was to be sent again at {asked:.3f}, and was not")


def _superseded(row: Any) -> bool:
    return '"superseded"' in (row["error"] or "")
