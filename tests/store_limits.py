"""The store's time limits. A commit that takes 4 s fails a caller: a slow and busy machine does so in any test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bridge.store import database, group_commit

FACTOR = 10  # of the limits that most tests have
_REAL = [
    (module, name, getattr(module, name))
    for module, names in (
        (group_commit, ("CALL_TIMEOUT_SECONDS", "BEGIN_WITHIN_SECONDS")),
        (database, ("BUSY_SECONDS", "STATEMENT_SECONDS")),
    )
    for name in names
]


@contextmanager
def store_limits_times(factor: float) -> Iterator[None]:
    """Multiplies the real time limits by a factor, for stores that are opened meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, seconds in _REAL:
            patch.setattr(module, name, seconds * factor)
        yield
