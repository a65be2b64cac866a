"""Reads JSON as the answer to a poll, for the tests of records."""

import json
from typing import Any

from bridge.amux.wire import observe
from bridge.core.batch_lane import BatchAnswer, BatchObservation
from bridge.core.model import Observation, TaskRecord

TASK = "task_1:a"
BASE = "https://api.amux.example/proxy"
DONE = {"task_id": TASK, "status": "completed"}
URL = "https://v.example/a.mp4?sig=1#t"


def read(body: Any) -> Observation:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return observe(200, "application/json", raw, task_id=TASK, base_url=BASE)


def record_of(body: Any) -> TaskRecord:
    observation = read(body)
    assert isinstance(observation, TaskRecord), observation
    return observation


def records_in(observation: BatchObservation) -> dict[str, TaskRecord]:
    """The whole records of a batch answer by task id."""
    assert isinstance(observation, BatchAnswer), observation
    records = {task_id: observation.record_of(task_id) for task_id in [*observation.records, *observation.running]}
    assert len(records) == observation.count
    return {task_id: record for task_id, record in records.items() if record is not None}
