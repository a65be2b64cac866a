"""Classes of tasks: tasks of one class take similarly long.

amux gives the platform and the model of a task in its record. Before the first record, the class is named by the app's
own `model`, or by the credential if there is no `model`. There are at most `MAX_CLASSES` classes, in memory and in the
store. The rarest classes share the class `OTHER`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge.core.learned_schedule import MIN_ENDS, History, merged, with_end
from bridge.core.schedule import PollPolicy

MAX_CLASSES = 300
MAX_MODEL = 191  # characters
OTHER = "other"
FORGET_SECONDS = 30 * 86_400.0  # a class that has no end in this time is forgotten
_BY_APP = "app "
_BY_RECORD = "amux "
_NONE = "-"
_MAX_PLATFORM = 32  # characters; amux's platforms are short numbers


def check_model(text: str) -> str:
    """Returns the name of a model if it is short and can be shown. Raises ValueError."""
    if not 1 <= len(text) <= MAX_MODEL or not text.isprintable():
        raise ValueError(f"must be 1 to {MAX_MODEL} printable characters")
    return text


def class_by_record(platform: str | None, model: str | None) -> str | None:
    """Returns the class that amux's record names; None when it names neither a platform nor a model."""
    if platform is None and model is None:
        return None
    return f"{_BY_RECORD}{(platform or _NONE)[:_MAX_PLATFORM]} {(model or _NONE)[:MAX_MODEL]}"


def platform_by_record(name: str) -> str | None:
    """Returns the platform in the name of a class that amux's record named; None for any other class."""
    if not name.startswith(_BY_RECORD):
        return None
    platform = name.removeprefix(_BY_RECORD).partition(" ")[0]
    return None if platform == _NONE else platform


def class_by_app(model: str) -> str:
    """Returns the class that the app's own `model` names."""
    return f"{_BY_APP}{model[:MAX_MODEL]}"


def model_by_app(name: str) -> str | None:
    """Returns the model in the name of a class that an app named; None for any other class."""
    return name.removeprefix(_BY_APP) if name.startswith(_BY_APP) else None


def class_by_credential(credential: str) -> str:
    """Returns the class of a credential's tasks with an unknown model. `credential` is its name, not the key."""
    return f"key {credential}"


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How long one task of a class took. Ages are seconds; see `with_end`."""

    name: str
    after: float
    until: float
    polls: int | None
    polled_from: float = 0.0
    poll_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ClassHistory:
    """The history of a class, and when its last end was counted (Unix seconds)."""

    history: History = field(default_factory=History)
    last_end_at: float = 0.0


def with_task_end(
    classes: Mapping[str, ClassHistory], end: TaskEnd, policy: PollPolicy, now: float
) -> dict[str, ClassHistory | None]:
    """Returns the classes that a task's end changes. None means that the class is removed, and is now in `OTHER`."""
    changed: dict[str, ClassHistory | None] = {}
    known = classes.get(end.name, ClassHistory())
    if end.name not in classes and (rarest := class_to_remove(classes)) is not None:
        other = classes.get(OTHER, ClassHistory())
        gone = classes[rarest]
        both = ClassHistory(merged(other.history, gone.history), max(other.last_end_at, gone.last_end_at))
        changed = {rarest: None, OTHER: both}
        known = both if end.name == OTHER else known
    history = with_end(known.history, end.after, end.until, end.polls, policy, end.polled_from, end.poll_seconds)
    return changed | {end.name: ClassHistory(history, now)}


def class_to_remove(classes: Mapping[str, ClassHistory]) -> str | None:
    """Returns the class that makes room for a new one, None when there is room.

    It is the class whose last end is the oldest. Classes with too few ends to be used are removed before all others.
    """
    # `OTHER` needs a place as well.
    if len(classes.keys() - {OTHER}) < MAX_CLASSES - 1:
        return None
    candidates = [(name, one) for name, one in classes.items() if name != OTHER]
    unused = [(name, one) for name, one in candidates if one.history.ends < MIN_ENDS]
    return min(unused or candidates, key=lambda item: (item[1].last_end_at, item[0]))[0]
