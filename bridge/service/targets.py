"""The rules for callback targets, from the settings. `ping` and `check` use the same rules as the service."""

from bridge.core.targets import TargetPolicy
from bridge.service.sockets import own_addresses
from bridge.settings.settings import Settings


def target_policy(settings: Settings, own_ports: frozenset[int]) -> TargetPolicy:
    """Returns the rules. `own_ports` are the ports that the bridge itself listens on."""
    return TargetPolicy(
        allow_networks=settings.callback_allow_networks,
        allow_hosts=settings.callback_allow_hosts,
        allow_private_hosts=settings.callback_allow_private_hosts,
        ports=settings.callback_ports,
        https_only=settings.callback_https_only,
        own_ports=own_ports,
        own_addresses=own_addresses(),
    )


def configured_ports(settings: Settings) -> frozenset[int]:
    """Returns the ports of the settings. Port 0 is missing: the service knows it only after it has bound the socket."""
    return frozenset({settings.port, settings.metrics_port or 0} - {0})
