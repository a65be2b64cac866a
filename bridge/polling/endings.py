"""What a poll leaves for the store: a status, or an ending with its events. Pure, and run by the writer's thread."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.core.event import status_event, terminal_event
from bridge.core.model import STATUS_EVENTS, Event, Observation, Problem, RefusalCounts, TaskSnapshot, Watch
from bridge.core.watch import TERMINAL, Ending, ending_after, timeout_ending
from bridge.polling.state import PolledTask
from bridge.store.records import PollNote, Settlement, StatusChange

ContentUrl = Callable[[Watch, float], str | None]
"""From a watch and the time it settled (Unix seconds) to the link to its video."""


@dataclass(slots=True)
class StatusUpdate:
    """A status that has to be written; `news` is false when only a watch's first sight of it is owed."""

    task: PolledTask
    news: bool


@dataclass(slots=True)
class PendingSettlement:
    """What may end a task's watches, kept until the store has it: the first terminal status wins.

    `observation` is None when only deadlines count; `began` is when its poll did, by the monotonic clock.
    """

    task: PolledTask
    snapshot: TaskSnapshot
    strikes: RefusalCounts
    observation: Observation | None
    began: float
    error: Problem | None
    tries: int = 0


def ending_of(watch: Watch, end: PendingSettlement, began_at: float, now: float) -> Ending | None:
    """How a watch ends: by what the poll said, else by a deadline that had passed when the poll began.

    A poll that began before the deadline was not the last one: the watch stays, and the next is.
    """
    if end.observation is not None:
        ending = ending_after(end.snapshot, end.strikes, end.observation, watch.created_at, now)
        if ending is not None:
            return ending
    if watch.deadline_at <= began_at:
        return timeout_ending(end.snapshot, end.error, watch.timeout_seconds)
    return None


def settlement(
    end: PendingSettlement, note: PollNote, began_at: float, now: float, content_url: ContentUrl
) -> Settlement:
    """The write that ends what may end; times are Unix seconds."""

    def ending(watch: Watch) -> Ending | None:
        return ending_of(watch, end, began_at, now)

    def event(watch: Watch, ending: Ending) -> Event:
        return terminal_event(watch, ending, now, content_url(watch, now))

    return Settlement(end.task.row, end.snapshot, note, now, ending, event)


def status_change(row: str, snapshot: TaskSnapshot, note: PollNote, now: float) -> StatusChange:
    """The write of a status, with its event for those who asked for one; `now` in Unix seconds."""
    event_type = STATUS_EVENTS.get(snapshot.status)
    if event_type is None:
        return StatusChange(row, snapshot, note, now)
    told = event_type

    def event(watch: Watch) -> Event:
        return status_event(watch, told, snapshot, now)

    return StatusChange(row, snapshot, note, now, event_type, event)


def is_terminal(snapshot: TaskSnapshot) -> bool:
    """Whether a task has ended at amux."""
    return snapshot.status in TERMINAL
