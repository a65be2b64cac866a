"""Checks of the event feed: the order of its numbers, and what its readers get, also after events were removed."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from tests.simulation.http import Reply
from tests.simulation.snapshot import Snapshot
from tests.simulation.violation import Violation, require

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Listed:
    """An event of the feed: its number, and the app that owns it."""

    number: int
    app: str


@dataclass(eq=False)
class Reading:
    """One app that follows the cursors. A new chain of cursors begins after 410.

    `missed` are the events that were removed before the app read them. Those of `may_miss` were removed before it had
    its first cursor.
    """

    app: str
    token: str
    cursor: str | None = None
    waiting: bool = False
    seen: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    may_miss: set[str] = field(default_factory=set)
    last: int = 0  # the number of the last event that the app has read

    def start_again(self) -> None:
        """Begin without a cursor."""
        self.cursor, self.last = None, 0
        self.seen, self.missed, self.may_miss = set(), set(), set()


@dataclass(eq=False)
class Feed:
    """Checks the numbers after each commit, and each answer of `GET /events`."""

    world: "World"
    readings: list[Reading]
    listed: dict[str, Listed] = field(default_factory=dict)  # every event that has had a number, removed ones too
    numbered: dict[tuple[str, str], int] = field(default_factory=dict)
    largest: int = 0

    def after_commit(self, before: Snapshot, after: Snapshot) -> None:
        """Check that no number has changed, and that each new number is larger than all earlier ones."""
        new: list[tuple[int, str, str]] = []
        for key, event in after.events.items():
            number = event["number"]
            old = self.numbered.get(key)
            if old is None and number is not None:
                self.numbered[key] = number
                new.append((number, orjson.loads(event["payload"])["id"], after.watches[key[0]]["app"]))
            elif old != number:
                raise Violation(f"the number of {key} changed from {old} to {number}")
        for number, event_id, app in sorted(new):
            require(number > self.largest, f"{event_id} has the number {number} after {self.largest} was given")
            self.largest = number
            self.listed[event_id] = Listed(number, app)
        self._removed(before, after)

    def _removed(self, before: Snapshot, after: Snapshot) -> None:
        gone = before.events.keys() - after.events.keys()
        for event_id in (orjson.loads(before.events[key]["payload"])["id"] for key in gone):
            for reading in self.readings:
                if event_id not in reading.seen and self._is_for(reading, event_id):
                    (reading.may_miss if reading.cursor is None else reading.missed).add(event_id)

    def _is_for(self, reading: Reading, event_id: str) -> bool:
        listed = self.listed.get(event_id)
        return listed is None or reading.app in {"", listed.app}

    def answered(self, reading: Reading, reply: Reply, missed_before: Iterable[str]) -> None:
        """Check a page. The events of `missed_before` were removed unread before the app asked for the page."""
        require(reply.status in {0, 200, 410, 503}, f"the feed answers {reply.status} {reply.body}")
        if reply.status == 410:
            missed = reading.missed | reading.may_miss
            require(missed, f"the feed of {reading.app or 'all'} answers 410, and nothing was removed unread")
            reading.start_again()
        if reply.status != 200:
            return
        require(not missed_before, f"the feed of {reading.app or 'all'} passes over {sorted(missed_before)}")
        for one in reply.body["items"]:
            self._read(reading, one)
        reading.cursor = reply.body["next_cursor"]

    def _read(self, reading: Reading, event: Any) -> None:
        event_id = event["id"]
        listed = self.listed.get(event_id)
        require(listed is not None, f"the feed lists {event_id}, which has no number")
        assert listed is not None
        require(reading.app in {"", listed.app}, f"the feed of {reading.app} has an event of {listed.app}")
        require(event_id not in reading.seen, f"the feed repeats {event_id}")
        require(listed.number > reading.last, f"the feed lists {event_id} after a later event")
        reading.seen.add(event_id)
        reading.missed.discard(event_id)  # the event was removed while the answer was under way
        reading.last = listed.number

    def at_end(self, state: Snapshot) -> None:
        """Check that every event that is still stored was read."""
        for key, row in state.events.items():
            require(row["number"] is not None, f"the event {key} has no number")
        stored = {orjson.loads(row["payload"])["id"] for row in state.events.values()}
        for reading in self.readings:
            own = {one for one in stored if self._is_for(reading, one)}
            require(own <= reading.seen, f"the feed of {reading.app or 'all'} lacks {own - reading.seen}")
