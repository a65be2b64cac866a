"""The bridge has no file descriptor for a connection: the receiver has no failure, and no attempt is used up."""

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from bridge.core.model import DeliveryState
from tests.delivery.harness import Harness, ok
from tests.waiting import SAFETY_SECONDS


class Descriptors:
    """`number` is the error of each new socket, or None while sockets can be made. `refused` counts the errors."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.refused = 0


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Descriptors]:
    """While `number` is set, each new socket for a callback fails with this error, as the kernel reports it."""
    made, real = Descriptors(), socket.socket

    def make(*arguments: int, **options: int) -> socket.socket:
        if made.number is not None:
            made.refused += 1
            raise OSError(made.number, "no more")
        return real(*arguments, **options)

    monkeypatch.setattr("bridge.callback.guard.socket.socket", make)
    yield made
    made.number = None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_a_shortage_of_the_bridge_uses_up_no_attempt_and_is_logged_once(
    harness: Harness, descriptors: Descriptors, number: int
) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    due = await harness.due(receiver.url, 5)
    descriptors.number = number
    deliverer.wake()
    await harness.until(lambda: harness.log.of("resources_short"))
    assert "cannot open a connection" in (deliverer.shortage() or "")
    for _ in range(4):  # several tries, one a second
        refused = descriptors.refused
        harness.clock.ahead += 1.0
        async with asyncio.timeout(SAFETY_SECONDS):
            while descriptors.refused == refused:
                await asyncio.sleep(0.01)
    view = await harness.view(due[0].id)
    assert (view.state, view.attempts, view.last_error) == (DeliveryState.PENDING, 0, None)
    assert await harness.store.host_failures() == {}
    descriptors.number = None
    harness.clock.ahead += 1.0
    views = await harness.recorded(*due)
    assert [(view.state, view.attempts) for view in views] == [(DeliveryState.DELIVERED, 1)] * 5
    assert len(harness.log.of("resources_short")) == 1
    assert len(harness.log.of("resources_available")) == 1
    assert deliverer.shortage() is None


async def test_a_name_that_cannot_be_looked_up_for_a_shortage_uses_up_no_attempt(
    harness: Harness, descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free descriptor, the system's resolver reports that the name does not resolve."""
    names: dict[str, list[list[str]]] = {"app.test": [[], ["127.0.0.1"]]}
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(names=names)
    [due] = await harness.due(receiver.url.replace("127.0.0.1", "app.test"))
    descriptors.number = errno.EMFILE
    deliverer.wake()
    await harness.until(lambda: harness.log.of("resources_short"))
    descriptors.number = None
    harness.clock.ahead += 1.0
    [view] = await harness.recorded(due)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 1)
