"""The amux keys in use, and which of them amux refuses or throttles. Each change is logged once."""

import logging
from collections.abc import Iterable, Sequence

from bridge.aio.clocks import Clocks
from bridge.core.credential import CredentialChange, CredentialState
from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation
from bridge.core.schedule import PollPolicy
from bridge.polling.lanes import BatchLanes
from bridge.polling.state import Credential, CredentialStatus, PolledTask
from bridge.store.records import CONFIGURED, TaskView
from bridge.store.store import Store
from bridge.telemetry import Metrics, get_logger

KEYS_PER_QUERY = 1_000  # a statement takes at most 32,766 parameters

_log = get_logger("polling")


async def load_keys(store: Store, rows: Iterable[TaskView]) -> dict[str, str]:
    """Read the amux keys of tasks with their own credential, by the credential's name. Raises StoreUnavailable."""
    names = sorted({row.credential for row in rows} - {CONFIGURED})
    keys: dict[str, str] = {}
    for first in range(0, len(names), KEYS_PER_QUERY):
        keys |= await store.keys_of(names[first : first + KEYS_PER_QUERY])
    return keys


class Credentials:
    """Credentials by name. The credential of a watch is removed with its last task; the configured one stays.

    `configured_key` is the amux key of the settings, None without one. Without `lanes` no credential has a batch lane.
    """

    def __init__(
        self, policy: PollPolicy, metrics: Metrics, configured_key: str | None, lanes: BatchLanes | None = None
    ) -> None:
        self._policy = policy
        self._lanes = lanes
        self._gauge = metrics.paused_credentials
        self._configured_key = configured_key
        self._paused = 0
        self._configured = self._new(CONFIGURED, configured_key, configured=True)
        self._all = {CONFIGURED: self._configured}

    def add_task(self, name: str, api_key: str | None) -> Credential:
        """Add one to the number of a credential's tasks, and return the credential."""
        credential = self._all.get(name)
        if credential is None:
            credential = self._all[name] = self._new(name, api_key)
        elif api_key is not None and not credential.configured:
            credential.key = api_key
        credential.tasks += 1
        return credential

    def remove_task(self, credential: Credential) -> None:
        """Subtract one from the number of a credential's tasks."""
        credential.tasks -= 1
        if not credential.in_use and self._all.get(credential.name) is credential:
            del self._all[credential.name]
            self._count_paused(-1 if credential.health.state is CredentialState.PAUSED else 0)

    def clear(self) -> None:
        """Remove every task."""
        for credential in self._all.values():
            credential.tasks = 0
        self._configured = self._new(CONFIGURED, self._configured_key, configured=True)
        self._all = {CONFIGURED: self._configured}
        self._count_paused(-self._paused)

    def _new(self, name: str, key: str | None, *, configured: bool = False) -> Credential:
        credential = Credential(name, key, configured=configured)
        if self._lanes is not None:
            self._lanes.join(credential)
        return credential

    def note_answer(self, task: PolledTask, observation: Observation, now: float) -> bool:
        """Apply an answer to the credential of its task, and log a change. Return whether it changed to good."""
        credential = task.credential
        before = credential.health
        change = credential.apply_answer(task, observation, now, self._policy)
        if change is CredentialChange.NONE:
            return False
        self._count_paused((change is CredentialChange.PAUSED) - (before.state is CredentialState.PAUSED))
        if change is CredentialChange.RESUMED:
            _log.event(
                "credential_resumed",
                credential=credential.name,
                paused_seconds=round(now - (now if before.since is None else before.since), 3),
                waiting=len(credential.waiting),
                means="amux accepts the key again; its tasks are polled as usual",
            )
            return True
        _log.event(
            f"credential_{change.value}",
            level=logging.WARNING,
            credential=credential.name,
            reason=credential.health.message,
            next_probe_seconds=round(max(credential.health.resumes_at - now, 0.0), 3),
            tasks=credential.tasks,
            means="one poll at a time tests the key; the other watches of the key wait, at most until their deadlines",
        )
        return False

    def task_counts(self) -> dict[str, int]:
        """Return the number of tasks of each credential that has tasks."""
        return {credential.name: credential.tasks for credential in self._all.values() if credential.tasks}

    def states(self, clocks: Clocks) -> Sequence[CredentialStatus]:
        """Return each credential's state, the configured one first."""
        return [
            CredentialStatus(
                credential.name,
                credential.health.state,
                clocks.unix(credential.health.since),
                clocks.unix(credential.health.resumes_at) if credential.blocked else None,
                credential.health.message,
                credential.accepted,
            )
            for credential in self._all.values()
        ]

    def degraded(self) -> list[HealthReason]:
        """Return one reason while amux refuses the configured key, or answers all its polls with 429; else none."""
        message = self._configured.health.message
        if self._configured.health.state is CredentialState.PAUSED:
            text = f"amux refuses the configured key (AMUX_API_KEY): {message}"
            return [HealthReason(HealthCode.KEY_REFUSED, text)]
        if self._configured.always_throttled:
            text = f"amux answers all polls with the configured key (AMUX_API_KEY) with 429: {message}"
            return [HealthReason(HealthCode.KEY_THROTTLED, text)]
        return []

    def _count_paused(self, change: int) -> None:
        self._paused += change
        self._gauge.set(self._paused)
