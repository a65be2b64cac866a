"""The amux keys in use, what is told of them, and which of them rest."""

import logging
from collections.abc import Callable, Sequence

from bridge.aio.clocks import Clocks
from bridge.core.health import HealthCode, HealthReason
from bridge.core.model import Observation
from bridge.core.schedule import PollPolicy
from bridge.polling.state import Credential, CredentialChange, CredentialState, CredentialStatus, Phase, PolledTask
from bridge.store.records import CONFIGURED
from bridge.telemetry import Metrics, get_logger

_log = get_logger("polling")


class Credentials:
    """Credentials by name. One that is a watch's own goes with its last task; the configured one stays."""

    def __init__(self, policy: PollPolicy, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._gauge = metrics.paused_credentials
        self._clock = clock
        self._paused = 0
        self._configured = Credential(CONFIGURED, None, configured=True)
        self._all = {CONFIGURED: self._configured}

    def joined(self, name: str, api_key: str | None) -> Credential:
        """The credential of one more task."""
        credential = self._all.get(name)
        if credential is None:
            credential = self._all[name] = Credential(name, api_key)
        elif api_key is not None and not credential.configured:
            credential.key = api_key
        credential.tasks += 1
        return credential

    def left(self, credential: Credential) -> None:
        """A task of this credential is gone."""
        credential.tasks -= 1
        if credential.tasks <= 0 and not credential.configured and self._all.get(credential.name) is credential:
            del self._all[credential.name]
            self._count(-1 if credential.standing is CredentialState.PAUSED else 0)

    def forget(self) -> None:
        """Every task is gone."""
        self._configured = Credential(CONFIGURED, None, configured=True)
        self._all = {CONFIGURED: self._configured}
        self._count(-self._paused)

    def judge(self, task: PolledTask, said: Observation, now: float) -> bool:
        """What an answer means for its task's credential, told once; true when it is good again."""
        credential = task.credential
        was_paused, since = credential.standing is CredentialState.PAUSED, credential.since
        verdict = credential.judge(task, said, now, self._policy)
        if verdict is CredentialChange.SAME:
            return False
        self._count((verdict is CredentialChange.PAUSED) - was_paused)
        rest = round(max(credential.resumes_at - now, 0.0), 3)
        if verdict is CredentialChange.RESUMED:
            _log.event(
                "credential_resumed",
                credential=credential.name,
                rested_seconds=round(now - (now if since is None else since), 3),
                waiting=len(credential.held),
            )
            return True
        _log.event(
            f"credential_{verdict.value}",
            level=logging.WARNING,
            credential=credential.name,
            reason=credential.message,
            next_probe_seconds=rest,
            tasks=credential.tasks,
            means="its watches wait, one poll at a time asks again; none ends by it before its own deadline",
        )
        return False

    def probe_of_new_key(self, configured_key: Callable[[], str | None]) -> PolledTask | None:
        """The configured key's probe, when it waits and the key that was refused has been replaced."""
        credential = self._configured
        if credential.standing is not CredentialState.PAUSED or credential.probe is None:
            return None
        if credential.probe.phase is not Phase.WAITING or credential.resumes_at <= self._clock():
            return None
        if configured_key() == credential.refused_key:
            return None
        credential.resumes_at = self._clock()
        return credential.probe

    def states(self, clocks: Clocks) -> Sequence[CredentialStatus]:
        """Each credential, the configured one first."""
        return [
            CredentialStatus(
                each.name,
                each.standing,
                clocks.unix(each.since),
                clocks.unix(each.resumes_at) if each.resting else None,
                each.message,
            )
            for each in self._all.values()
        ]

    def degraded(self) -> list[HealthReason]:
        """A sentence while the configured key is refused."""
        if self._configured.standing is not CredentialState.PAUSED:
            return []
        message = f"amux refuses the configured key (AMUX_API_KEY): {self._configured.message}"
        return [HealthReason(HealthCode.KEY_REFUSED, message)]

    def _count(self, change: int) -> None:
        self._paused += change
        self._gauge.set(self._paused)
