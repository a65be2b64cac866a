"""Why a replica is degraded or not ready. `/readyz` shows the messages; the dashboard's alerts decide by the codes."""

from dataclasses import dataclass
from enum import StrEnum


class HealthCode(StrEnum):
    """One code for each reason that an operator handles in a different way."""

    STORE_UNWRITABLE = "store_unwritable"
    DISK_FULL = "disk_full"
    DATABASE_FILE_MISSING = "database_file_missing"  # or replaced by another file
    SCHEDULER_STALLED = "scheduler_stalled"
    DRAINING = "draining"
    OUT_OF_RESOURCES = "out_of_resources"  # no file descriptor or memory for another connection
    KEY_REFUSED = "key_refused"
    KEY_THROTTLED = "key_throttled"  # all polls get 429
    NOT_AMUX = "not_amux"  # the answers at AMUX_BASE_URL do not look like amux's


@dataclass(frozen=True, slots=True)
class HealthReason:
    """A code for programs and a sentence for people."""

    code: HealthCode
    message: str
