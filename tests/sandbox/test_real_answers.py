"""The stand-in's answers have the fields and types of the real server's answers in amux_bodies.json."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.sandbox import Behaviour, Outcome, Platform, VendorAnswer
from tests.sandbox.harness import Amux

BODIES = json.loads((Path(__file__).parents[1] / "amux" / "amux_bodies.json").read_text())
ANSWERS = [each for each in BODIES if "body" in each]
CREATED = [each for each in BODIES if each["case"].endswith("created")]
PLATFORMS = {"sora": Platform.SORA, "kling": Platform.KLING, "vidu": Platform.VIDU, "doubao": Platform.DOUBAO}
MODELS = {"sora": "sora-2", "kling": "kling-v1", "vidu": "viduq1", "doubao": "doubao-seedance-1-0-pro-250528"}
# For each case: how the vendor's task ends, and whether the vendor gives a URL.
CASES: dict[str, dict[str, Any]] = {
    "success": {},
    "failed": {"outcome": Outcome.FAILED},
    "cancelled": {"outcome": Outcome.CANCELLED},
    "expired": {"outcome": Outcome.EXPIRED},
    "nourl": {"url": None},
}
TROUBLE = {"http500": VendorAnswer.ERROR, "http429": VendorAnswer.ERROR, "garbage": VendorAnswer.UNREACHABLE}


def shape(value: Any, path: str = "$") -> dict[str, str]:
    """Returns the type of each field by its path. For a text of the protocol it has the text itself."""
    match value:
        case dict():
            found = {path: "object"}
            for name, member in value.items():
                found |= shape(member, f"{path}.{name}")
            return found
        case list():
            return {path: "array"} | (shape(value[0], f"{path}[]") if value else {})
        case str() if path.rpartition(".")[2] in {
            "status",
            "code",
            "state",
            "task_status",
            "object",
            "platform",
            "action",
        }:
            return {path: value if "error" not in path else "str"}
        case int() if path.rpartition(".")[2].endswith(("_at", "_time")):
            return {path: f"integer of {len(str(value))} digits"}
        case _:
            return {path: type(value).__name__}


@pytest.mark.parametrize(
    "real", ANSWERS, ids=[f"{each['case']} {each['route'].rpartition('/v1/')[2]}" for each in ANSWERS]
)
async def test_each_answer_has_the_fields_and_types_of_the_real_one(amux: Amux, real: Any) -> None:
    vendor, what = real["case"].removeprefix("trouble ").partition(":")[0].split()
    behaviour = Behaviour(queue_seconds=5, run_seconds=5, platform=PLATFORMS[vendor], **CASES.get(what, {}))
    data = real["body"].get("data", real["body"])
    if data.get("start_time"):
        behaviour = replace(behaviour, run_seconds=20)  # so long that the sweep after 15 s sees it running
    amux.sandbox.vendor_outage = TROUBLE.get(what)
    task_id = amux.sandbox.create_task(behaviour, model=MODELS[vendor])
    if not real["case"].endswith("young"):
        amux.clock.now += 60
    elif data["status"] == "in_progress":
        amux.clock.now += 6
    status, headers, body = await amux.get(real["route"].removeprefix("GET ").format(task_id=task_id))
    assert (status, headers["Content-Type"].partition(";")[0]) == (real["status"], real["content_type"])
    assert shape(json.loads(body)) == shape(real["body"])


@pytest.mark.parametrize("real", CREATED, ids=[each["case"] for each in CREATED])
async def test_each_create_call_is_answered_with_the_fields_of_the_real_one(amux: Amux, real: Any) -> None:
    vendor = real["case"].removeprefix("drop-in ").partition(":")[0]
    fields = {"model": MODELS[vendor], "prompt": "a cat", "sandbox": {"platform": vendor}}
    status, body = await amux.create("/v1/videos", json=fields)
    assert (status, shape(body)) == (200, shape(real["answer"]))
