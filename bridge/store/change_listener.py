"""Who is called when a commit has changed watches."""

from collections.abc import Sequence
from typing import Protocol

from bridge.store.records import CancelledWatch, TaskView


class ChangeListener(Protocol):
    """Is called with the watches that changed: `watches.ChangeNotifier`, or a listener of a test."""

    def announce(self, watch_ids: Sequence[str], /) -> None:
        """Wake the callers that wait for these watches."""


class WatchListener(Protocol):
    """Who is informed of writes whose callers may have given up waiting: the registration of watches."""

    def registered_late(self, task: TaskView, /) -> None:
        """The task of a watch that was stored after its caller had given up."""

    def cancelled(self, watch: CancelledWatch, /) -> None:
        """A watch whose cancellation is durable."""


class NoListener:
    """A listener that does nothing."""

    def registered_late(self, task: TaskView, /) -> None:
        """Do nothing."""

    def cancelled(self, watch: CancelledWatch, /) -> None:
        """Do nothing."""
