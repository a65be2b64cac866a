"""The store's face: what the other rooms ask of it. Each call is one durable unit of work, off the event loop.

Every call raises StoreUnavailable when the database does not answer within 4 s; then nothing was stored, or it is not
known. Calls that write under a claim name it, and come back empty or raise LostClaim when it is gone.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bridge.core.delivery import Verdict
from bridge.core.errors import BridgeError, StoreUnavailable
from bridge.core.model import Attempt, PendingDelivery
from bridge.store import (
    cancelling,
    dashboard_queries,
    outbox,
    own_secrets,
    queries,
    registration,
    replicas,
    retention,
    settlement,
)
from bridge.store.database import Database, cause_of, reason_of
from bridge.store.encryption import Cipher
from bridge.store.group_commit import CALL_TIMEOUT_SECONDS, GroupWriter
from bridge.store.records import (
    AttemptResult,
    Changed,
    Counts,
    DeadFilter,
    DeliveryView,
    HostFailures,
    NewWatch,
    Overdue,
    RegisteredWatch,
    Settlement,
    StatusChange,
    StoredEvent,
    TaskRow,
    WatchQuery,
    WatchView,
)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

LOADING_SECONDS = 60.0  # 100,000 tasks take a second, on a slow and busy machine ten, and a start may wait for them
READERS = 3  # threads; a page of watches takes a millisecond, so few are enough


class Store:
    """One database, one replica. Made by `opening.open_store`; use it from one event loop, and close it."""

    def __init__(  # noqa: PLR0913, PLR0917  its parts
        self,
        database: Database,
        writer: GroupWriter,
        cipher: Cipher,
        replica: replicas.Replica,
        active_limit: registration.ActiveLimit,
        delivery_lease_seconds: float,
        *,
        on_close: Callable[[], None],
    ) -> None:
        self._database = database
        self._writer = writer
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="bridge-reader")
        self._active_limit = active_limit
        self.cipher = cipher
        self.replica = replica
        self.delivery_lease_seconds = delivery_lease_seconds
        self._on_close = on_close
        self._unheard = 0  # writes that were done when their caller had given up
        self.on_late_task: Callable[[TaskRow], None] = lambda _: None  # registered after its caller had given up
        writer.late = self._late

    @property
    def shared(self) -> bool:
        """Whether other replicas may use the same database: PostgreSQL."""
        return self._database.shared

    @property
    def unconfirmed_writes(self) -> int:
        """Grows with each write of which it is not known whether it was done."""
        return self._writer.unconfirmed_writes + self._unheard

    def now(self) -> float:
        """Unix seconds by the clock that all replicas share: the database's, or this machine's for SQLite."""
        return self._database.now()

    async def close(self) -> None:
        """Finish what waits, and let go of the database."""
        self.cut_hanging()
        await asyncio.to_thread(self._writer.close)
        self._database.cut_hanging(0.0)  # nobody waits for a question any more, and one without an answer would keep us
        await asyncio.to_thread(self._readers.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._on_close)

    # --- watches --------------------------------------------------------------------------------------------------

    async def register(self, new: NewWatch) -> RegisteredWatch:
        """Register one watch; raises WatchConflict, IdempotencyConflict or TooManyWatches."""
        [result] = await self.register_all([new])
        if isinstance(result, BridgeError):
            raise result
        return result

    async def register_all(self, news: Sequence[NewWatch]) -> Sequence[RegisteredWatch | BridgeError]:
        """Register many in one commit; each has its own result, in order."""
        return await self._writer.do(
            registration.register, registration.Registration(self.replica, self._active_limit, news)
        )

    async def register_each(self, news: Sequence[NewWatch]) -> Sequence[RegisteredWatch | BridgeError]:
        """Register watches of callers who have nothing to do with each other: none fails for another's sake.

        Raises nothing: StoreUnavailable is a result as well, each caller's own.
        """
        works = [registration.Registration(self.replica, self._active_limit, (new,)) for new in news]
        try:
            results = await self._writer.do_all(registration.register, works)
        except StoreUnavailable as error:
            return [StoreUnavailable(str(error)) for _ in news]
        return [result if isinstance(result, BridgeError) else result[0] for result in results]

    async def check_room(self, wanted: int) -> None:
        """See that the store can be written and that so many more watches fit. Raises TooManyWatches."""
        await self.probe()
        await self._writer.do(registration.check_room, (self._active_limit, wanted))

    async def cancel(self, watch_id: str, app: str | None) -> WatchView:
        """Cancel an active watch (of one app, or None: of any); repeatable. Raises NotFound or WatchSettled."""
        await self._writer.do(cancelling.cancel, cancelling.Cancelling(self.replica, watch_id, app, self.now()))
        return await self.watch(watch_id, app)

    async def watch(self, watch_id: str, app: str | None) -> WatchView:
        """A watch of an app (None: of any). Raises NotFound."""
        return await self._read(queries.one_watch, watch_id, app)

    async def watches(self, query: WatchQuery) -> Sequence[WatchView]:
        """A page of watches, newest first."""
        return await self._read(queries.page_of_watches, query)

    async def states(self, watch_ids: Sequence[str]) -> dict[str, str]:
        """A mark for each watch that exists; it changes whenever the watch, its task or a delivery does."""
        return await self._read(queries.marks, watch_ids)

    async def terminal_event(self, watch_id: str, app: str | None) -> StoredEvent:
        """The terminal event of a watch. Raises NotFound, or WatchActive while there is none."""
        return await self._read(queries.terminal_event, self.cipher, watch_id, app)

    async def api_key_of(self, watch_id: str) -> str | None:
        """The caller's own amux key of a watch, opened; None when the configured one counts."""
        return await self._read(queries.api_key_of, self.cipher, watch_id)

    # --- tasks ----------------------------------------------------------------------------------------------------

    async def own_tasks(self) -> Sequence[TaskRow]:
        """Every open task that this replica owns: what it polls after a start."""
        asked = partial(self._database.read, queries.own_tasks, self.replica)
        return await self._answer_of(asked, LOADING_SECONDS)

    async def keys_of(self, credentials: Sequence[str]) -> dict[str, str]:
        """The amux keys, opened, of credentials that are watches' own."""
        return await self._read(queries.keys_of, self.cipher, credentials)

    async def overdue(self, after: Overdue | None, limit: int) -> Sequence[Overdue]:
        """A page of active watches of own tasks whose deadline has passed, in the deadlines' order."""
        return await self._read(queries.overdue, self.replica, self.now(), after, limit)

    async def record_status(self, change: StatusChange) -> Changed:
        """Write a task's new status and the status events owed. Raises LostClaim when the task is another's now."""
        return await self._writer.do(
            settlement.record_statuses, settlement.Owned(self.replica, self.cipher, change, self.delivery_lease_seconds)
        )

    async def settle(self, ended: Settlement) -> Changed:
        """End the watches that may end: state, event and owed delivery in one transaction. Raises LostClaim."""
        return await self._writer.do(
            settlement.settle, settlement.Owned(self.replica, self.cipher, ended, self.delivery_lease_seconds)
        )

    # --- deliveries -----------------------------------------------------------------------------------------------

    async def due_hosts(self) -> dict[str, int]:
        """Hosts with deliveries due now, unclaimed, each with how many (counted up to 1,000)."""
        return await self._read(outbox.due_hosts, self.now())

    async def next_due_at(self) -> float | None:
        """When the next pending delivery is due (Unix seconds), claimed ones at their claim's end; None: none."""
        return await self._read(outbox.next_due_at)

    async def claim(self, room: dict[str, int], lease_seconds: float) -> Sequence[PendingDelivery]:
        """Claim due deliveries, the oldest first, at most `room[host]` for each host named."""
        return await self._writer.do(
            outbox.claim, outbox.Claiming(self.replica, self.cipher, self.now(), lease_seconds, room)
        )

    async def release(self, owed: Sequence[PendingDelivery]) -> None:
        """Give claimed deliveries back, due at once; claims that are lost are passed over."""
        await self._writer.do(outbox.release, outbox.Releasing(owed, self.now()))

    async def record_attempts(self, tried: Sequence[AttemptResult]) -> Sequence[Verdict | BridgeError]:
        """Write attempts and their deliveries' next steps; for each, in order, the verdict that was written.

        It is another than the given one when a retry was asked for meanwhile, and LostClaim when the claim is
        another's now.
        """
        return await self._writer.do_all(outbox.record_attempts, tried)

    async def hosts(self) -> HostFailures:
        """The hosts that failed lately, with how often in a row."""
        return await self._read(outbox.failing_hosts)

    async def delivery(self, delivery_id: str, app: str | None) -> tuple[DeliveryView, Sequence[Attempt]]:
        """A delivery and its attempts, oldest first. Raises NotFound."""
        return await self._read(queries.one_delivery, delivery_id, app)

    async def retry(self, delivery_id: str, app: str | None) -> DeliveryView:
        """Make a delivery due now, with a new schedule; the id stays. Raises NotFound."""
        await self._writer.do(outbox.retry, outbox.Retrying(delivery_id, app, self.now()))
        return (await self.delivery(delivery_id, app))[0]

    async def count_dead(self, wanted: DeadFilter) -> int:
        """How many dead deliveries a filter finds."""
        return await self._read(outbox.count_dead, wanted)

    async def retry_dead(self, wanted: DeadFilter) -> int:
        """Make the dead deliveries that a filter finds due now; how many."""
        # From id to id, for it must end, though those sent again die again meanwhile.
        work = outbox.RetryingMany(wanted, "", self.now())
        total = 0
        while done := await self._writer.do(outbox.retry_dead, work):
            total += len(done)
            work = replace(work, after=done[-1])
        return total

    # --- the operators' page ---------------------------------------------------------------------------------------

    async def search(self, wanted: dashboard_queries.WatchSearch) -> Sequence[WatchView]:
        """A page of every app's watches, for the operators' table."""
        return await self._read(dashboard_queries.search, wanted)

    async def history(self, watch_id: str) -> dashboard_queries.WatchHistory:
        """A watch's life: its events and every delivery's attempts. Raises NotFound."""
        return await self._read(dashboard_queries.history, watch_id)

    async def receivers(self) -> Sequence[dashboard_queries.Receiver]:
        """The callback hosts that fail or have dead deliveries."""
        return await self._read(dashboard_queries.receivers)

    async def failing_receivers(self) -> int:
        """How many callback hosts have a pending delivery that has failed already."""
        return await self._read(dashboard_queries.failing_receivers)

    async def nearing_deadline(self) -> int:
        """How many active watches are in the last tenth of their time, counted up to 1,000."""
        return await self._read(dashboard_queries.nearing, self.now())

    async def facts(self) -> dashboard_queries.StoreFacts:
        """The store's size, its disk's room, its replicas."""
        return await self._read(dashboard_queries.facts)

    # --- upkeep ---------------------------------------------------------------------------------------------------

    async def counts(self) -> Counts:
        """What the gauges show."""
        return await self._read(queries.counts)

    async def delete_ended_before(self, moment: float, limit: int) -> int:
        """Delete up to `limit` final watches that ended before `moment` and owe nothing; how many."""
        return await self._writer.do(retention.delete_ended, retention.Deleting(moment, limit))

    async def forget_old_keys(self, moment: float) -> None:
        """Delete the Idempotency-Keys that were used before `moment`."""
        await self._writer.do(retention.delete_idempotency, moment)

    async def mend_clock(self) -> int:
        """Bring times that lie ahead because the clock was set back to where they belong; how many rows."""
        return await self._writer.do(retention.mend_clock, self.now())

    async def probe(self) -> None:
        """Write something small: raises StoreUnavailable with the reason when it does not work."""
        await self._writer.do(replicas.probe, self.replica)

    async def own_signing_secret(self) -> str:
        """The `whsec_...` that signs when none is configured: made at the first start and kept."""
        return await self._writer.do(own_secrets.signing_secret, self.cipher)

    async def synchronize(self) -> None:
        """Compare clocks with the database."""
        await self._answer_of(self._database.synchronize)

    # --- replicas -------------------------------------------------------------------------------------------------

    async def renew(self, owned_tasks: int) -> None:
        """Renew this replica's lease. Raises LostClaim when another has taken its tasks over: rejoin."""
        await self._writer.do(replicas.renew, replicas.Renewal(self.replica, owned_tasks))

    async def rejoin(self) -> None:
        """Take part under a new id, owning nothing."""
        self.replica = await self._writer.do(replicas.join, self._database)

    async def adopt(self, limit: int) -> Sequence[TaskRow]:
        """Take over up to `limit` open tasks that nobody polls any more, and note what others left to do on ours."""
        return await self._writer.do(replicas.adopt, replicas.Adoption(self.replica, limit))

    async def hand_over(self) -> None:
        """Let every task go: others poll them from now on; claims on deliveries stay."""
        await self._writer.do(replicas.hand_over, self.replica)

    def cut_hanging(self) -> None:
        """End the connections that have been silent for long: their threads would never write again."""
        self._database.cut_hanging()

    async def leave(self) -> None:
        """Hand every task over and release every claim: others take them at once."""
        await self._writer.do(replicas.leave, self.replica)

    # --- their parts ----------------------------------------------------------------------------------------------

    def _late(self, result: object) -> None:
        self._unheard += 1
        for one in result if isinstance(result, list) else ():
            if isinstance(one, RegisteredWatch) and one.task is not None:
                self.on_late_task(one.task)

    async def _read(
        self,
        question: Callable[Concatenate[Connection, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return await self._answer_of(partial(self._database.read, question, *args, **kwargs))

    async def _answer_of(self, asked: Callable[[], Result], seconds: float = CALL_TIMEOUT_SECONDS) -> Result:
        try:
            answer = self._readers.submit(asked)
        except RuntimeError:
            raise StoreUnavailable("the bridge is stopping") from None
        try:
            # A question whose caller has given up before its turn is not asked at all.
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(answer)
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None
        except DBAPIError as error:
            raise StoreUnavailable(f"the database refuses: {reason_of(error)}", cause_of(error)) from None
