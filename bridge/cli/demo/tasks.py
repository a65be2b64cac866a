"""The demo's cast: what is asked of amux, how it goes there, and what the receiver must be told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_SECONDS = 3.5  # of the film without an end: a second after the others are over


@dataclass(frozen=True, slots=True)
class DemoTask:
    """One task. `sandbox` is how it goes at the stand-in; `refusals` are the receiver's first answers to its event."""

    prompt: str
    about: str
    told: str
    sandbox: Mapping[str, Any]
    timeout_seconds: float | None = None
    refusals: int = 0


DEMO_TASKS: Final = (
    DemoTask(
        "a lighthouse in a storm",
        "told in the form of amux's document",
        "video.completed",
        {"form": "A", "queue_seconds": 0.3, "run_seconds": 0.8},
    ),
    DemoTask(
        "paper boats on a river",
        "told in the live form",
        "video.completed",
        {"form": "B", "queue_seconds": 0.3, "run_seconds": 1.2},
    ),
    DemoTask(
        "a fox in the first snow",
        "told as a record; the receiver is down at first",
        "video.completed",
        {"form": "C", "queue_seconds": 0.3, "run_seconds": 1.5},
        refusals=1,
    ),
    DemoTask(
        "rain on a tin roof",
        "told as OpenAI tells a video",
        "video.completed",
        {"form": "D", "queue_seconds": 0.3, "run_seconds": 1.9},
    ),
    DemoTask(
        "dancers in slow motion",
        "told in turns, with a proxy's error page between",
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
        f"never ends; its watch has {TIMEOUT_SECONDS:g} s",
        "video.timed_out",
        {"form": "C", "queue_seconds": 0.3, "run_seconds": 6.0, "outcome": "never"},
        timeout_seconds=TIMEOUT_SECONDS,
    ),
)
