"""What single reads of a task that still runs change: its snapshot, its class and the time of its submission."""

from random import Random

import pytest

from bridge.core.model import Observation, TaskNotFound, TaskRecord, TaskSnapshot, TaskStatus, TransientError
from bridge.core.task_class import class_by_record
from bridge.core.watch import snapshot_after
from tests.polling.harness import Harness
from tests.polling.virtual import VirtualPoller

TROUBLES: list[Observation] = [TransientError("http_502", "no"), TaskNotFound("no")]
PROGRESSES = [0, 10, 40, 41, 100, 130]
NAMES = [
    ("kling-v1", "50"),
    ("kling-v1", "50"),
    ("kling-v1", "50"),
    ("kling-v2", "50"),
    ("kling-v1", "51"),
    ("m" * 300, "50"),
    (None, None),
]


def answer(random: Random, progress: int | None) -> Observation:
    """Returns trouble, or a record whose progress is not `progress`."""
    if random.random() < 0.1:
        return random.choice(TROUBLES)
    status = random.choice([TaskStatus.IN_PROGRESS] * 6 + [TaskStatus.QUEUED])
    model, platform = random.choice(NAMES)
    submitted_at = random.choice([None, None, None, 900.0])
    new = random.choice([each for each in PROGRESSES if each != progress])
    return TaskRecord(status, new, model=model, platform=platform, submitted_at=submitted_at)


@pytest.mark.parametrize("seed", range(20))
async def test_after_any_answers_a_running_task_is_as_its_records_say(harness: Harness, seed: int) -> None:
    random = Random(seed)
    virtual = VirtualPoller.of(harness, learn=False, random=random.random)
    await virtual.start("task_1", 86_000.0)
    [row] = virtual.poller._tasks
    snapshot, name, submitted_at = TaskSnapshot(), None, None
    for _ in range(60):
        observation = answer(random, snapshot.progress)
        virtual.amux.answers["task_1"] = [observation]
        polls = len(virtual.amux.polled["task_1"])
        await virtual.run(lambda: len(virtual.amux.polled["task_1"]) > polls and virtual._is_waiting())  # noqa: B023
        snapshot = snapshot_after(snapshot, observation)
        if isinstance(observation, TaskRecord):
            name = class_by_record(observation.platform, observation.model) or name
            submitted_at = submitted_at or observation.submitted_at
        live = virtual.poller.live(row)
        assert live is not None
        assert (live.snapshot, live.facts.task_class, live.facts.submitted_at) == (snapshot, name, submitted_at)
        assert live.failures == 0 or not isinstance(observation, TaskRecord)
