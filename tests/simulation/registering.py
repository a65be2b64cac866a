"""What an app may rely on when it registers a watch: the answer is stored, and an Idempotency-Key is honoured."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.simulation.http import Reply
from tests.simulation.violation import require

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Use:
    """The first request with a key, and its answer."""

    body: bytes
    status: int
    watch_id: str


@dataclass(eq=False)
class Registering:
    """Checks the answers to registrations. `used` and `asked` are by app and Idempotency-Key."""

    world: "World"
    used: dict[tuple[str, str], Use] = field(default_factory=dict)
    asked: dict[tuple[str, str], set[bytes]] = field(default_factory=dict)  # bodies, answered or not

    def begins(self, app: str, key: str, body: Any) -> None:
        """Note that a request is sent."""
        if key:
            self.asked.setdefault((app, key), set()).add(orjson.dumps(body))

    def answered(self, app: str, key: str, body: Any, reply: Reply) -> None:
        """Check the answer to a request."""
        if reply.status == 409 and reply.body["code"] == "idempotency_conflict":
            others = self.asked.get((app, key), set()) - {orjson.dumps(body)}
            require(others, f"the key {key} of {app} is refused, and was used with one body only")
        if reply.status == 409 and reply.body["code"] == "watch_conflict":
            self._is_the_same(app, body, reply.body["watch_id"])
        if reply.status not in {200, 201}:
            return
        watch, ledger, invariants = reply.body, self.world.ledger, self.world.invariants
        ledger.registered.setdefault(watch["id"], watch)
        invariants.after_commit()
        require(invariants.is_stored(watch["id"]), f"{watch['id']} was acknowledged and is not stored")
        require(watch["app"] == app, f"{app} registers a watch and gets one of {watch['app']}")
        asked = body["task_id"], body["callback_url"]
        if key:
            self._with_key(app, key, orjson.dumps(body), reply)
        else:
            require((watch["task_id"], watch["callback_url"]) == asked, f"{asked} is answered with {watch['id']}")

    def _is_the_same(self, app: str, body: Any, watch_id: str) -> None:
        """Check that the watch of a conflict is this app's watch of the same task and callback."""
        row = self.world.invariants.watch(watch_id)
        asked = app, body["task_id"], body["callback_url"]
        found = row["app"], row["task_id"], row["callback_url"]
        require(found == asked, f"{asked} is refused because of {watch_id}, which is {found}")

    def _with_key(self, app: str, key: str, body: bytes, reply: Reply) -> None:
        first = self.used.get((app, key))
        if first is None or first.watch_id in self.world.invariants.removals.watches:
            self.used[app, key] = Use(body, reply.status, reply.body["id"])
            return
        now = Use(body, reply.status, reply.body["id"])
        require(now == first, f"the key {key} of {app} is answered with {now.status} {now.watch_id}, after {first}")
