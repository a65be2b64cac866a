"""Reads JSON as the answer to a poll, for the tests of records."""

import json
from typing import Any

from bridge.amux.wire import observe
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
