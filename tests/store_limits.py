"""Changes the store's time limits. A call of the store fails after 4 s, which a commit may take on a busy machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from bridge.store import database, group_commit

FACTOR = 10.0  # most tests have ten times the real limits
_REAL = [
    (module, name, getattr(module, name))
    for module, names in (
        (group_commit, ("CALL_TIMEOUT_SECONDS", "BEGIN_WITHIN_SECONDS")),
        (database, ("BUSY_SECONDS", "STATEMENT_SECONDS")),
    )
    for name in names
]


def multiply_store_limits(factor: float) -> None:
    """Sets the time limits to a multiple of the real ones. They apply to stores that are opened from now on."""
    for module, name, seconds in _REAL:
        setattr(module, name, seconds * factor)


@contextmanager
def store_limits_times(factor: float) -> Iterator[None]:
    """Sets the time limits to a multiple of the real ones until the context ends."""
    before = [(module, name, getattr(module, name)) for module, name, _ in _REAL]
    multiply_store_limits(factor)
    try:
        yield
    finally:
        for module, name, seconds in before:
            setattr(module, name, seconds)
