"""The store's time limits. A commit that takes 4 s fails a caller: a slow and busy machine does so in any test."""

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.store import database, group_commit

FACTOR = 10.0  # of the limits that most tests have
_REAL = [
    (module, name, getattr(module, name))
    for module, names in (
        (group_commit, ("CALL_TIMEOUT_SECONDS", "BEGIN_WITHIN_SECONDS")),
        (database, ("BUSY_SECONDS", "STATEMENT_SECONDS")),
    )
    for name in names
]


def multiply_store_limits(factor: float) -> None:
    """Sets the time limits to the real ones times a factor, for stores that are opened from now on."""
    for module, name, seconds in _REAL:
        setattr(module, name, seconds * factor)


@contextmanager
def store_limits_times(factor: float) -> Iterator[None]:
    """Multiplies the real time limits by a factor, for stores that are opened meanwhile."""
    before = [(module, name, getattr(module, name)) for module, name, _ in _REAL]
    multiply_store_limits(factor)
    try:
        yield
    finally:
        for module, name, seconds in before:
            setattr(module, name, seconds)
