"""Records of attempts on their way to the store: each is written once, or its claim is lost; none is forgotten."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.core.delivery import Verdict
from bridge.core.errors import BridgeError, LostClaim, StoreUnavailable
from bridge.core.model import Attempt
from bridge.delivery.fairness import ClaimedDelivery, HostQueue
from bridge.store.records import AttemptResult
from bridge.store.store import Store
from bridge.telemetry import get_logger

_log = get_logger("delivery")

MOST_UNWRITTEN = 512  # one commit of the store's takes as many; beyond it sending is ahead of the disk
GATHER_SECONDS = 0.02  # between commits while sending goes on: at 4,000 a second 80 records share one (30 µs each)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds between tries of what the store refused


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """An attempt that is over and has to be written; times are Unix seconds.

    `asked_again`: a retry was asked for while it was under way, and has changed the verdict.
    """

    held: ClaimedDelivery
    host: HostQueue
    attempt: Attempt
    verdict: Verdict
    at: float
    host_changed: bool
    asked_again: bool = False

    def tried(self) -> AttemptResult:
        """The record as the store takes it, under the newest claim and with the host's newest count."""
        owed = self.held.delivery
        failures = self.host.failures if self.host_changed else None
        return AttemptResult(
            *(owed.id, owed.lease, self.attempt, self.verdict, owed.host, self.at),
            host_failures=failures,
            round_attempts=owed.round_attempts,
        )


class AttemptWriter:
    """Writes records. `written` and `lost` are told of each that is done with, `healed` when the store writes again.

    What ends within 20 ms is written together, the first at once: a commit for each record costs 10 times as much.
    While the store refuses, or too much is unwritten, `accepting` is False: begin nothing that could not be recorded.
    """

    def __init__(
        self,
        store: Store,
        *,
        written: Callable[[AttemptRecord], None],
        lost: Callable[[AttemptRecord], None],
        healed: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._written = written
        self._lost = lost
        self._healed = healed
        self._clock = clock
        self._unwritten: dict[str, AttemptRecord] = {}
        self._fresh: list[AttemptRecord] = []  # of those, what was not tried yet
        self._refused: dict[str, AttemptRecord] = {}  # of those, what waits for the next try
        self._refusing = False
        self._pause = FIRST_PAUSE
        self._try_at = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._written_at = 0.0  # by the loop's clock: when the last commit began
        self.due = asyncio.Event()  # there is work

    @property
    def unwritten(self) -> int:
        """Records that are not durable yet."""
        return len(self._unwritten)

    @property
    def accepting(self) -> bool:
        """Whether another attempt could be recorded, as far as is known."""
        return not self._refusing and len(self._unwritten) < MOST_UNWRITTEN

    def write(self, record: AttemptRecord) -> None:
        """Write a record soon; one that the store refuses is kept and tried again."""
        self._unwritten[record.held.delivery.id] = record
        self._fresh.append(record)
        if self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_at(self._written_at + GATHER_SECONDS, self.due.set)

    def renewed(self, delivery_id: str) -> None:
        """A new claim was taken of a delivery; if its record waits, the store may take it at once."""
        if delivery_id in self._refused:
            self._try_at = self._clock()
            self.due.set()

    def tick(self) -> None:
        """Try again what is due."""
        if self._refused and self._clock() >= self._try_at:
            self.due.set()

    async def work(self) -> None:
        """Write what came, and try again what the store refused once its time has come."""
        if self._fresh:
            fresh, self._fresh, self._gathering = self._fresh, [], None
            self._written_at = asyncio.get_running_loop().time()
            if error := await self._try(fresh):
                self._refuse(error)
        if self._refused and self._clock() >= self._try_at:
            await self._try_refused()

    async def _try_refused(self) -> None:
        try:
            # One small write tells a store that refuses all from one that refuses this record: only then others wait.
            await self._store.probe()
        except StoreUnavailable:
            self._refusing = True
            self._rest()
            return
        self._heal()
        refused = list(self._refused.values())
        self._refused.clear()
        await self._try(refused)
        if self._refused:
            self._rest()

    async def _try(self, records: Sequence[AttemptRecord]) -> BridgeError | None:
        """Write records, and put aside those that the store refuses; why it refuses the first of them."""
        refusal: BridgeError | None = None
        while records:
            leases = [record.held.delivery.lease for record in records]
            try:
                results = await self._store.record_attempts([record.tried() for record in records])
            except StoreUnavailable as error:
                results = [error] * len(records)
            again: list[AttemptRecord] = []
            for record, lease, result in zip(records, leases, results, strict=True):
                if not isinstance(result, BridgeError):
                    self._end(record, self._written, result)
                elif not isinstance(result, LostClaim):
                    self._refused[record.held.delivery.id] = record
                    refusal = refusal or result
                elif record.held.delivery.lease != lease:
                    again.append(record)  # a newer claim of ours came meanwhile
                else:
                    self._end(record, self._lost)
            records = again
        return refusal

    def _end(
        self, record: AttemptRecord, told: Callable[[AttemptRecord], None], verdict: Verdict | None = None
    ) -> None:
        """A record is durable, or its claim is gone; a fault in telling so is told, and keeps no other record back."""
        del self._unwritten[record.held.delivery.id]
        try:
            if verdict is not None:
                record.asked_again, record.verdict = verdict != record.verdict, verdict
                self._heal()
            told(record)
        except Exception as error:  # noqa: BLE001
            _log.event("record_broke", level=logging.ERROR, trace=error, delivery_id=record.held.delivery.id)

    def _refuse(self, error: BridgeError) -> None:
        if not self._refusing:
            self._refusing = True
            self._pause = FIRST_PAUSE
            self._try_at = self._clock() + self._pause
            _log.event(
                "attempts_unwritten",
                level=logging.ERROR,
                reason=str(error),
                means="results are kept and written later; nothing more is sent until then",
            )

    def _rest(self) -> None:
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._try_at = self._clock() + self._pause

    def _heal(self) -> None:
        if self._refusing:
            self._refusing = False
            _log.event("store_writes_again", unwritten=len(self._unwritten))
            self._healed()
