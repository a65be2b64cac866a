"""Makes notices for operators when something changes, and passes the notices to the deliverer and to people."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from bridge.aio.minute_window import MinuteWindow
from bridge.core.credential import CredentialState
from bridge.core.operations import MOST_A_MINUTE, Notice
from bridge.delivery.deliverer import Deliverer
from bridge.polling.poller import Poller
from bridge.polling.state import CredentialStatus
from bridge.store.records import CONFIGURED
from bridge.store.store import Store
from bridge.telemetry import get_logger

CHECK_SECONDS = 1.0  # between two checks of receivers, dead deliveries and keys

_log = get_logger("operations")


class Notifier(Protocol):
    """Passes sentences to people."""

    def send(self, messages: Sequence[str]) -> None:
        """Starts to send these sentences, best effort, and returns at once."""


class OperationsNotices:
    """Finds changes and publishes notices about them. `notifier` is None if no person is notified."""

    def __init__(
        self,
        store: Store,
        poller: Poller,
        deliverer: Deliverer,
        notifier: Notifier | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._poller = poller
        self._deliverer = deliverer
        self._notifier = notifier
        self._clock = clock
        self._key_notices = MinuteWindow(MOST_A_MINUTE)  # of keys of apps, which can send any number of keys
        self._refused: dict[str, bool] = {}  # by name; a key that amux has neither refused nor accepted is not here

    @property
    def enabled(self) -> bool:
        """Whether notices are made."""
        return self._store.notices.settings.enabled

    async def check(self) -> None:
        """Makes notices of the changes since the last check. Raises StoreUnavailable."""
        self.publish(await self._store.notices.check())
        await self._check_keys()

    def publish(self, notices: Sequence[Notice]) -> None:
        """Logs notices that are stored already, wakes the deliverer, and notifies people."""
        if not notices:
            return
        for one in notices:
            _log.event("notice", type=one.type, host=one.receiver, credential=one.credential, means=one.message)
        self._deliverer.wake()  # they are due in the outbox
        if self._notifier is not None:
            self._notifier.send([one.message for one in notices])

    async def _check_keys(self) -> None:
        states = {one.name: one for one in self._poller.credentials()}
        changed = [
            (name, refused)
            for name, one in states.items()
            if (refused := _refused(one)) is not None and refused != self._refused.get(name)
        ]
        # A key that is good since the start has a notice only if it was refused before the start: the store knows that.
        noticed = await self._store.notices.refused_keys() if any(not refused for _, refused in changed) else set()
        for name, refused in changed:
            of_app, now = name != CONFIGURED, self._clock()
            if of_app and self._key_notices.seconds_until_free(now) > 0:
                continue  # the change is found again at a later check, unless it has been undone
            if refused or name in noticed:
                notices = await self._store.notices.key_changed(name, refused=refused)
                self.publish(notices)
                if of_app and notices:
                    self._key_notices.add(now)
            self._refused[name] = refused
        self._refused = {name: refused for name, refused in self._refused.items() if name in states}


def _refused(credential: CredentialStatus) -> bool | None:
    """Returns whether amux refuses a key; None if that is not known, for example after a 429."""
    if credential.state is CredentialState.PAUSED:
        return True
    return False if credential.state is CredentialState.GOOD and credential.accepted else None
