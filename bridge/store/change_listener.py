"""Who is called when a commit has changed watches."""

from collections.abc import Sequence
from typing import Protocol


class ChangeListener(Protocol):
    """Is called with the watches that changed: `watches.ChangeNotifier`, or a listener of a test."""

    def announce(self, watch_ids: Sequence[str], /) -> None:
        """Wake the callers that wait for these watches."""
