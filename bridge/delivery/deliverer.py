"""The deliverer: sends what is owed, at once where it can, and records what came of it. See `delivering/`."""

import asyncio
import logging
import random as randomness
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from bridge.callback.sender import Sender
from bridge.core.delivery import RetryAt, host_failures_after
from bridge.core.model import TERMINAL_EVENTS, Answered, PendingDelivery
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import Secret, SigningKey
from bridge.delivery.attempt import AttemptRunner, Sent, attempt_row, verdict_of
from bridge.delivery.attempt_writer import AttemptRecord, AttemptWriter
from bridge.delivery.claimer import Claimer
from bridge.delivery.fairness import ClaimedDelivery, HostHealth, HostQueue, HostQueues
from bridge.delivery.reporting import DeliveryReporter
from bridge.store.group_commit import CALL_TIMEOUT_SECONDS
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

_log = get_logger("delivery")

RECORD_SECONDS = CALL_TIMEOUT_SECONDS + 1.0  # an attempt's record may take the store's patience; 1 s for a stalled loop
LEASE_MARGIN = 15.0
"""What a claim lasts beyond an attempt, in seconds: 4 for the claim's own answer, 5 for the record (see above), and the
rest for waiting in memory, where a host's line is no longer than what it takes in 5. Where other replicas live on, a
crash delays what was claimed by that much: half a minute with attempts of 15 s."""
IDLE_WORKERS = 128  # kept for the next burst; a worker is a suspended coroutine, 2 KB
DRAIN_TICK_SECONDS = 0.1


class Deliverer:
    """Sends owed deliveries, fairly between hosts. `attempt_seconds` is the sender's clock for one attempt.

    `may_send` is False while this replica's lease is not certain: then nothing is claimed and nothing begun.
    `announce` is told the watch of each recorded attempt; `clock` is monotonic, in seconds. `secrets` may be changed in
    place. Make it on the running loop; `tick` it about four times a second.
    """

    def __init__(  # noqa: PLR0913  a shell's collaborators and limits
        self,
        store: Store,
        sender: Sender,
        *,
        policy: RetryPolicy,
        secrets: Sequence[Secret],
        signing_key: SigningKey | None,
        announce: Callable[[Sequence[str]], None],
        metrics: Metrics,
        concurrency: int,
        per_host: int,
        attempt_seconds: float,
        may_send: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._store, self._policy = store, policy
        self._announce, self._may_send = announce, may_send
        self._clock, self._random = clock, random
        self._needs = attempt_seconds + RECORD_SECONDS
        self._lease_seconds = attempt_seconds + LEASE_MARGIN
        self._hosts = HostQueues(concurrency, per_host)
        self._attempts = AttemptRunner(sender, secrets, signing_key, store.now)
        self._report = DeliveryReporter(metrics)
        self._recorder = AttemptWriter(
            store, on_written=self._written, on_lost=self._lost, on_recovery=self._pump, clock=clock
        )
        self._backlog = Claimer(
            store,
            self._hosts,
            accept=self._accept,
            is_open=self._is_open,
            lease_seconds=self._lease_seconds,
            clock=clock,
        )
        self._held: dict[
            str, ClaimedDelivery
        ] = {}  # what waits, is being sent or is unwritten: one delivery is held once
        self._sights: dict[
            str, list[ClaimedDelivery]
        ] = {}  # by watch: status events that wait, which its end supersedes
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[ClaimedDelivery]] = []
        self._loops: list[asyncio.Task[None]] = []
        self._draining = False
        self._progress = asyncio.Event()

    async def start(self) -> None:
        """Load which hosts fail, so that their probes of one outlast a restart, and begin. Raises StoreUnavailable."""
        self._hosts.load(await self._store.host_failures())
        self._loops = [
            asyncio.create_task(_work_when(part.due, part.work), name=f"deliverer-{name}")
            for name, part in (("backlog", self._backlog), ("recorder", self._recorder))
        ]
        self.wake()

    def hand_over(self, owed: Sequence[PendingDelivery]) -> None:
        """Take deliveries that the store claimed for us a moment ago: send, let wait or release. Never blocks."""
        self.forget(one.watch_id for one in owed if one.type in TERMINAL_EVENTS)
        now, wall = self._clock(), self._store.now()
        returns: list[PendingDelivery] = []
        for one in owed:
            # The claim is as old as the event; the store had its patience, so never younger than we know.
            age = max(CALL_TIMEOUT_SECONDS, wall - one.created_at)
            held = ClaimedDelivery(one, now - age + self._store.delivery_lease_seconds - self._needs)
            host = self._hosts.get(one.host)
            if held.begins_before <= now or not self._takes(host):
                returns.append(one)
            else:
                self._hold(host, held)
        self._backlog.give_back(returns)

    def forget(self, watch_ids: Iterable[str]) -> None:
        """These watches are final: send no more of their status events that wait here."""
        if self._sights:
            self._drop([held for watch_id in watch_ids for held in self._superseded(watch_id)])

    def tick(self) -> None:
        """Let go of what waited too long, try again what the store refused, look for what is due; return at once."""
        self._drop(self._hosts.take_late(self._clock()))
        self._recorder.tick()
        self._backlog.tick()
        self._hosts.forget_idle()
        self._pump()

    def wake(self) -> None:
        """Something is due now, such as a retry that was asked for: look at once."""
        self._backlog.look()

    def let_go(self) -> None:
        """Claims are lost, or soon will be: begin nothing of what waits here."""
        self._drop(self._hosts.take_all_waiting())

    async def drain(self, seconds: float) -> None:
        """Begin nothing more, release what waits, let attempts end and be recorded for `seconds`; then stop."""
        self._draining = True
        self.let_go()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._hosts.busy or self._recorder.unwritten or self._backlog.returning:
                    self.tick()
                    await self._some_progress()
        if cut := self._hosts.busy + self._recorder.unwritten:
            _log.event("drain_cut", level=logging.WARNING, deliveries=cut, means="they are sent again after the start")
        tasks = [*self._workers, *self._loops]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- what is held ---------------------------------------------------------------------------------------------

    def _accept(self, owed: Sequence[PendingDelivery], claimed_from: float) -> None:
        """Hold what was claimed out of the outbox; `claimed_from` (monotonic) is before the claim."""
        begins_before = claimed_from + self._lease_seconds - self._needs
        for one in owed:
            if (known := self._held.get(one.id)) is not None:
                # It waits, is being sent, or its record is unwritten: it goes on under the new claim, and is sent once.
                known.owed, known.begins_before = one, begins_before
                self._recorder.renewed(one.id)
            else:
                self._hold(self._hosts.get(one.host), ClaimedDelivery(one, begins_before))

    def _takes(self, host: HostQueue) -> bool:
        if self._draining:
            return False
        return self._hosts.may_wait(host) or (not host.waiting and self._is_open() and self._hosts.may_begin(host))

    def _hold(self, host: HostQueue, held: ClaimedDelivery) -> None:
        self._held[held.owed.id] = held
        if held.owed.type not in TERMINAL_EVENTS:
            self._sights.setdefault(held.owed.watch_id, []).append(held)
        self._hosts.put(host, held)
        self._pump()

    def _no_longer_waits(self, held: ClaimedDelivery) -> None:
        if held.owed.type not in TERMINAL_EVENTS and (waiting := self._sights.get(held.owed.watch_id)):
            waiting.remove(held)
            if not waiting:
                del self._sights[held.owed.watch_id]

    def _superseded(self, watch_id: str) -> list[ClaimedDelivery]:
        return [held for held in self._sights.get(watch_id, ()) if self._hosts.take(held)]

    def _drop(self, those: Sequence[ClaimedDelivery]) -> None:
        """Let go, unsent, of what was taken out of the waiting line. The store passes over claims that are gone."""
        for held in those:
            self._no_longer_waits(held)
            del self._held[held.owed.id]
        self._backlog.give_back([held.owed for held in those])

    # --- sending --------------------------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        return bool(self._loops) and not self._draining and self._recorder.accepting and self._may_send()

    def _pump(self) -> None:
        """Begin all that may begin."""
        while held := self._take():
            if self._idle:
                self._idle.pop().set_result(held)
            else:
                worker = asyncio.create_task(self._deliver_for_ever(held), name="deliverer-worker")
                self._workers.add(worker)
                worker.add_done_callback(self._workers.discard)

    def _take(self) -> ClaimedDelivery | None:
        """Take the next delivery that may begin, and its host's slot."""
        while self._is_open() and (found := self._hosts.next()):
            host, held = found
            if held.begins_before <= self._clock():
                self._drop([held])
                continue
            self._no_longer_waits(held)
            self._hosts.begin(host)
            return held
        return None

    async def _deliver_for_ever(self, held: ClaimedDelivery) -> None:
        """Deliver this one and what is taken or given later: no new asyncio task for each."""
        while True:
            try:
                await self._deliver(held)
            except Exception as error:  # noqa: BLE001  told, and no longer held: it is due again at its claim's end
                _log.event("delivery_broke", level=logging.ERROR, trace=error, delivery_id=held.owed.id)
                self._held.pop(held.owed.id, None)
            following = self._take()
            self._pump()
            if following is None:
                following = await self._given()
            if following is None:
                return
            held = following

    async def _given(self) -> ClaimedDelivery | None:
        """Wait for something to deliver; None when this worker is not needed."""
        if self._draining or len(self._idle) >= IDLE_WORKERS:
            return None
        given: asyncio.Future[ClaimedDelivery] = asyncio.get_running_loop().create_future()
        self._idle.append(given)
        return await given

    async def _deliver(self, held: ClaimedDelivery) -> None:
        # The slot is free again before the record is durable: a commit must not hold a host up, and how much may be
        # unwritten is the recorder's to say.
        record = await self._attempt(held)
        self._recorder.write(record)
        self._backlog.room_for(record.host)

    async def _attempt(self, held: ClaimedDelivery) -> AttemptRecord:
        """Send once and free the slot; what came of it."""
        host = self._hosts.get(held.owed.host)
        failures_before, failures, seconds, answered = host.failures, host.failures, 0.0, False
        try:
            self._report.began(held.owed, self._store.now())
            sent = await self._attempts.make(held.owed)
            failures_before = failures = host.failures
            if sent.tells_of_host:
                failures, answered = host_failures_after(sent.answer, failures), isinstance(sent.answer, Answered)
            seconds = sent.duration_seconds
        finally:
            self._hosts.end(host, failures, seconds, answered=answered)
            self._progress.set()
        record = self._record(held, host, sent, changed=failures != failures_before)
        self._report.ended(record, sent, failures_before, failures)
        if host.standing is HostHealth.FAILING:
            self._drop(self._hosts.take_waiting(host))
        return record

    def _record(self, held: ClaimedDelivery, host: HostQueue, sent: Sent, *, changed: bool) -> AttemptRecord:
        verdict = verdict_of(sent, held.owed, self._policy, self._random())
        attempt = attempt_row(sent, held.owed, verdict)
        return AttemptRecord(held, host, attempt, verdict, sent.ended_at, changed)

    def _written(self, record: AttemptRecord) -> None:
        self._report.written(record)
        if isinstance(record.verdict, RetryAt):
            self._backlog.due_at(record.verdict.at)
        self._over(record)

    def _lost(self, record: AttemptRecord) -> None:
        self._report.lost(record)
        self._over(record)

    def _over(self, record: AttemptRecord) -> None:
        self._held.pop(record.claimed.owed.id, None)
        self._progress.set()
        self._announce([record.claimed.owed.watch_id])
        if self._hosts.ready:
            self._pump()  # too much was unwritten, perhaps

    # --- ending ---------------------------------------------------------------------------------------------------

    async def _some_progress(self) -> None:
        self._progress.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TICK_SECONDS):
                await self._progress.wait()


async def _work_when(due: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` whenever it is due, for ever; a fault in it is told, and the next time is another chance."""
    while True:
        await due.wait()
        due.clear()
        try:
            await work()
        except Exception as error:  # noqa: BLE001  a loop that died in silence would keep every delivery waiting
            _log.event("deliverer_broke", level=logging.ERROR, trace=error)
