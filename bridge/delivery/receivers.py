"""What operators see of receivers and change about them, on every replica."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bridge.core.audit import Actor
from bridge.core.operations import Notice
from bridge.core.receivers import Receiver
from bridge.delivery.figures import AttemptFigures
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

REFRESH_SECONDS = 2.0  # between two looks at what other replicas have changed; within 5 s is promised
SPREAD_SECONDS = 1.0  # between two runs that give the deliveries of resumed receivers their times
SPREAD_TRANSACTIONS = 50  # of one receiver in a run: 50,000 deliveries

_log = get_logger("receivers")


class PausingDeliverer(Protocol):
    """What is used of the deliverer."""

    figures: AttemptFigures

    def set_paused(self, hosts: frozenset[str]) -> None:
        """Sends nothing to these hosts from now on, and again to all others."""


class NoticePublisher(Protocol):
    """Publishes notices for operators."""

    def publish(self, notices: Sequence[Notice], /) -> None:
        """Publishes notices that were written."""


class Receivers:
    """Reads, pauses and resumes receivers. Other replicas follow within `REFRESH_SECONDS`."""

    def __init__(self, store: Store, deliverer: PausingDeliverer, notices: NoticePublisher, metrics: Metrics) -> None:
        self._store = store
        self._deliverer = deliverer
        self._notices = notices
        self._metrics = metrics
        self.paused: frozenset[str] = frozenset()  # host and port of each, as this replica knows them
        self._resuming: frozenset[str] = frozenset()
        # An answer of the store that is older than a change must not undo the change in memory.
        self._lock = asyncio.Lock()

    async def all(self) -> Sequence[Receiver]:
        """Returns each receiver of the last 24 h, with the attempts of this process up to now."""
        await self.write_figures()
        return await self._store.receivers.all()

    async def pause(self, name: str, by: Actor) -> Receiver:
        """Pauses a receiver: its deliveries wait from now on. Can be repeated."""
        async with self._store.request_limit(), self._lock:
            if (notices := await self._store.receivers.pause(name, by)) is not None:
                self._notices.publish(notices)
                means = "its deliveries wait and use up no attempts until it is resumed"
                _log.event("receiver_paused", host=name, by=by.name, role=by.role, means=means)
            await self._refresh()
            return await self._one(name)

    async def resume(self, name: str, by: Actor) -> Receiver:
        """Resumes a receiver: all that wait become due, spread over time. Can be repeated."""
        async with self._store.request_limit(), self._lock:
            if (notices := await self._store.receivers.resume(name, by)) is not None:
                self._notices.publish(notices)
                means = "all its deliveries become due, spread over time"
                _log.event("receiver_resumed", host=name, by=by.name, role=by.role, means=means)
            await self._refresh()
            return await self._one(name)

    async def refresh(self) -> None:
        """Follows what other replicas have changed, and writes the figures. Raises StoreUnavailable."""
        async with self._lock:
            await self._refresh()
        await self.write_figures()

    async def spread(self) -> None:
        """Gives the deliveries of resumed receivers their times, also after another replica's crash."""
        for name in self._resuming:
            for _ in range(SPREAD_TRANSACTIONS):
                if not await self._store.receivers.spread(name):
                    await self.refresh()
                    break

    async def write_figures(self) -> None:
        """Writes what the attempts of this process have shown. Raises StoreUnavailable."""
        await self._deliverer.figures.write(self._store)

    async def delete_old_figures(self) -> None:
        """Deletes figures that no receiver shows any more."""
        await self._store.receivers.delete_old_figures()

    async def _one(self, name: str) -> Receiver:
        await self.write_figures()
        return await self._store.receivers.one(name)

    async def _refresh(self) -> None:
        state = await self._store.receivers.pause_state()
        self.paused, self._resuming = state.paused, state.resuming
        self._metrics.paused_receivers.set(len(state.paused))
        self._deliverer.set_paused(state.held)
