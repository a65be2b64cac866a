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


class _WriteFailed(StoreUnavailable):
    """An unexpected error prevented a write."""


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

    def dropped(self, record: AttemptRecord, /) -> None:
        """Handles a record that is dropped, because of an unexpected error. The error is logged."""

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
            # Each alone, so that a record that cannot be written keeps no other one back. They still share a commit.
            due = await self._refused.take_due()
            await asyncio.gather(*(self._write([record], retried=True) for record in due))

    async def _write(self, records: Sequence[AttemptRecord], *, retried: bool) -> BridgeError | None:
        """Write records, and keep the refused ones. Return the error of the first refused record, if any.

        After an unexpected error the records are kept too. A record that fails so when it is retried is dropped: its
        delivery is sent again when its claim ends.
        """
        first_error: BridgeError | None = None
        while records:
            leases = [record.claimed.delivery.lease for record in records]
            results = await self._results(records, retried=retried)
            claimed_again: list[AttemptRecord] = []
            for record, lease, result in zip(records, leases, results, strict=True):
                if not isinstance(result, BridgeError) or (isinstance(result, _WriteFailed) and retried):
                    self._finish(record, result)
                elif not isinstance(result, LostClaim):
                    self._refused.add(record.claimed.delivery.id, record, retried=retried)
                    first_error = first_error or result
                elif record.claimed.delivery.lease != lease:
                    claimed_again.append(record)  # this replica claimed the delivery again during the write
                else:
                    self._finish(record, result)
            records = claimed_again
        return first_error

    async def _results(self, records: Sequence[AttemptRecord], *, retried: bool) -> Sequence[Verdict | BridgeError]:
        """Return the result of each record: the verdict with which it is durable, or the error."""
        try:
            attempts = [record.result() for record in records]
            return await self._store.record_attempts(attempts, linger=len(attempts) < FEW_RECORDS)
        except StoreUnavailable as error:
            return [error] * len(records)
        except Exception as error:  # noqa: BLE001  a bug must not lose the results of attempts
            kept = "these results wait in memory and are written again soon, each alone"
            dropped = "the result is dropped, and the delivery is sent again when its claim ends"
            _log.event(
                "attempts_write_failed",
                level=logging.ERROR,
                trace=error,
                count=len(records),
                delivery_id=records[0].claimed.delivery.id,
                means=f"an unexpected error in the bridge; {dropped if retried else kept}",
            )
            return [_WriteFailed(f"{type(error).__name__} in a write")] * len(records)

    def _finish(self, record: AttemptRecord, result: Verdict | BridgeError) -> None:
        """Remove a record and report it. It is durable with a verdict, or it is dropped because of an error.

        An error of the report is logged and does not delay other records.
        """
        delivery_id = record.claimed.delivery.id
        if self._unwritten.get(delivery_id) is record:
            del self._unwritten[delivery_id]
        try:
            if isinstance(result, BridgeError):
                report = self._callbacks.lost if isinstance(result, LostClaim) else self._callbacks.dropped
                report(record)
                return
            record.retry_requested, record.verdict = result != record.verdict, result
            self._refused.report_success()
            self._callbacks.written(record)
        except Exception as error:  # noqa: BLE001
            _log.event(
                "attempt_report_failed",
                level=logging.ERROR,
                trace=error,
                delivery_id=delivery_id,
                watch_id=record.claimed.delivery.watch_id or None,
                means="an unexpected error in the bridge; the attempt is stored, but metrics and logs may lack it",
            )
