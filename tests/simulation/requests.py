"""What apps and operators ask a bridge for, over HTTP, and what its answers promise."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tests.simulation.hosts import Host
from tests.simulation.http import Caller, Reply
from tests.simulation.invariants import Violation, require
from tests.simulation.replicas import APP, OPERATOR

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWER_SECONDS = 5.5
LATE_SECONDS = 60.0  # after which a request that was not answered is carried out no more

Then: TypeAlias = Callable[[Reply, float], None]
"""Gets an answer, and when the request was sent."""


class Requests:
    """Each method is an action of a plan."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ledger = world.ledger
        self._cursor: str | None = None
        self._reading = False
        self._resumes = 0
        self._late_pauses: dict[str, float] = {}  # until when a pause that was not answered may be carried out

    def actions(self) -> Mapping[str, Callable[..., None]]:
        """The actions by their names in a plan."""
        return {
            "register": self.register,
            "cancel": self.cancel,
            "resend": self.resend,
            "resend_dead": self.resend_dead,
            "pause": self.pause,
            "resume": self.resume,
        }

    def register(self, task_id: str, url: str, events: tuple[str, ...], seconds: float, key: str) -> None:
        """An app registers a watch."""
        body = {"task_id": task_id, "callback_url": url, "events": list(events), "timeout_seconds": seconds}
        self._send(APP, "POST", "/watch", body if key == "sk-one" else body | {"api_key": key}, self._registered)

    def _registered(self, reply: Reply, _asked: float) -> None:
        if reply.status in {200, 201}:
            watch = reply.body
            self._ledger.registered.setdefault(watch["id"], watch)
            self._world.invariants.after_commit()
            stored = self._world.invariants.state.watches
            require(watch["id"] in stored, f"{watch['id']} was acknowledged and is not stored")

    def cancel(self, choice: float) -> None:
        """An app cancels one of its watches."""
        if watch_id := _chosen(sorted(self._ledger.registered), choice):
            self._send(APP, "DELETE", f"/watch/{watch_id}", None, self._cancelled)

    def _cancelled(self, reply: Reply, _asked: float) -> None:
        if reply.status == 200:
            watch_id = reply.body["id"]
            self._ledger.cancelled.setdefault(watch_id, self._world.loop.time())
            self._world.invariants.after_commit()
            state = self._world.invariants.state.watches[watch_id]["state"]
            require(state == "cancelled", f"the cancellation of {watch_id} was acknowledged, and it is {state}")

    def resend(self, choice: float) -> None:
        """An operator has a delivery sent again."""
        if delivery_id := _chosen(sorted(self._world.invariants.state.deliveries), choice):
            self._ledger.resend_asked.add(delivery_id)
            self._send(OPERATOR, "POST", f"/deliveries/{delivery_id}/retry", {}, self._resent)

    def _resent(self, reply: Reply, asked: float) -> None:
        if reply.status == 202:
            self._ledger.resent.append((reply.body["id"], asked))

    def resend_dead(self) -> None:
        """An operator has all dead deliveries sent again."""
        self._ledger.resend_asked.update(self._world.invariants.state.deliveries)
        self._ledger.dead_asked_until = self._world.loop.time() + LATE_SECONDS
        self._send(OPERATOR, "POST", "/deliveries/retry", {"state": "dead"}, lambda _reply, _asked: None)

    def pause(self, receiver: str) -> None:
        """An operator pauses a receiver."""
        self._ledger.ever_paused.add(receiver)
        resumes = self._resumes

        def paused(reply: Reply, asked: float) -> None:
            self._ledger.ever_paused.add(receiver)  # also when it was overtaken by a resume
            if not reply.status:
                self._late_pauses[receiver] = asked + LATE_SECONDS
            if reply.status == 200 and self._resumes == resumes:
                self._ledger.paused[receiver] = self._world.loop.time()

        self._send(OPERATOR, "POST", f"/receivers/{receiver}/pause", {}, paused)

    def resume(self, receiver: str) -> None:
        """An operator resumes a receiver. From now on it may get callbacks, whatever the answer is."""
        self._ledger.paused.pop(receiver, None)
        self._resumes += 1

        def resumed(reply: Reply, _asked: float) -> None:
            if reply.status == 200 and self._late_pauses.get(receiver, 0.0) < self._world.loop.time():
                self._ledger.ever_paused.discard(receiver)
                self._ledger.paused.pop(receiver, None)

        self._send(OPERATOR, "POST", f"/receivers/{receiver}/resume", {}, resumed)

    def resume_all(self) -> None:
        """Operators resume what they have paused."""
        for receiver in sorted(self._ledger.ever_paused):
            self.resume(receiver)

    def read_feed(self) -> None:
        """The app asks for the events after those that it has."""
        if self._reading:
            return
        self._reading = True
        after = "" if self._cursor is None else f"&after={self._cursor}"

        def read(reply: Reply, _asked: float) -> None:
            self._reading = False
            require(reply.status in {0, 200, 503}, f"the feed answers {reply.status} {reply.body}")
            if reply.status == 200:
                ids = [one["id"] for one in reply.body["items"]]
                again = [one for one in ids if one in self._ledger.feed]
                require(not again, f"the feed repeats {again}")
                self._ledger.feed.update(ids)
                self._cursor = reply.body["next_cursor"]

        self._reading = self._send(APP, "GET", f"/events?limit=3{after}", None, read)

    def _send(self, token: str, method: str, path: str, body: Any, then: Then) -> bool:
        callers = [slot.caller for slot in self._world.replicas.slots if slot.caller is not None]
        if callers:
            caller = callers[self._world.random.randrange(len(callers))]
            asked = self._ask(caller, (token, method, path, body), then)
            self._world.tasks.append(self._world.loop.create_task(asked))
        return bool(callers)

    async def _ask(self, caller: Caller, request: tuple[str, str, str, Any], then: Then) -> None:
        asked = self._world.loop.time()
        _, method, path, _ = request
        reply = await caller.request(*request)
        code = reply.body.get("code", "") if isinstance(reply.body, dict) else ""
        if method != "GET":
            self._world.note(f"{method} {path} at {caller.host.name}: {reply.status} {code}")
        seconds = self._world.loop.time() - asked
        try:
            broken = reply.status >= 500 and reply.status != 503
            require(not broken, f"{method} {path} is answered with {reply.status} {reply.body}")
            in_time = seconds <= ANSWER_SECONDS or _was_away(caller.host, asked)
            require(in_time, f"{method} {path} is answered after {seconds:.1f} s")
            then(reply, asked)
        except Violation as error:
            self._world.failed(error)


def _was_away(host: Host, since: float) -> bool:
    return host.crashed or host.frozen or host.away_until >= since


def _chosen(ids: list[str], choice: float) -> str | None:
    return ids[int(choice * len(ids))] if ids else None
