"""Reads, pauses and resumes receivers for operators. Every replica follows these changes."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bridge.core.audit import Actor
from bridge.core.operations import Notice
from bridge.core.receivers import Receiver
from bridge.delivery.figures import AttemptFigures
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

REFRESH_SECONDS = 2.0  # between two queries of other replicas' changes, which must be followed within 5 s
SPREAD_SECONDS = 1.0  # between two runs that set the due times of resumed receivers' deliveries
SPREAD_TRANSACTIONS = 50  # for one receiver in a run: 50,000 deliveries

_log = get_logger("receivers")


class PausingDeliverer(Protocol):
    """The part of the deliverer that is used here."""

    figures: AttemptFigures

    def set_paused(self, hosts: frozenset[str]) -> None:
        """Sends nothing to these hosts from now on, and sends to all others."""


class NoticePublisher(Protocol):
    """Publishes notices for operators."""

    def publish(self, notices: Sequence[Notice], /) -> None:
        """Publishes notices that the store has."""


class Receivers:
    """Reads, pauses and resumes receivers. Other replicas follow within `REFRESH_SECONDS`."""

    def __init__(self, store: Store, deliverer: PausingDeliverer, notices: NoticePublisher, metrics: Metrics) -> None:
        self._store = store
        self._deliverer = deliverer
        self._notices = notices
        self._metrics = metrics
        self.paused: frozenset[str] = frozenset()  # host and port of each, as this replica knows them
        self._resuming: frozenset[str] = frozenset()
        # The lock keeps an older answer of the store from overwriting a newer change in memory.
        self._lock = asyncio.Lock()

    async def all(self) -> Sequence[Receiver]:
        """Writes the figures of this process, and returns the receivers as the store's `receivers.all` does."""
        await self.write_figures()
        return await self._store.receivers.all()

    async def pause(self, name: str, by: Actor) -> Receiver:
        """Pauses a receiver: its deliveries wait from now on. A second call changes nothing."""
        async with self._store.request_limit(), self._lock:
            if (notices := await self._store.receivers.pause(name, by)) is not None:
                self._notices.publish(notices)
                means = "its deliveries wait and use up no attempts until it is resumed"
                _log.event("receiver_paused", host=name, by=by.name, role=by.role, means=means)
            await self._refresh()
            return await self._one(name)

    async def resume(self, name: str, by: Actor) -> Receiver:
        """Resumes a receiver: its waiting deliveries become due, spread over time. A second call changes nothing."""
        async with self._store.request_limit(), self._lock:
            if (notices := await self._store.receivers.resume(name, by)) is not None:
                self._notices.publish(notices)
                means = "its pending deliveries become due, the oldest first, spread over time"
                _log.event("receiver_resumed", host=name, by=by.name, role=by.role, means=means)
            await self._refresh()
            return await self._one(name)

    async def refresh(self) -> None:
        """Reads the changes of other replicas, and writes the figures. Raises StoreUnavailable."""
        async with self._lock:
            await self._refresh()
        await self.write_figures()

    async def spread(self) -> None:
        """Sets new due times for the deliveries of resumed receivers, also after the crash of another replica."""
        for name in self._resuming:
            for _ in range(SPREAD_TRANSACTIONS):
                if not await self._store.receivers.spread(name):
                    await self.refresh()
                    break

    async def write_figures(self) -> None:
        """Writes the figures of this process. Raises StoreUnavailable."""
        await self._deliverer.figures.write(self._store)

    async def _one(self, name: str) -> Receiver:
        await self.write_figures()
        return await self._store.receivers.one(name)

    async def _refresh(self) -> None:
        state = await self._store.receivers.pause_state()
        self.paused, self._resuming = state.paused, state.resuming
        self._metrics.paused_receivers.set(len(state.paused))
        self._deliverer.set_paused(state.held)
