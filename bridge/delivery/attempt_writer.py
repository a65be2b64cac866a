"""Writes the results of attempts to the store: each is written once, or its claim is lost; none is forgotten."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bridge.aio.retry_queue import RetryQueue
from bridge.core.delivery import Verdict, after_retry_request
from bridge.core.errors import BridgeError, LostClaim, StoreUnavailable
from bridge.core.model import Attempt
from bridge.delivery.fairness import ClaimedDelivery, HostQueue
from bridge.store.records import AttemptResult
from bridge.store.store import Store
from bridge.telemetry import get_logger
from bridge.telemetry.outage_log import OutageLog

_log = get_logger("delivery")

MAX_UNWRITTEN = 512  # a commit of the store takes as many; with more, sending is faster than the disk
# Fewer records than that, of less than 20 ms, wait for another commit: 0.1 s brings no more than 160 meanwhile.
FEW_RECORDS = 32
BATCH_SECONDS = 0.02  # between commits under load: at 4,000 a second 80 results share one commit (30 µs each)


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """An attempt that is over and has to be written; times are Unix seconds.

    `retry_requested`: a retry was requested while the attempt was under way, and has changed the verdict.
    """

    claimed: ClaimedDelivery
    host: HostQueue
    attempt: Attempt
    verdict: Verdict
    at: float
    host_changed: bool
    retry_requested: bool = False

    def result(self) -> AttemptResult:
        """The record as the store takes it, under the newest claim and with the host's newest failure count."""
        delivery = self.claimed.delivery
        failures = self.host.failures if self.host_changed else None
        verdict = after_retry_request(self.verdict, self.at) if self.claimed.due_again else self.verdict
        return AttemptResult(
            *(delivery.id, delivery.lease, self.attempt, verdict, delivery.host, self.at),
            host_failures=failures,
        )


class AttemptOwner(Protocol):
    """Whose attempts are written: the Deliverer."""

    def written(self, record: AttemptRecord, /) -> None:
        """A record is durable."""

    def lost(self, record: AttemptRecord, /) -> None:
        """A record is dropped, because the claim under which its attempt was made is gone."""

    def store_recovered(self) -> None:
        """An outage of the store has ended."""


class AttemptWriter:
    """Writes attempt records, and reports to their owner how each ends.

    Records that arrive within 20 ms are written together, and few records wait up to 0.1 s for another commit of the
    store: a commit for each record costs 10 times as much. A crash meanwhile repeats these deliveries, as it repeats
    those whose answer had not come. During an outage of the store, or while too many records are unwritten, `accepting`
    is False: begin no attempt that could not be recorded.
    """

    def __init__(self, store: Store, owner: AttemptOwner, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._owner = owner
        self._unwritten: dict[str, AttemptRecord] = {}
        self._new: list[AttemptRecord] = []  # the unwritten records that were not tried yet
        means = "results are kept and written later; nothing more is sent until then"
        self._refused: RetryQueue[str, AttemptRecord] = RetryQueue(
            store.probe,
            OutageLog(_log, "attempts_unwritten", "store_writes_again", means=means),
            clock=clock,
            on_recovery=owner.store_recovered,
        )
        self._batch_timer: asyncio.TimerHandle | None = None
        self._commit_began = 0.0  # the last commit, by the loop's clock
        self.due = asyncio.Event()  # there is work

    @property
    def unwritten(self) -> int:
        """Records that are not durable yet."""
        return len(self._unwritten)

    @property
    def accepting(self) -> bool:
        """Whether another attempt could be recorded, as far as is known."""
        return not self._refused.outage and len(self._unwritten) < MAX_UNWRITTEN

    def write(self, record: AttemptRecord) -> None:
        """Write a record soon. A record that the store refuses is kept and tried again."""
        self._unwritten[record.claimed.delivery.id] = record
        self._new.append(record)
        if self._batch_timer is None:
            loop = asyncio.get_running_loop()
            self._batch_timer = loop.call_at(self._commit_began + BATCH_SECONDS, self.due.set)

    def renewed(self, delivery_id: str) -> bool:
        """A delivery was claimed again: if its record waits, the store may accept it now.

        Returns whether it has a record that is not known to be durable.
        """
        if self._refused.retry_now(delivery_id):
            self.due.set()
        return delivery_id in self._unwritten

    def tick(self) -> None:
        """Try again what is due."""
        if self._refused.due:
            self.due.set()

    async def work(self) -> None:
        """Write the new records, and those that the store refused if they are due."""
        if self._new:
            new, self._new, self._batch_timer = self._new, [], None
            self._commit_began = asyncio.get_running_loop().time()
            if error := await self._write(new, retried=False):
                self._refused.report_failure(error, unwritten=len(self._unwritten))
        if self._refused.due:
            await self._write(await self._refused.take_due(), retried=True)

    async def _write(self, records: Sequence[AttemptRecord], *, retried: bool) -> BridgeError | None:
        """Write records and keep those that the store refuses; return why it refused the first of them."""
        first_error: BridgeError | None = None
        while records:
            leases = [record.claimed.delivery.lease for record in records]
            try:
                attempts = [record.result() for record in records]
                results = await self._store.record_attempts(attempts, patient=len(attempts) < FEW_RECORDS)
            except StoreUnavailable as error:
                results = [error] * len(records)
            claimed_again: list[AttemptRecord] = []
            for record, lease, result in zip(records, leases, results, strict=True):
                if not isinstance(result, BridgeError):
                    self._finish(record, result)
                elif not isinstance(result, LostClaim):
                    self._refused.add(record.claimed.delivery.id, record, retried=retried)
                    first_error = first_error or result
                elif record.claimed.delivery.lease != lease:
                    claimed_again.append(record)  # this replica claimed the delivery again during the write
                else:
                    self._finish(record, None)
            records = claimed_again
        return first_error

    def _finish(self, record: AttemptRecord, verdict: Verdict | None) -> None:
        """Remove a record that is durable with a verdict, or whose claim is lost (None), and report it.

        An error while reporting is logged and does not delay other records.
        """
        del self._unwritten[record.claimed.delivery.id]
        try:
            if verdict is None:
                self._owner.lost(record)
                return
            record.retry_requested, record.verdict = verdict != record.verdict, verdict
            self._refused.report_success()
            self._owner.written(record)
        except Exception as error:  # noqa: BLE001
            _log.event(
                "attempt_report_failed",
                level=logging.ERROR,
                trace=error,
                delivery_id=record.claimed.delivery.id,
                means="the attempt is stored; metrics and logs may lack it",
            )
