"""The deliverer: sends pending deliveries as soon as they are due, and records the results of the attempts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from bridge.aio.batching import MicroBatcher
from bridge.aio.completion import Operations
from bridge.aio.system import SYSTEM, System
from bridge.aio.worker_pool import WorkerPool
from bridge.callback.sender import Sender
from bridge.core.delivery import RetryAt, host_failures_after, is_attempt, problem_of
from bridge.core.errors import StoreUnavailable
from bridge.core.model import TERMINAL_EVENTS, Answered, PendingDelivery
from bridge.core.receivers import ReceiverHealth
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import Signer
from bridge.delivery.attempt import AttemptRunner, Sent, attempt_row, verdict_of
from bridge.delivery.attempt_writer import AttemptRecord, AttemptWriter
from bridge.delivery.claimer import Claimer, claim_seconds
from bridge.delivery.fairness import ClaimedDelivery, HostQueue, HostQueues
from bridge.delivery.figures import AttemptFigures
from bridge.delivery.reporting import DeliveryReporter
from bridge.delivery.shortage import OwnShortage
from bridge.store.change_listener import ChangeListener
from bridge.store.group_commit import CALL_TIMEOUT_SECONDS
from bridge.store.lease import Lease
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

_log = get_logger("delivery")

RECORD_SECONDS = CALL_TIMEOUT_SECONDS + 1.0  # to write an attempt: the store's limit, and 1 s for a stalled loop
MAX_IDLE_WORKERS = 128  # kept for the next burst; a worker is a suspended coroutine, 2 KB
DRAIN_TICK_SECONDS = 0.1


class Deliverer:
    """Sends pending deliveries, fairly between hosts. Create it on the running loop; call `tick` about once a second.

    `attempt_seconds` is the sender's time limit for one attempt. While `lease` is not valid, nothing is claimed and no
    attempt starts. `change_listener` gets the watch id of each recorded attempt.
    """

    def __init__(  # noqa: PLR0913  collaborators, limits, and what tests inject
        self,
        store: Store,
        sender: Sender,
        signer: Signer,
        change_listener: ChangeListener,
        lease: Lease,
        *,
        policy: RetryPolicy,
        metrics: Metrics,
        concurrency: int,
        per_host: int,
        attempt_seconds: float,
        system: System = SYSTEM,
    ) -> None:
        self._store, self._policy = store, policy
        self._change_listener, self._lease = change_listener, lease
        clock = system.running
        self._clock, self._random = clock, system.random
        self._needed_seconds = attempt_seconds + RECORD_SECONDS
        self._lease_seconds = claim_seconds(attempt_seconds)
        self._hosts = HostQueues(concurrency, per_host)
        self._runner = AttemptRunner(sender, signer, store.now)
        self.figures = AttemptFigures(store.now)
        self._reporter = DeliveryReporter(metrics, self.figures)
        # An attempt needs a slot and a worker. There are as many workers as slots, so only slots limit attempts.
        self._workers: WorkerPool[ClaimedDelivery] = WorkerPool(
            concurrency, self._next, self._deliver, "deliverer-worker", max_idle=MAX_IDLE_WORKERS
        )
        self._writer = AttemptWriter(store, self, clock=clock)
        self._claimer = Claimer(
            store,
            self._hosts,
            self,
            lease_seconds=self._lease_seconds,
            clock=clock,
        )
        self._own_shortage = OwnShortage(clock)
        self._operations = Operations(_log)
        self._claim_checks = MicroBatcher(self._check_claims, self._operations.start)
        # By id: every delivery that waits, is being sent, or has an unwritten record. Each is here once.
        self._claimed: dict[str, ClaimedDelivery] = {}
        # By watch: the status events that wait. The watch's terminal event supersedes them.
        self._status_events: dict[str, list[ClaimedDelivery]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._draining = False
        self._progress = asyncio.Event()

    async def start(self) -> None:
        """Loads the failing hosts, which get probes also after a restart, and the paused hosts. Then starts sending.

        Raises StoreUnavailable.
        """
        self._hosts.load(await self._store.host_failures())
        self._hosts.paused = (await self._store.receivers.pause_state()).held
        self._loops = [
            asyncio.create_task(_run_when_due(part.due, part.work), name=f"deliverer-{name}")
            for name, part in (("claimer", self._claimer), ("writer", self._writer))
        ]
        self.wake()

    def add_new(self, deliveries: Sequence[PendingDelivery]) -> None:
        """Takes deliveries of new events, which the store has just claimed for this replica. Never blocks.

        Each delivery is sent, waits in memory, or is released. It is released if its claim is lost already. A terminal
        event supersedes its watch's waiting status events.
        """
        self.drop_status_events(delivery.watch_id for delivery in deliveries if delivery.type in TERMINAL_EVENTS)
        now, wall = self._clock(), self._store.now()
        unused: list[PendingDelivery] = []
        for delivery in deliveries:
            # The claim is as old as the event. The commit may have taken up to the time limit of the store, so the
            # claim counts as at least that old.
            age = max(CALL_TIMEOUT_SECONDS, wall - delivery.created_at)
            claimed = ClaimedDelivery(delivery, now - age + self._store.delivery_lease_seconds - self._needed_seconds)
            host = self._hosts.get(delivery.host)
            if claimed.begins_before <= now or not self._holds(delivery) or not self._has_room(host):
                unused.append(delivery)
            else:
                self._enqueue(host, claimed)
        self._claimer.release(unused)

    def drop_status_events(self, watch_ids: Iterable[str]) -> None:
        """Drops the waiting status events of watches that are final."""
        if self._status_events:
            self._release([claimed for watch_id in watch_ids for claimed in self._remove_status_events(watch_id)])

    def tick(self) -> None:
        """Releases deliveries that waited too long, repeats refused writes, claims due deliveries. Returns at once."""
        self._release(self._hosts.remove_late(self._clock()))
        self._writer.tick()
        self._claimer.tick()
        self._hosts.forget_idle()
        self._workers.wake()

    def wake(self) -> None:
        """Queries the outbox now, because a delivery has become due, for example by a requested retry."""
        self._claimer.request_query()

    def set_paused(self, hosts: frozenset[str]) -> None:
        """Sends nothing to these hosts from now on, and sends to all others. Attempts under way end as usual."""
        before, self._hosts.paused = self._hosts.paused, hosts
        for name in hosts - before:
            self._release(self._hosts.remove_waiting(self._hosts.get(name)))
        if before - hosts:
            self.wake()

    def shortage(self) -> str | None:
        """Returns the present shortage because of which nothing can be sent, as a sentence; None without one."""
        return self._own_shortage.reason

    def release_waiting(self) -> None:
        """Releases all waiting deliveries, because this replica has lost its claims or will lose them soon."""
        self._release(self._hosts.remove_all_waiting())

    async def drain(self, seconds: float) -> None:
        """Releases waiting deliveries, and waits until all attempts are recorded, for at most `seconds`. Then stops."""
        self._draining = True
        self.release_waiting()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._hosts.busy or self._writer.unwritten or self._claimer.releasing:
                    self.tick()
                    await self._some_progress()
        if cut := self._hosts.busy + self._writer.unwritten:
            means = (
                "the stop did not wait longer for these attempts: their deliveries are sent again when their claims end"
            )
            _log.event("drain_cut", level=logging.WARNING, deliveries=cut, means=means)
        self._claimer.stop()
        for loop in self._loops:
            loop.cancel()
        await self._workers.finish(0.0)
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self._operations.finish()

    # --- claimed deliveries ---------------------------------------------------------------------------------------

    def accept(self, deliveries: Sequence[PendingDelivery], claim_started: float) -> None:
        """Takes deliveries that were claimed. `claim_started` is the monotonic time before the claim."""
        begins_before = claim_started + self._lease_seconds - self._needed_seconds
        for delivery in deliveries:
            known = self._claimed.get(delivery.id)
            if known is None:
                if self._holds(delivery) and delivery.host not in self._hosts.paused:  # since the claim began
                    self._enqueue(self._hosts.get(delivery.host), ClaimedDelivery(delivery, begins_before))
                else:
                    self._claimer.release([delivery])
            elif self._holds(delivery) and self._is_recorded(known, delivery):
                self._claimer.release([delivery])
            elif self._holds(delivery):
                # The delivery waits, is being sent, or has an unwritten record. It continues under the new claim and is
                # sent once. If its attempt began before it became due again, a retry was requested: it is sent again.
                known.due_again |= known.started_at is not None and known.started_at < delivery.due_from
                known.delivery, known.begins_before = delivery, begins_before
                self._writer.renewed(delivery.id)

    def _is_recorded(self, known: ClaimedDelivery, claimed_again: PendingDelivery) -> bool:
        """Whether the known attempt is recorded, and only the store's answer was lost. Then it must not count again."""
        return claimed_again.attempts > known.delivery.attempts and self._writer.renewed(known.delivery.id)

    def _holds(self, delivery: PendingDelivery) -> bool:
        """Whether this replica still holds a claim that the store has just returned.

        The store's answer may come after the end of the lease, or after this replica has rejoined under another id.
        """
        return self._lease.is_valid() and delivery.claimed_by == self._store.replica.identity

    def _has_room(self, host: HostQueue) -> bool:
        if self._draining:
            return False
        return self._hosts.may_wait(host) or (not host.waiting and self.is_open() and self._hosts.may_begin(host))

    def _enqueue(self, host: HostQueue, claimed: ClaimedDelivery) -> None:
        delivery = claimed.delivery
        self._claimed[delivery.id] = claimed
        if delivery.type not in TERMINAL_EVENTS:
            self._status_events.setdefault(delivery.watch_id, []).append(claimed)
        self._hosts.put(host, claimed)
        self._workers.wake()

    def _stops_waiting(self, claimed: ClaimedDelivery) -> None:
        delivery = claimed.delivery
        if delivery.type not in TERMINAL_EVENTS and (waiting := self._status_events.get(delivery.watch_id)):
            waiting.remove(claimed)
            if not waiting:
                del self._status_events[delivery.watch_id]

    def _remove_status_events(self, watch_id: str) -> list[ClaimedDelivery]:
        return [claimed for claimed in self._status_events.get(watch_id, ()) if self._hosts.remove(claimed)]

    def _release(self, removed: Sequence[ClaimedDelivery]) -> None:
        """Releases deliveries that were removed from their queues. The store ignores lost claims."""
        for claimed in removed:
            self._stops_waiting(claimed)
            del self._claimed[claimed.delivery.id]
        self._claimer.release([claimed.delivery for claimed in removed])

    # --- sending --------------------------------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Whether attempts may begin now. The limits of a single host are not part of this."""
        may_send = bool(self._loops) and not self._draining and self._writer.accepting and self._lease.is_valid()
        return may_send and not self._own_shortage.pausing

    def _next(self) -> ClaimedDelivery | None:
        """Returns the next delivery that may be sent, and takes its host's slot."""
        while self.is_open() and (found := self._hosts.next()):
            host, claimed = found
            if claimed.begins_before <= self._clock():
                self._release([claimed])
                continue
            self._stops_waiting(claimed)
            self._hosts.begin(host)
            return claimed
        return None

    async def _deliver(self, claimed: ClaimedDelivery) -> None:
        try:
            if claimed.delivery.type not in TERMINAL_EVENTS and not await self._still_claimed(claimed):
                return
            # The slot is free before the record is durable, so that a commit does not delay the host's next attempt.
            # The writer limits the number of unwritten records.
            if (record := await self._attempt(claimed)) is not None:
                self._writer.write(record)
                self._claimer.note_room(record.host)
        except Exception as error:  # noqa: BLE001  logged; the delivery is due again when its claim ends
            _log.event(
                "delivery_error",
                level=logging.ERROR,
                trace=error,
                delivery_id=claimed.delivery.id,
                watch_id=claimed.delivery.watch_id or None,
                means="an unexpected error in the bridge; the delivery is sent again when its claim ends",
            )
            self._claimed.pop(claimed.delivery.id, None)

    async def _still_claimed(self, claimed: ClaimedDelivery) -> bool:
        """Asks the store whether a status event may still be sent. If not, frees the slot and drops the delivery.

        The end of the watch removes the claim. Another replica may have written this end, or this replica a moment ago.
        """
        held, lease = False, ""
        while not held and lease != claimed.delivery.lease:  # the delivery may be claimed again during the query
            lease = claimed.delivery.lease
            held = await self._claim_checks.submit((claimed.delivery.id, lease))
        if held and claimed.begins_before > self._clock() and self._lease.is_valid():
            return True
        self._hosts.abandon(self._hosts.get(claimed.delivery.host))
        self._progress.set()
        self._claimed.pop(claimed.delivery.id, None)
        self._claimer.release([claimed.delivery])
        return False

    async def _check_claims(self, claims: Sequence[tuple[str, str]]) -> Sequence[bool]:
        try:
            held = await self._store.held_claims(claims)
        except StoreUnavailable:  # the deliveries are due again when their claims end
            held = set()
        return [claim in held for claim in claims]

    async def _attempt(self, claimed: ClaimedDelivery) -> AttemptRecord | None:
        """Sends once and frees the slot. Returns the attempt's record; None if the bridge itself could not send."""
        host, attempted = self._hosts.get(claimed.delivery.host), True
        failures_before, failures, seconds, answered = host.failures, host.failures, 0.0, False
        try:
            claimed.started_at = self._store.now()
            self._reporter.started(claimed.delivery, claimed.started_at)
            sent = await self._runner.run(claimed.delivery)
            if not (attempted := is_attempt(sent.answer)):
                self._own_shortage.failed(problem_of(sent.answer).message or "")
                self._claimed.pop(claimed.delivery.id, None)
                self._claimer.release([claimed.delivery])
                return None
            failures_before = failures = host.failures
            if sent.concerns_host:
                failures, answered = host_failures_after(sent.answer, failures), isinstance(sent.answer, Answered)
            seconds = sent.duration_seconds
        finally:
            if attempted:
                self._hosts.end(host, failures, seconds, answered=answered)
            else:
                self._hosts.abandon(host)
            self._progress.set()
        self._own_shortage.recovered()
        record = self._record(claimed, host, sent, changed=failures != failures_before)
        self._reporter.ended(record, sent, failures_before, failures)
        if host.health is ReceiverHealth.FAILING:
            self._release(self._hosts.remove_waiting(host))
        return record

    def _record(self, claimed: ClaimedDelivery, host: HostQueue, sent: Sent, *, changed: bool) -> AttemptRecord:
        verdict = verdict_of(sent, claimed.delivery, self._policy, self._random())
        attempt = attempt_row(sent, claimed.delivery, verdict)
        return AttemptRecord(claimed, host, attempt, verdict, sent.ended_at, changed)

    def written(self, record: AttemptRecord) -> None:
        """Handles an attempt whose record is durable."""
        self._reporter.written(record)
        if isinstance(record.verdict, RetryAt):
            self._claimer.note_due_at(record.verdict.at)
        self._finish(record)

    def lost(self, record: AttemptRecord) -> None:
        """Handles an attempt whose record is dropped, because its claim is lost."""
        self._reporter.lost(record)
        self._finish(record)

    def dropped(self, record: AttemptRecord) -> None:
        """Handles an attempt whose record cannot be written. The delivery is due again when its claim ends."""
        self._finish(record)

    def store_recovered(self) -> None:
        """Begins attempts again after an outage of the store."""
        self._workers.wake()

    def _finish(self, record: AttemptRecord) -> None:
        delivery = record.claimed.delivery
        self._claimed.pop(delivery.id, None)
        self._progress.set()
        self._change_listener.announce([delivery.watch_id])
        if self._hosts.ready:
            self._workers.wake()  # with fewer unwritten records, attempts may begin again

    # --- draining -------------------------------------------------------------------------------------------------

    async def _some_progress(self) -> None:
        self._progress.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TICK_SECONDS):
                await self._progress.wait()


async def _run_when_due(due: asyncio.Event, work: Callable[[], Awaitable[None]]) -> None:
    """Calls `work` each time `due` is set, until it is cancelled. Logs an error of `work` and continues."""
    while True:
        await due.wait()
        due.clear()
        try:
            await work()
        except Exception as error:  # noqa: BLE001  a loop that ended without a log line would stop every delivery
            _log.event(
                "deliverer_error",
                level=logging.ERROR,
                trace=error,
                means="an unexpected error in the bridge; the work on deliveries continues at the next tick",
            )
