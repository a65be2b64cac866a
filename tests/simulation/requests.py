"""The HTTP requests of apps and operators to a bridge, and checks of what its answers promise."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from tests.simulation.feed import Reading
from tests.simulation.hosts import Host
from tests.simulation.http import Caller, Reply, Request
from tests.simulation.registering import Registering
from tests.simulation.replicas import APPS, OPERATOR
from tests.simulation.violation import Violation, require

if TYPE_CHECKING:
    from tests.simulation.world import World

ANSWER_SECONDS = 5.5
WAKE_SECONDS = 3.0  # a replica reads once a second what another one has changed
LATE_SECONDS = 60.0  # a request without an answer is carried out within this time, or never

Then: TypeAlias = Callable[[Reply, float], None]
"""Is called with an answer, and with the time when the request was sent."""


class Requests:
    """The actions of a plan in which an app or an operator sends a request, one method for each."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ledger = world.ledger
        self._registering = Registering(world)
        self._resumes = 0
        self._beside: list[asyncio.Task[None]] = []
        self._late_pauses: dict[str, float] = {}  # until when the bridge may carry out a pause that had no answer

    def actions(self) -> Mapping[str, Callable[..., None]]:
        """Return the actions by their names in a plan."""
        return {
            "register": self.register,
            "cancel": self.cancel,
            "wait": self.wait,
            "trespass": self.trespass,
            "content": self.content,
            "resend": self.resend,
            "resend_dead": self.resend_dead,
            "pause": self.pause,
            "resume": self.resume,
        }

    def register(  # noqa: PLR0917  the parts of a registration
        self,
        task_id: str,
        url: str,
        events: tuple[str, ...],
        seconds: float,
        key: str,
        app: str = "shop",
        idempotency_key: str = "",
    ) -> None:
        """An app registers a watch."""
        body = {"task_id": task_id, "callback_url": url, "events": list(events), "timeout_seconds": seconds}
        body |= {} if key == "sk-one" else {"api_key": key}
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        self._registering.begins(app, idempotency_key, body)

        def registered(reply: Reply, _asked: float) -> None:
            self._registering.answered(app, idempotency_key, body, reply)

        self._send(Request(APPS[app], "POST", "/watch", body, headers), registered)

    def cancel(self, choice: float) -> None:
        """An app cancels one of its watches."""
        if watch_id := _chosen(sorted(self._ledger.registered), choice):
            token = APPS[self._ledger.registered[watch_id]["app"]]
            self._send(Request(token, "DELETE", f"/watch/{watch_id}"), self._cancelled)

    def _cancelled(self, reply: Reply, _asked: float) -> None:
        if reply.status == 200:
            watch_id, invariants = reply.body["id"], self._world.invariants
            self._ledger.cancelled.setdefault(watch_id, self._world.loop.time())
            invariants.after_commit()
            row = invariants.removals.watches.get(watch_id) or invariants.state.watches[watch_id]
            state = row["state"]
            require(state == "cancelled", f"the cancellation of {watch_id} was acknowledged, and it is {state}")

    def wait(self, choice: float, seconds: float) -> None:
        """An app waits for the end of one of its watches."""
        watch_id = _chosen(sorted(self._ledger.registered), choice)
        if watch_id is None:
            return
        token = APPS[self._ledger.registered[watch_id]["app"]]

        def waited(reply: Reply, asked: float) -> None:
            if reply.status != 200:
                return
            ended = self._world.invariants.ended.get(watch_id)
            late = self._world.loop.time() - max(asked, asked if ended is None else ended)
            calm = self._world.faults.calm_seconds()
            require(ended is None or min(late, calm) < WAKE_SECONDS, f"the end of {watch_id} is seen {late:.1f} s late")
            known_at = asked if ended is None else ended
            require(
                reply.body["state"] != "active" or known_at >= asked, f"{watch_id} is final, and is shown as active"
            )

        path = f"/watch/{watch_id}?wait_seconds={seconds:.0f}"
        self._send(Request(token, "GET", path), waited, held=seconds)

    def content(self, choice: float, how: str, byte_range: str) -> None:
        """An app reads a video, mostly of a watch that has completed."""
        watches = self._world.invariants.state.watches
        completed = [one for one, row in watches.items() if row["outcome"] == "completed"]
        known = self._ledger.registered.keys()
        wanted = known & completed if choice > 0.2 else known
        if watch_id := _chosen(sorted(wanted), choice):
            self._world.contents.read(watch_id, how, byte_range)

    def trespass(self, choice: float, what: str) -> None:
        """An app sends a request about a watch of another app. The bridge must refuse it."""
        watch_id = _chosen(sorted(self._ledger.registered), choice)
        if watch_id is None:
            return
        [token] = [token for app, token in APPS.items() if app != self._ledger.registered[watch_id]["app"]]
        event_id = watch_id.replace("wat_", "evt_") + "c"
        method, path = {
            "read": ("GET", f"/watch/{watch_id}"),
            "cancel": ("DELETE", f"/watch/{watch_id}"),
            "envelope": ("GET", f"/watch/{watch_id}/envelope"),
            "content": ("GET", f"/watch/{watch_id}/content"),
            "resend": ("POST", f"/deliveries/{event_id}/retry"),
        }[what]

        def refused(reply: Reply, _asked: float) -> None:
            require(reply.status in {0, 404, 503}, f"another app's {method} {path} is answered with {reply.status}")

        self._send(Request(token, method, path, {} if method == "POST" else None), refused)

    def resend(self, choice: float) -> None:
        """An operator has a delivery sent again."""
        if delivery_id := _chosen(sorted(self._world.invariants.state.deliveries), choice):
            self._ledger.resend_asked.add(delivery_id)
            self._send(Request(OPERATOR, "POST", f"/deliveries/{delivery_id}/retry", {}), self._resent)

    def _resent(self, reply: Reply, asked: float) -> None:
        if reply.status == 202:
            self._ledger.resent.append((reply.body["id"], asked))

    def resend_dead(self) -> None:
        """An operator has all dead deliveries sent again."""
        self._ledger.resend_asked.update(self._world.invariants.state.deliveries)
        self._ledger.dead_asked_until = self._world.loop.time() + LATE_SECONDS
        self._send(Request(OPERATOR, "POST", "/deliveries/retry", {"state": "dead"}), lambda _reply, _asked: None)

    def pause(self, receiver: str) -> None:
        """An operator pauses a receiver."""
        self._ledger.ever_paused.add(receiver)
        resumes = self._resumes

        def paused(reply: Reply, asked: float) -> None:
            self._ledger.ever_paused.add(receiver)  # again, because a resume may have overtaken this pause
            if not reply.status:
                self._late_pauses[receiver] = asked + LATE_SECONDS
            if reply.status == 200 and self._resumes == resumes:
                self._ledger.paused[receiver] = self._world.loop.time()

        self._send(Request(OPERATOR, "POST", f"/receivers/{receiver}/pause", {}), paused)

    def resume(self, receiver: str) -> None:
        """An operator resumes a receiver. From now on the receiver may get callbacks, whatever the answer is."""
        self._ledger.paused.pop(receiver, None)
        self._resumes += 1

        def resumed(reply: Reply, _asked: float) -> None:
            if reply.status == 200 and self._late_pauses.get(receiver, 0.0) < self._world.loop.time():
                self._ledger.ever_paused.discard(receiver)
                self._ledger.paused.pop(receiver, None)

        self._send(Request(OPERATOR, "POST", f"/receivers/{receiver}/resume", {}), resumed)

    def resume_all(self) -> None:
        """Operators resume what they have paused."""
        for receiver in sorted(self._ledger.ever_paused):
            self.resume(receiver)

    def read_feeds(self) -> None:
        """Each reader of the feed asks for the events after those that it has."""
        for reading in self._world.feed.readings:
            self.read_feed(reading)

    def read_feed(self, reading: Reading, wait_seconds: float = 0.0) -> None:
        """Ask for the reader's next page of the feed, unless it still waits for an answer."""
        if reading.waiting:
            return
        path = f"/events?limit=3{'' if reading.cursor is None else f'&after={reading.cursor}'}"
        missed = set(reading.missed)

        def read(reply: Reply, _asked: float) -> None:
            reading.waiting = False
            self._world.feed.answered(reading, reply, missed)

        reading.waiting = self._send(Request(reading.token, "GET", path), read, held=wait_seconds)

    def send_beside(self, request: Request, then: Then, held: float) -> None:
        """Send a request to any bridge. The world does not wait for its answer before it ends."""
        callers = [slot.caller for slot in self._world.replicas.slots if slot.caller is not None]
        if callers:
            caller = callers[self._world.random.randrange(len(callers))]
            self._beside.append(self._world.loop.create_task(self._ask(caller, request, then, held)))

    def _send(self, request: Request, then: Then, *, held: float = 0.0) -> bool:
        """Send a request to any bridge, and return whether there was one. It may hold its answer for `held` seconds."""
        callers = [slot.caller for slot in self._world.replicas.slots if slot.caller is not None]
        if callers:
            caller = callers[self._world.random.randrange(len(callers))]
            asking = self._ask(caller, request, then, held)
            self._world.tasks.append(self._world.loop.create_task(asking))
        return bool(callers)

    async def _ask(self, caller: Caller, request: Request, then: Then, held: float) -> None:
        asked = self._world.loop.time()
        reply = await caller.request(request, held)
        code = reply.body.get("code", "") if isinstance(reply.body, dict) else ""
        what = f"{request.method} {request.path}"
        if request.method != "GET":
            self._world.note(f"{what} at {caller.host.name}: {reply.status} {code}")
        seconds = self._world.loop.time() - asked
        try:
            broken = reply.status >= 500 and reply.status not in {502, 503}
            require(not broken, f"{what} is answered with {reply.status} {reply.body}")
            in_time = seconds <= ANSWER_SECONDS + held or _was_away(caller.host, asked)
            require(in_time, f"{what} is answered after {seconds:.1f} s")
            then(reply, asked)
        except Violation as error:
            self._world.failed(error)


def _was_away(host: Host, since: float) -> bool:
    return host.crashed or host.frozen or host.away_until >= since


def _chosen(ids: list[str], choice: float) -> str | None:
    return ids[int(choice * len(ids))] if ids else None
