"""The objects that connect a bridge with the world outside. A simulation of the bridge replaces all of them."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.aio.system import SYSTEM, System
from bridge.amux.client import AmuxClient
from bridge.amux.content_folder import ContentFolder
from bridge.callback.guard import Resolver
from bridge.callback.sender import Sender
from bridge.service.sockets import bind
from bridge.store.database import Database, connect


@dataclass(frozen=True, slots=True)
class Adapters:
    """The system, and factories of the database, the sockets, amux's client, the sender and the folder of videos.

    `resolve` replaces the system's resolver for the hosts of callback URLs. Each factory gets the arguments of its
    default.
    """

    system: System = SYSTEM
    connect: Callable[[str, System], Database] = connect
    bind: Callable[[Sequence[str], int, str], list[socket.socket]] = bind
    amux_client: Callable[..., AmuxClient] = AmuxClient
    sender: Callable[..., Sender] = Sender
    content_folder: Callable[..., ContentFolder] = ContentFolder
    resolve: Resolver | None = None


ADAPTERS = Adapters()
