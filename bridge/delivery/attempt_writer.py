"""Writes the results of attempts to the store. Each result is written once, unless its claim is lost."""

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

MAX_UNWRITTEN = 512  # records in one commit of the store; if more wait, the disk is too slow, and no attempt begins
# Fewer records than this (they come within 20 ms) wait up to 0.1 s for another commit. In 0.1 s at most 160 come.
FEW_RECORDS = 32
BATCH_SECONDS = 0.02  # between commits under load: at 4,000 a second 80 results share one commit (30 µs each)


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """A finished attempt that must be written; times are Unix seconds.

    `retry_requested`: a retry was requested during the attempt, and has changed the verdict.
    """

    claimed: ClaimedDelivery
    host: HostQueue
    attempt: Attempt
    verdict: Verdict
    at: float
    host_changed: bool
    retry_requested: bool = False

    def result(self) -> AttemptResult:
        """Returns the record for the store, with the newest claim and the host's newest number of failures."""
        delivery = self.claimed.delivery
        failures = self.host.failures if self.host_changed else None
        verdict = after_retry_request(self.verdict, self.at) if self.claimed.due_again else self.verdict
        return AttemptResult(
            *(delivery.id, delivery.lease, self.attempt, verdict, delivery.host, self.at),
            host_failures=failures,
        )


class AttemptCallbacks(Protocol):
    """Is called at the end of each write: the Deliverer."""

    def written(self, record: AttemptRecord, /) -> None:
        """Handles a record that is durable."""

    def lost(self, record: AttemptRecord, /) -> None:
        """Handles a record that is dropped, because the claim of its attempt is lost."""

    def store_recovered(self) -> None:
        """Handles the end of an outage of the store."""


class AttemptWriter:
    """Writes attempt records, and reports each result to `callbacks`.

    Records that arrive within 20 ms are written together, and few records wait up to 0.1 s for another commit of the
    store: a commit for each record costs 10 times as much. If the process crashes before the commit, these deliveries
    are sent again, like deliveries that had no answer yet. During an outage of the store, or with too many unwritten
    records, `accepting` is False: then begin no attempt.
    """

    def __init__(self, store: Store, callbacks: AttemptCallbacks, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._callbacks = callbacks
        self._unwritten: dict[str, AttemptRecord] = {}
        self._new: list[AttemptRecord] = []  # the unwritten records that no write has tried yet
        means = "results of attempts wait in memory; nothing is sent until the database accepts them"
        self._refused: RetryQueue[str, AttemptRecord] = RetryQueue(
            store.probe,
            OutageLog(_log, "attempts_unwritten", "store_writes_again", means=means),
            clock=clock,
            on_recovery=callbacks.store_recovered,
        )
        self._batch_timer: asyncio.TimerHandle | None = None
        self._commit_began = 0.0  # when the last commit began, by the loop's clock
        self.due = asyncio.Event()  # set when `work` has something to do

    @property
    def unwritten(self) -> int:
        """The number of records that are not durable yet."""
        return len(self._unwritten)

    @property
    def accepting(self) -> bool:
        """Whether another attempt may begin: there is no outage of the store, and few records are unwritten."""
        return not self._refused.outage and len(self._unwritten) < MAX_UNWRITTEN

    def write(self, record: AttemptRecord) -> None:
        """Write a record soon. A record that the store refuses is kept and tried again."""
        self._unwritten[record.claimed.delivery.id] = record
        self._new.append(record)
        if self._batch_timer is None:
            loop = asyncio.get_running_loop()
            self._batch_timer = loop.call_at(self._commit_began + BATCH_SECONDS, self.due.set)

    def renewed(self, delivery_id: str) -> bool:
        """Tries a refused record of a delivery again, because the delivery was claimed again.

        Returns whether the delivery has a record that is not known to be durable.
        """
        if self._refused.retry_now(delivery_id):
            self.due.set()
        return delivery_id in self._unwritten

    def tick(self) -> None:
        """Wakes `work` if refused records are due to be written again."""
        if self._refused.due:
            self.due.set()

    async def work(self) -> None:
        """Write the new records, and the refused records that are due."""
        if self._new:
            new, self._new, self._batch_timer = self._new, [], None
            self._commit_began = asyncio.get_running_loop().time()
            if error := await self._write(new, retried=False):
                self._refused.report_failure(error, unwritten=len(self._unwritten))
        if self._refused.due:
            await self._write(await self._refused.take_due(), retried=True)

    async def _write(self, records: Sequence[AttemptRecord], *, retried: bool) -> BridgeError | None:
        """Write records, and keep the refused ones. Return the error of the first refused record, if any."""
        first_error: BridgeError | None = None
        while records:
            leases = [record.claimed.delivery.lease for record in records]
            try:
                attempts = [record.result() for record in records]
                results = await self._store.record_attempts(attempts, linger=len(attempts) < FEW_RECORDS)
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
        """Remove a record and report it. It is durable with `verdict`, or its claim is lost (None).

        An error of the report is logged and does not delay other records.
        """
        del self._unwritten[record.claimed.delivery.id]
        try:
            if verdict is None:
                self._callbacks.lost(record)
                return
            record.retry_requested, record.verdict = verdict != record.verdict, verdict
            self._refused.report_success()
            self._callbacks.written(record)
        except Exception as error:  # noqa: BLE001
            _log.event(
                "attempt_report_failed",
                level=logging.ERROR,
                trace=error,
                delivery_id=record.claimed.delivery.id,
                watch_id=record.claimed.delivery.watch_id or None,
                means="an unexpected error in the bridge; the attempt is stored, but metrics and logs may lack it",
            )
