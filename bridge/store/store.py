"""The store as other folders use it. Each call is one durable unit of work, off the event loop.

Every call raises StoreUnavailable when the database does not answer within 4 s (`own_tasks`: 60 s). The caller then
does not know whether the write succeeded. A call that writes under a claim (a replica's epoch, a delivery's lease)
checks the claim in the same transaction. If the claim is lost, the call writes nothing; it raises LostClaim or has an
empty result.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from bridge.aio.threads import run_once
from bridge.aio.timeouts import TimeoutSweep
from bridge.core.audit import Actor
from bridge.core.delivery import Verdict
from bridge.core.errors import BridgeError, StoreUnavailable
from bridge.core.model import Attempt, PendingDelivery
from bridge.core.schedule import PollPolicy
from bridge.core.task_class import ClassHistory, TaskEnd
from bridge.store import (
    class_histories,
    due_deliveries,
    encryption,
    event_feed,
    outbox,
    queries,
    registration,
    replicas,
    retention,
    settlement,
)
from bridge.store.active_limit import ActiveLimit
from bridge.store.change_listener import CommitListener
from bridge.store.dashboard_calls import DashboardCalls
from bridge.store.database import Database
from bridge.store.encryption import Cipher
from bridge.store.group_commit import GroupWriter
from bridge.store.notices import NoticeCalls
from bridge.store.reader import READERS, Reader
from bridge.store.receivers import ReceiverCalls
from bridge.store.records import (
    AttemptResult,
    CancelledWatch,
    Changed,
    Counts,
    DeadFilter,
    DeliveryCounts,
    DeliveryView,
    NewWatch,
    Overdue,
    RegisteredWatch,
    Settlement,
    StatusChange,
    StoredEvent,
    TaskView,
    WatchQuery,
    WatchView,
)
from bridge.store.watch_searches import WatchSearches

LOADING_SECONDS = 60.0  # 100,000 tasks take a second, on a slow and busy machine ten
REQUEST_SECONDS = 4.5  # the calls of one request together: its 503 is promised within 5 s


class Store:
    """One database, one replica. `open_store` makes it; use it from one event loop, and close it."""

    def __init__(  # noqa: PLR0913, PLR0917  its parts
        self,
        database: Database,
        writer: GroupWriter,
        cipher: Cipher,
        replica: replicas.Replica,
        active_limit: ActiveLimit,
        delivery_lease_seconds: float,
        *,
        on_close: Callable[[], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._limits = writer.limits
        self._loading_limits = TimeoutSweep(LOADING_SECONDS, database.system.monotonic)
        threads = database.system.threads(READERS, "bridge-reader")
        self._reader = Reader(database, threads, self._limits)
        self._loader = Reader(database, threads, self._loading_limits)
        self.notices = NoticeCalls(self._reader, writer)
        self.receivers = ReceiverCalls(self._reader, writer, self.notices)
        self.dashboard = DashboardCalls(self._reader, cipher)
        self.searches = WatchSearches(self._reader)
        self._active_limit = active_limit
        self.cipher = cipher
        self.replica = replica
        self.feed = event_feed.EventFeed(self._reader)
        self.delivery_lease_seconds = delivery_lease_seconds
        self._on_close = on_close
        self._late_results = 0  # writes that succeeded after their caller had given up
        self._listeners: list[CommitListener] = []
        writer.on_late_result = self._add_late_result

    def add_listener(self, listener: CommitListener) -> None:
        """Call a listener after each cancellation, and after each commit whose caller has given up waiting."""
        self._listeners.append(listener)

    @property
    def shared(self) -> bool:
        """Whether other replicas may use the same database: PostgreSQL."""
        return self._database.shared

    @property
    def unconfirmed_writes(self) -> int:
        """Grows with each write whose caller does not know whether it succeeded."""
        return self._writer.unconfirmed_writes + self._late_results

    def now(self) -> float:
        """Returns Unix seconds, by the server's clock with PostgreSQL, and by this machine's clock with SQLite."""
        return self._database.now()

    @asynccontextmanager
    async def request_limit(self) -> AsyncIterator[None]:
        """Limit all calls of the block together to 4.5 s. Raises StoreUnavailable at the end of that time."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                yield
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None

    async def close(self) -> None:
        """Finish the waiting writes and close the database. It may be called again."""
        self.drop_hung_connections()
        await self._writer.close()
        # No caller waits for a read now, and a read that gets no answer would keep the process from ending.
        self._database.drop_hung_connections(0.0)
        await self._reader.close()
        await self.searches.close()
        self._limits.close()
        self._loading_limits.close()
        await run_once(self._database.system.threads(1, "bridge-closing"), self._on_close)

    # --- watches --------------------------------------------------------------------------------------------------

    async def register_all(self, new_watches: Sequence[NewWatch]) -> Sequence[RegisteredWatch | BridgeError]:
        """Register watches in one commit; returns a result for each, in order.

        Errors are WatchConflict, IdempotencyConflict and TooManyWatches, and NotFound if retention has just deleted the
        existing watch.
        """
        replica = self.replica
        results = await self._writer.run_all(registration.register, new_watches, replica, self._active_limit)
        return results if self.replica is replica else [registration.without_task(result) for result in results]

    async def check_room(self, count: int, app: str) -> None:
        """Check that there is room for `count` more watches, and for one more of this app.

        Raises StoreUnavailable if the store cannot be written, TooManyWatches if there is no room.
        """
        async with self.request_limit():
            await self.probe()
            await self._writer.run(registration.check_room, self._active_limit, count, app)

    async def cancel(self, watch_id: str, app: str | None, by: Actor | None = None) -> WatchView:
        """Cancel an active watch of an app (None: of any); repeatable. Raises NotFound or WatchSettled.

        `by` is the actor in the audit trail. The listeners are called as soon as the cancellation is durable, even if
        the watch cannot be read after it.
        """
        async with self.request_limit():
            [result] = await self._writer.run_all(settlement.cancel, [(watch_id, app, by)], self.replica)
            if isinstance(result, BridgeError):
                raise result
            for listener in self._listeners:
                listener.cancelled(result)
            return await self.watch(watch_id, app)

    async def watch(self, watch_id: str, app: str | None) -> WatchView:
        """Returns a watch of an app (None: of any). Raises NotFound."""
        return await self._reader.run(queries.one_watch, watch_id, app)

    async def watches(self, query: WatchQuery) -> Sequence[WatchView]:
        """Returns a page of watches, for queries that an index answers. For all others use `searches`."""
        return await self._reader.run(queries.page_of_watches, query)

    async def existing(self, watch_ids: Collection[str]) -> Collection[str]:
        """Return the ids of the watches that exist."""
        return await self._reader.run(queries.existing, watch_ids)

    async def versions(self, watch_ids: Sequence[str]) -> dict[str, str]:
        """Returns a text for each existing watch. It changes when the watch, its task or its deliveries change."""
        return await self._reader.run(queries.versions, watch_ids)

    async def terminal_event(self, watch_id: str, app: str | None) -> StoredEvent:
        """Returns the terminal event of a watch. Raises NotFound, or WatchActive while there is none."""
        return await self._reader.run(queries.terminal_event, self.cipher, watch_id, app)

    async def api_key_of(self, watch_id: str) -> str | None:
        """Returns a watch's own amux key, decrypted; None when it uses the configured one. Raises NotFound."""
        return await self._reader.run(queries.api_key_of, self.cipher, watch_id)

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def own_tasks(self) -> list[TaskView]:
        """Returns the open tasks of this replica, to poll them after a start. Waits up to 60 s for the database."""
        return await self._loader.run(queries.own_tasks, self.replica)

    async def keys_of(self, credentials: Sequence[str]) -> dict[str, str]:
        """Returns credentials' decrypted amux keys, from active watches. Keys that do not decrypt are left out."""
        return await self._reader.run(queries.keys_of, self.cipher, credentials)

    async def overdue(self, after: Overdue | None, limit: int) -> Sequence[Overdue]:
        """Returns a page of active watches whose deadline has passed, of tasks that this replica owns, by deadline."""
        return await self._reader.run(queries.overdue, self.replica, self.now(), after, limit)

    async def record_status(self, change: StatusChange, *, linger: bool = False) -> Changed:
        """Write a task's new status and its status events. With `linger` it may wait 0.1 s longer. Raises LostClaim."""
        return await self._change_task(settlement.record_statuses, change, linger=linger)

    async def settle(self, ended: Settlement) -> Changed:
        """End watches of a task: their states, events and deliveries in one transaction. Raises LostClaim."""
        return await self._change_task(settlement.settle, ended)

    async def class_histories(self) -> dict[str, ClassHistory]:
        """Returns how long the tasks of each class took, as counted by all replicas."""
        return await self._reader.run(class_histories.read)

    async def add_task_ends(self, ends: Sequence[TaskEnd], policy: PollPolicy) -> dict[str, ClassHistory] | None:
        """Add tasks' ends to the histories of their classes; returns all histories.

        Returns None while another replica adds its ends. Then nothing was written: call it again later.
        """
        return await self._writer.run(class_histories.add_ends, ends, policy, self.now())

    # --- deliveries -----------------------------------------------------------------------------------------------

    async def due_hosts(self) -> dict[str, int]:
        """Returns the hosts with due deliveries, and how many each has, counted up to 1,000; without paused hosts."""
        return await self._reader.run(due_deliveries.due_hosts, self.now())

    async def next_due_at(self) -> float | None:
        """Returns when the next pending delivery is due (Unix seconds); None without one.

        A claimed delivery is due at the end of its lease. Deliveries of paused receivers do not count.
        """
        return await self._reader.run(due_deliveries.next_due_at)

    async def claim(self, room: dict[str, int], lease_seconds: float) -> Sequence[PendingDelivery]:
        """Claim due deliveries, the oldest first, at most `room[host]` for each host."""
        return await self._writer.run(outbox.claim, self.replica, self.cipher, lease_seconds, room)

    async def held_claims(self, claims: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Return the claims (delivery id and lease) that are still held."""
        return await self._reader.run(outbox.held_claims, claims)

    async def release(self, claimed: Sequence[PendingDelivery]) -> None:
        """Release claims; their deliveries are due at once. Lost claims are skipped."""
        await self._writer.run_all(outbox.release, claimed, self.replica)

    async def record_attempts(
        self, results: Sequence[AttemptResult], *, linger: bool = False
    ) -> Sequence[Verdict | BridgeError]:
        """Write attempts and the next steps of their deliveries; returns the verdicts that were written, in order.

        A verdict differs from the given one when a retry was requested during the attempt. The result is LostClaim when
        the delivery has another claim. With `linger` it waits up to 0.1 s for another commit.
        """
        reporting = self.notices.settings.enabled
        return await self._writer.run_all(outbox.record_attempts, results, self.replica, reporting, linger=linger)

    async def host_failures(self) -> Mapping[str, int]:
        """Return the hosts whose last attempts failed, and how many attempts in a row failed."""
        return await self._reader.run(due_deliveries.host_failures)

    async def delivery(self, delivery_id: str, app: str | None) -> tuple[DeliveryView, Sequence[Attempt]]:
        """Returns a delivery and its attempts, oldest first. Raises NotFound."""
        return await self._reader.run(queries.one_delivery, delivery_id, app)

    async def retry(self, delivery_id: str, app: str | None, by: Actor | None = None) -> DeliveryView:
        """Make a delivery due now, with a new schedule and the same id. `by` is the actor in the audit trail.

        Raises NotFound, or WatchCancelled.
        """
        async with self.request_limit():
            [result] = await self._writer.run_all(outbox.retry, [(delivery_id, app, by)], self.replica)
            if isinstance(result, BridgeError):
                raise result
            return (await self.delivery(delivery_id, app))[0]

    async def count_dead(self, dead: DeadFilter) -> int:
        """Returns how many dead deliveries the filter finds."""
        return await self._reader.run(outbox.count_dead, dead)

    async def retry_dead(self, dead: DeadFilter, by: Actor | None = None) -> int:
        """Make the dead deliveries that the filter finds due now; returns how many."""
        # In the order of ids: so the loop ends even if retried deliveries become dead again meanwhile.
        total, last, now = 0, "", self.now()
        while ids := await self._writer.run(outbox.retry_dead, dead, last, now, by):
            total += len(ids)
            last = ids[-1]
        return total

    # --- upkeep ---------------------------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """Returns the numbers of active watches, pending and dead deliveries, and when the next delivery is due."""
        return await self._reader.run(queries.counts)

    async def active_count(self) -> int:
        """Returns the number of active watches. It reads all of them."""
        return await self._reader.run(queries.active_count)

    async def delivery_counts(self) -> DeliveryCounts:
        """Returns the numbers of pending and dead deliveries."""
        return await self._reader.run(queries.delivery_counts)

    async def delete_ended_before(self, moment: float, limit: int) -> int:
        """Deletes up to `limit` watches that ended before `moment`, as `retention.delete_ended`; returns how many."""
        return await self._writer.run(retention.delete_ended, moment, limit, self.replica)

    async def delete_idempotency_keys_before(self, moment: float) -> None:
        """Deletes the Idempotency-Keys that were first used before `moment` (Unix seconds)."""
        await self._writer.run(retention.delete_idempotency, moment)

    async def correct_future_times(self) -> int:
        """Correct times that are in the future because the clock was set back; returns the number of rows."""
        return await self._writer.run(retention.correct_future_times, self.replica)

    async def probe(self) -> None:
        """Write a small value, to test writing. Raises StoreUnavailable with the reason if the write fails."""
        await self._writer.run(replicas.probe, self.replica)

    async def own_signing_secret(self) -> str:
        """Returns the stored signing secret (`whsec_...`), used if the settings have none. The first call makes it."""
        return await self._writer.run(encryption.signing_secret, self.cipher, self._database.system.token_bytes(32))

    async def synchronize(self) -> None:
        """Sets the clock of `now` by the server's clock; does nothing for SQLite."""
        await self._reader.call(self._database.synchronize)

    # --- replicas -------------------------------------------------------------------------------------------------

    async def renew(self, owned_tasks: int) -> None:
        """Renew this replica's lease. Raises LostClaim when another replica has its tasks: call `rejoin` then."""
        await self._writer.run(replicas.renew, self.replica, owned_tasks)

    async def rejoin(self) -> None:
        """Join again, under a new id and without tasks."""
        self.replica = await self._writer.run(replicas.join, self._database)

    async def adopt(self, limit: int) -> Sequence[TaskView]:
        """Takes over tasks that no replica polls, and reloads own tasks that changed, as `replicas.adopt`.

        Returns up to `limit` tasks of each kind. Raises LostClaim when another replica has taken this one's tasks.
        """
        return await self._writer.run(replicas.adopt, self.replica, limit)

    async def hand_over(self) -> None:
        """Release all tasks, so that other replicas poll them from now on. Claims on deliveries stay."""
        await self._writer.run(replicas.hand_over, self.replica)

    def drop_hung_connections(self) -> None:
        """Shut down the connections that have not answered for 10 s: their threads would never continue."""
        self._database.drop_hung_connections()

    async def leave(self) -> None:
        """Releases all claims on deliveries and, with PostgreSQL, all tasks: other replicas can take them at once."""
        await self._writer.run(replicas.leave, self.replica)

    async def _change_task(
        self,
        operation: Callable[..., Sequence[Changed | BridgeError]],
        change: Settlement | StatusChange,
        *,
        linger: bool = False,
    ) -> Changed:
        arguments = (self.replica, self.cipher, self.delivery_lease_seconds)
        [result] = await self._writer.run_all(operation, [change], *arguments, linger=linger)
        if isinstance(result, BridgeError):
            raise result
        self.feed.add(result)
        return result

    def _add_late_result(self, result: object) -> None:
        self._late_results += 1
        if isinstance(result, Changed):
            self.feed.add(result)
        for listener in self._listeners:
            if isinstance(result, RegisteredWatch) and result.task is not None:
                listener.registered_late(result.task)
            elif isinstance(result, CancelledWatch):
                listener.cancelled(result)
            elif isinstance(result, Changed):
                listener.changed_late(result)
