"""The interfaces of the objects that are called after a commit has changed watches."""

from collections.abc import Sequence
from typing import Protocol

from bridge.store.records import CancelledWatch, Changed, TaskView


class ChangeListener(Protocol):
    """Is called with the ids of changed watches: `watches.ChangeNotifier`, or a listener of a test."""

    def announce(self, watch_ids: Sequence[str], /) -> None:
        """Wake the callers that wait for these watches."""


class CommitListener:
    """Is called after commits whose callers may have given up waiting. A subclass overrides what it needs."""

    def registered_late(self, task: TaskView, /) -> None:
        """Handle the task of a watch that was stored after its caller had given up."""

    def cancelled(self, watch: CancelledWatch, /) -> None:
        """Handle a watch whose cancellation is durable, also when its caller has given up."""

    def changed_late(self, changed: Changed, /) -> None:
        """Handle a settlement or a status change that was stored after its caller had given up."""
