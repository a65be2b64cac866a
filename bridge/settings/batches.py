"""Makes the policy for reading tasks in batches from the settings."""

from bridge.core.batch_lane import BatchPolicy
from bridge.settings.settings import Settings


def batch_policy(settings: Settings) -> BatchPolicy | None:
    """Returns the policy of the batch lane; None if AMUX_BATCH switches it off."""
    if settings.amux_batch == "off":
        return None
    return BatchPolicy(settings.amux_batch_size, settings.amux_batch_interval_seconds, settings.amux_batch_concurrency)
