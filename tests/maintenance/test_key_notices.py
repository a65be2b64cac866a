"""Notices about amux keys: one for each change, and a limited number in a minute: apps can send any number of keys."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bridge.aio.minute_window import MINUTE
from bridge.core.credential import CredentialState
from bridge.core.operations import MOST_A_MINUTE
from bridge.maintenance.operations import OperationsNotices
from bridge.polling.state import CredentialStatus
from bridge.store.notice_writing import NoticeTarget
from bridge.store.store import Store

TARGET = NoticeTarget("https://ops.example/hook", "ops.example:443")


@pytest.fixture(autouse=True)
def _as_before(store: Store) -> Iterator[None]:
    """The store is shared by all tests, so the notices are disabled after each."""
    before = store.notices.settings
    store.notices.enable(TARGET, None)
    yield
    store.notices.settings = before


class World:
    """Stands for the poller, the deliverer and the notifier. Keeps the sentences for people."""

    def __init__(self) -> None:
        self.now = 0.0
        self.states: dict[str, CredentialState] = {}
        self.sentences: list[str] = []

    def credentials(self) -> list[CredentialStatus]:
        return [CredentialStatus(name, state, None, None, None, accepted=True) for name, state in self.states.items()]

    def wake(self) -> None:
        """Sends nothing."""

    def send(self, messages: Sequence[str]) -> None:
        self.sentences += messages

    def new(self) -> int:
        """Returns the number of sentences since the last call."""
        number = len(self.sentences)
        self.sentences.clear()
        return number


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def notices(store: Store, world: World) -> OperationsNotices:
    parts: Any = world
    return OperationsNotices(store, parts, parts, world, clock=lambda: world.now)


async def test_of_many_refused_keys_of_apps_a_limited_number_has_a_notice_in_a_minute(
    notices: OperationsNotices, world: World
) -> None:
    world.states = {f"{number:032}": CredentialState.PAUSED for number in range(MOST_A_MINUTE + 3)}
    await notices.check()
    assert world.new() == MOST_A_MINUTE
    world.now = MINUTE - 1
    await notices.check()
    assert world.new() == 0
    world.now = MINUTE
    await notices.check()
    assert world.new() == 3


async def test_the_configured_key_has_its_notice_at_once_beside_any_number_of_keys_of_apps(
    notices: OperationsNotices, world: World
) -> None:
    world.states = {f"{number:032}": CredentialState.PAUSED for number in range(MOST_A_MINUTE + 3)}
    await notices.check()
    world.sentences.clear()
    world.states["configured"] = CredentialState.PAUSED
    await notices.check()
    assert [one for one in world.sentences if "configured key" in one] == world.sentences != []


async def test_a_key_that_is_accepted_again_before_its_notice_has_none(
    notices: OperationsNotices, world: World
) -> None:
    names = [f"{number:032}" for number in range(MOST_A_MINUTE + 1)]
    world.states = dict.fromkeys(names, CredentialState.PAUSED)
    await notices.check()
    world.states[names[-1]] = CredentialState.GOOD
    world.now = MINUTE
    world.sentences.clear()
    await notices.check()
    assert world.sentences == []
