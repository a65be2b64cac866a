"""Why a callback target is refused, and which settings can allow it."""

from dataclasses import dataclass

ALLOW_NETWORKS = "BRIDGE_CALLBACK_ALLOW_NETWORKS"
ALLOW_PRIVATE_HOSTS = "BRIDGE_CALLBACK_ALLOW_PRIVATE_HOSTS"
ALLOW_HOSTS = "BRIDGE_CALLBACK_ALLOW_HOSTS"
PORTS = "BRIDGE_CALLBACK_PORTS"
HTTPS_ONLY = "BRIDGE_CALLBACK_HTTPS_ONLY"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address is refused. `rule` is the end of a sentence about the address: "is loopback (127.0.0.0/8)".

    `settings` are the bridge's settings of which each can allow the address.
    """

    rule: str
    settings: tuple[str, ...] = ()
