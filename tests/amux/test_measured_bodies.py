"""The answers of a real amux server, with four vendors. `amux_bodies.json` holds them as they came.

The expected values are written by hand, from what each body says.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.amux.wire import created_task, observe
from bridge.core.model import Observation, Problem, TaskRecord, TaskStatus, TransientError, VideoMetadata

BODIES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("amux_bodies.json").read_text())
BASE = "http://localhost:3000"
GENERIC, ALIAS = "GET /v1/video/generations/{task_id}", "GET /v1/videos/{task_id}"
FILES = "http://127.0.0.1:9801/files"

VIDU: dict[str, Any] = {"model": "viduq1", "platform": "52"}
KLING: dict[str, Any] = {"model": "kling-v1", "platform": "50"}
SORA: dict[str, Any] = {"model": "sora-2", "platform": "55"}
SORA_ALIAS: dict[str, Any] = {"model": "sora-2"}
DOUBAO_ALIAS: dict[str, Any] = {"model": "doubao-seedance-1-0-pro-250528"}
SORA_VIDEO = VideoMetadata(duration=4, width=720, height=1280)
KLING_VIDEO = VideoMetadata(duration=5.1)
SENSITIVE = "The request failed because the output video may contain sensitive information."
MODERATION = "Your request was blocked by our moderation system."


def queued(at: float, progress: int = 0, **origin: Any) -> TaskRecord:
    return TaskRecord(TaskStatus.QUEUED, progress, submitted_at=at, **origin)


def unknown(at: float, **origin: Any) -> TaskRecord:
    """Returns the record of a waiting task for which amux says "unknown" on the alias, as with some vendors."""
    return TaskRecord(TaskStatus.UNKNOWN, 0, raw_status="unknown", submitted_at=at, **origin)


def running(at: float, progress: int, **origin: Any) -> TaskRecord:
    return TaskRecord(TaskStatus.IN_PROGRESS, progress, submitted_at=at, **origin)


def done(
    at: float, until: float | None, video: str | None = None, metadata: VideoMetadata | None = None, **origin: Any
) -> TaskRecord:
    url = f"{FILES}/{video}.mp4?sig=abc%2F%3D" if video else None
    container = "mp4" if video else None
    times = {"submitted_at": at, "finished_at": until}
    return TaskRecord(TaskStatus.COMPLETED, 100, url, container, metadata, **times, **origin)  # type: ignore[arg-type]


def failed(at: float, until: float | None, code: str | None, message: str | None, **origin: Any) -> TaskRecord:
    error = Problem(code, message)
    return TaskRecord(TaskStatus.FAILED, 100, error=error, submitted_at=at, finished_at=until, **origin)


LIVE_QUEUED = TaskRecord(TaskStatus.QUEUED, live=True)
LIVE_RUNNING = TaskRecord(TaskStatus.IN_PROGRESS, live=True)
NO_RECORD = TransientError("no_record", "amux answered without a record of the task")

EXPECTED: Mapping[str, tuple[Observation, Observation]] = {
    # case: (on the generic route, on the alias)
    "vidu success: young": (queued(1795865308, **VIDU), unknown(1795865308)),
    "kling success: young": (queued(1795865308, **KLING), unknown(1795865308.601)),
    "sora success: young": (queued(1795865308, **SORA), queued(1795865308, **SORA_ALIAS)),
    "doubao success: young": (LIVE_QUEUED, queued(1795865309, 10, **DOUBAO_ALIAS)),
    "vidu success: over": (
        done(1795865308, 1795865317, "vidu-000005", **VIDU),
        done(1795865308, 1795865317, "vidu-000005"),
    ),
    "kling success: over": (
        done(1795865308, 1795865318, "kling-000004", KLING_VIDEO, **KLING),
        done(1795865308.601, 1795865318.756, "kling-000004", KLING_VIDEO),
    ),
    "doubao success: over": (
        TaskRecord(TaskStatus.COMPLETED, None, f"{FILES}/doubao-000007.mp4?sig=abc%2F%3D", "mp4", live=True),
        done(1795865309, 1795865319, "doubao-000007", **DOUBAO_ALIAS),
    ),
    # The URL is amux's own content route, which needs the key, so it is not read.
    "sora success: over": (
        done(1795865308, 1795865321, None, SORA_VIDEO, **SORA),
        done(1795865308, 1795865321, None, SORA_VIDEO, **SORA_ALIAS),
    ),
    "vidu failed: young": (queued(1795865326, **VIDU), unknown(1795865326)),
    "sora failed: young": (queued(1795865326, **SORA), queued(1795865325, **SORA_ALIAS)),
    "doubao failed: young": (LIVE_QUEUED, queued(1795865326, 10, **DOUBAO_ALIAS)),
    "kling failed: young": (queued(1795865326, **KLING), unknown(1795865326.328)),
    "doubao failed: over": (
        TaskRecord(TaskStatus.FAILED, error=Problem(None, SENSITIVE), live=True),
        failed(1795865326, 1795865336, "OutputVideoSensitiveContentDetected", SENSITIVE, **DOUBAO_ALIAS),
    ),
    "sora failed: over": (
        failed(1795865326, 1795865339, "moderation_blocked", MODERATION, **SORA),
        failed(1795865325, None, "moderation_blocked", MODERATION, **SORA_ALIAS),
    ),
    "vidu failed: over": (
        failed(1795865326, 1795865342, "TaskPromptPolicyViolation", "TaskPromptPolicyViolation", **VIDU),
        failed(1795865326, 1795865342, "TaskPromptPolicyViolation", "TaskPromptPolicyViolation"),
    ),
    # Kling's `code` belongs to the request. The task has no code.
    "kling failed: over": (
        failed(1795865326, 1795865340, None, "The content may contain sensitive words", **KLING),
        failed(1795865326.328, 1795865340.89, None, "The content may contain sensitive words"),
    ),
    "sora expired: young": (queued(1795865543, **SORA), queued(1795865543, **SORA_ALIAS)),
    "doubao expired: young": (LIVE_QUEUED, queued(1795865543, 10, **DOUBAO_ALIAS)),
    "doubao cancelled: young": (LIVE_QUEUED, queued(1795865543, 10, **DOUBAO_ALIAS)),
    "sora cancelled: young": (queued(1795865543, **SORA), queued(1795865543, **SORA_ALIAS)),
    "sora expired: over": (
        failed(1795865543, 1795865550, None, "upstream returned unrecognized message", **SORA),
        failed(1795865543, None, None, None, **SORA_ALIAS),
    ),
    "sora cancelled: over": (
        failed(1795865543, 1795865572, None, "task failed", **SORA),
        failed(1795865543, None, None, None, **SORA_ALIAS),
    ),
    # amux never notices that the vendor's task expired or was cancelled. Only the deadline ends such a watch.
    "doubao expired: over": (LIVE_RUNNING, running(1795865543, 30, **DOUBAO_ALIAS)),
    "doubao cancelled: over": (LIVE_RUNNING, running(1795865543, 30, **DOUBAO_ALIAS)),
    "kling nourl: young": (queued(1795865645, **KLING), unknown(1795865645.297)),
    "vidu nourl: young": (queued(1795865645, **VIDU), unknown(1795865645)),
    "doubao nourl: young": (LIVE_QUEUED, running(1795865646, 50, **DOUBAO_ALIAS)),
    "doubao nourl: over": (
        TaskRecord(TaskStatus.COMPLETED, format="mp4", live=True),
        done(1795865646, 1795865653, **DOUBAO_ALIAS),
    ),
    "kling nourl: over": (done(1795865645, 1795865661, **KLING), done(1795865645.297, 1795865661.499)),
    "vidu nourl: over": (done(1795865645, 1795865668, **VIDU), done(1795865645, 1795865668)),
    # The bodies after a vendor's trouble. On the alias, Sora's last body takes the place of the record.
    "trouble sora http500: after": (
        failed(1795865883, 1795865919, "E500", "upstream returned error", **SORA),
        NO_RECORD,
    ),
    "trouble sora http429: after": (
        failed(1795865883, 1795865920, "E429", "upstream returned error", **SORA),
        NO_RECORD,
    ),
    "trouble sora garbage: after": (queued(1795865884, **SORA), queued(1795865884, **SORA_ALIAS)),
    "trouble kling http500: after": (queued(1795865884, **KLING), unknown(1795865884.023)),
    "trouble kling http429: after": (queued(1795865884, **KLING), unknown(1795865884.046)),
    "trouble kling garbage: after": (queued(1795865884, **KLING), unknown(1795865884.08)),
    "trouble doubao http500: after": (LIVE_RUNNING, running(1795865884, 30, **DOUBAO_ALIAS)),
    "trouble doubao http429: after": (LIVE_RUNNING, running(1795865884, 30, **DOUBAO_ALIAS)),
    # amux could not read the vendor's answer, and fell back to its own row.
    "trouble doubao garbage: after": (
        queued(1795865884, platform="54", **DOUBAO_ALIAS),
        unknown(1795865884, **DOUBAO_ALIAS),
    ),
}
POLLS = [entry for entry in BODIES if "route" in entry]
CREATED = [entry for entry in BODIES if entry["case"].endswith("created")]


def task_in(body: dict[str, Any]) -> str:
    record = body.get("data") or body
    return str(record.get("task_id") or record["id"])


@pytest.mark.parametrize("entry", POLLS, ids=lambda entry: f"{entry['case']} {entry['route']}")
def test_each_measured_answer_is_read_fully(entry: dict[str, Any]) -> None:
    raw = json.dumps(entry["body"]).encode()
    read = observe(entry["status"], entry["content_type"], raw, task_id=task_in(entry["body"]), base_url=BASE)
    assert read == EXPECTED[entry["case"]][(GENERIC, ALIAS).index(entry["route"])]


def test_every_measured_answer_has_its_expected_value() -> None:
    polled = {entry["case"] for entry in POLLS}
    created = {entry["case"] for entry in CREATED}
    # The other entries name the tasks of the vendors' troubles, whose answers have cases of their own.
    named = {entry["case"] for entry in BODIES if isinstance(entry.get("answer"), str)}
    assert polled == set(EXPECTED)
    assert len(POLLS) == 2 * len(EXPECTED)
    assert len(polled | created | named) == len({entry["case"] for entry in BODIES})
    assert {f"{case}: after" for case in named} <= polled


@pytest.mark.parametrize("entry", CREATED, ids=lambda entry: str(entry["case"]))
def test_the_task_of_each_measured_create_call_is_found(entry: dict[str, Any]) -> None:
    assert created_task(json.dumps(entry["answer"]).encode()) == entry["answer"]["task_id"]


def test_nothing_else_of_a_measured_body_leaves_the_bridge() -> None:
    for entry in POLLS:
        raw = json.dumps(entry["body"]).encode()
        shown = repr(observe(200, "application/json", raw, task_id=task_in(entry["body"]), base_url=BASE))
        for private in ("hidden", "default", "textGenerate", "sora-0000", "'r'", "20000", "5000", "108900"):
            assert private not in shown
