"""The classes of tasks. All tasks of a class share one object."""

from bridge.core.learned_schedule import LearnedSchedule
from bridge.core.task_class import platform_by_record


class TaskClass:
    """A class of tasks. `schedule` is None as long as the fixed schedule applies to its tasks.

    `model` and `platform` are from amux's record. `from_record`: the name of the class is from amux's record.
    """

    __slots__ = ("from_record", "model", "name", "platform", "schedule", "stored_name")

    schedule: LearnedSchedule | None

    def __init__(
        self, name: str, model: str | None = None, *, from_record: bool = False, stored_name: str | None = None
    ) -> None:
        self.name = name
        self.model = model
        self.platform = platform_by_record(name)
        self.from_record = from_record
        self.stored_name = stored_name  # None for the class of a credential, because the task's row has the credential
        self.schedule = None


NO_CLASS = TaskClass("")
