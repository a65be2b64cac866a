"""Loads the open tasks that this replica owns, with the keys of their credentials."""

from collections.abc import Container, Mapping, Sequence

from bridge.store.records import CONFIGURED, TaskRow
from bridge.store.store import Store

KEYS_PER_QUERY = 1_000  # a statement takes at most 32,766 parameters


async def load_tasks(store: Store, known: Container[str]) -> tuple[Sequence[TaskRow], Mapping[str, str]]:
    """Return the own open tasks that are not known yet, and the keys of all credentials. Raises StoreUnavailable."""
    rows = await store.own_tasks()
    credentials = sorted({row.credential for row in rows if row.credential != CONFIGURED})
    keys: dict[str, str] = {}
    for first in range(0, len(credentials), KEYS_PER_QUERY):
        keys |= await store.keys_of(credentials[first : first + KEYS_PER_QUERY])
    return [row for row in rows if row.id not in known], keys
