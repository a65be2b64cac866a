"""Names whose private addresses the operator allowed. The addresses of a name may change."""

import asyncio
import socket

import pytest

from bridge.callback.guard import Guard, RefusedAddressError
from bridge.core.errors import TargetRefused
from bridge.core.model import Answered, NoAnswer, RefusedTarget
from bridge.core.targets import TargetPolicy
from bridge.service.sockets import own_addresses
from tests.callback.harness import OK, MakeSender, code_of, post
from tests.scripted_server import StartServer, raw

OPENED = TargetPolicy(allow_private_hosts=("app", "*.svc.cluster.local"))


async def test_an_opened_name_is_sent_to_wherever_it_resolves(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    first = await start_receiver(raw(OK))
    second = await start_receiver(raw(OK), host="127.0.0.2", port=first.port)
    sender = make_sender({"app": [["127.0.0.1"], ["127.0.0.2"], ["169.254.169.254"]]}, policy=OPENED)
    for _ in range(2):
        assert await post(sender, f"http://app:{first.port}/") == Answered(200, None, b"ok")
    assert (first.connections, second.connections) == (1, 1)
    refused = await post(sender, f"http://app:{first.port}/")
    assert isinstance(refused, NoAnswer)
    assert refused.code == "target_refused"


async def test_other_names_and_literal_addresses_stay_closed(
    start_receiver: StartServer, make_sender: MakeSender
) -> None:
    receiver = await start_receiver(raw(OK))
    sender = make_sender({"other": [["127.0.0.1"]], "svc.cluster.local": [["127.0.0.1"]]}, policy=OPENED)
    for name in ("other", "svc.cluster.local"):
        assert code_of(await post(sender, f"http://{name}:{receiver.port}/")) == "target_refused"
    assert isinstance(await post(sender, receiver.url), RefusedTarget)
    assert receiver.connections == 0


async def test_both_checks_of_the_guard_know_the_name() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        await asyncio.sleep(0)
        return ["10.0.0.1"]

    guard = Guard(OPENED, resolve)
    await guard.check("http://a.svc.cluster.local/")
    with pytest.raises(TargetRefused):
        await guard.check("http://b.example/")
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("10.0.0.1", 80))
    guard.open_socket(info, guard.parse("http://app/")).close()
    for target in (None, guard.parse("http://b.example/")):
        with pytest.raises(RefusedAddressError):
            guard.open_socket(info, target)


def test_the_addresses_of_every_interface_are_this_machines() -> None:
    """A socket can listen on each address that is found. Addresses of other machines are not found."""
    found = own_addresses()
    assert {"127.0.0.1"} <= {str(address) for address in found}
    for address in found:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        if not address.is_link_local:  # to listen there, a socket needs its interface
            with socket.socket(family) as listener:
                listener.bind((str(address), 0))
    assert not {"10.99.0.1", "192.0.2.1"} & {str(address) for address in found}
