"""The demo's tasks: how each runs at the amux stand-in, and the event that the receiver must get."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_SECONDS = 3.5  # of the task that never ends: a second after the other tasks have ended


@dataclass(frozen=True, slots=True)
class DemoTask:
    """One task of the demo. `timeout_seconds` is the watch's timeout; None means the bridge's default.

    `sandbox` is the task's behaviour at the stand-in. `failed_attempts` is how many attempts of its callback the
    receiver answers with an error before it accepts one.
    """

    prompt: str
    description: str
    expected_event: str
    sandbox: Mapping[str, Any]
    timeout_seconds: float | None = None
    failed_attempts: int = 0


DEMO_TASKS: Final = (
    DemoTask(
        "a lighthouse in a storm",
        "completes; amux answers in its documented form",
        "video.completed",
        {"form": "A", "queue_seconds": 0.3, "run_seconds": 0.8},
    ),
    DemoTask(
        "paper boats on a river",
        "completes; amux answers in the vendor's live form",
        "video.completed",
        {"form": "B", "queue_seconds": 0.3, "run_seconds": 1.2},
    ),
    DemoTask(
        "a fox in the first snow",
        "completes; the receiver fails at the first attempt",
        "video.completed",
        {"form": "C", "queue_seconds": 0.3, "run_seconds": 1.5},
        failed_attempts=1,
    ),
    DemoTask(
        "rain on a tin roof",
        "completes; amux answers in OpenAI's video form",
        "video.completed",
        {"form": "D", "queue_seconds": 0.3, "run_seconds": 1.9},
    ),
    DemoTask(
        "dancers in slow motion",
        "completes; the form changes, with a proxy's error page between",
        "video.completed",
        {"form": "CADB", "queue_seconds": 0.3, "run_seconds": 2.2, "faults": ["bad_gateway_html", "truncated_json"]},
    ),
    DemoTask(
        "something amux will not draw",
        "fails",
        "video.failed",
        {"form": "C", "queue_seconds": 0.3, "run_seconds": 1.0, "outcome": "failed"},
    ),
    DemoTask(
        "a film without an end",
        f"never ends; its watch times out after {TIMEOUT_SECONDS:g} s",
        "video.timed_out",
        {"form": "C", "queue_seconds": 0.3, "run_seconds": 6.0, "outcome": "never"},
        timeout_seconds=TIMEOUT_SECONDS,
    ),
)
