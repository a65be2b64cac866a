"""One shell runs all commands of docs/api.md, and each answer has the form of the answer on the page.

`python -m tests.docs.test_api` writes the answers of the page again.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.docs.harness import DOCS, QUICK, Workspace, open_workspace, page_name, text
from tests.programs import program

PAGE = DOCS / "api.md"
# A command, and the answer after it if the page shows one.
STEP = re.compile(r"^```sh\n(.*?)^```\n(?:\n```(?:json|text)\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NEXT = "--- next ---"
# Patterns of what differs from run to run. A time becomes TIME, so a null in its place is still a difference.
MASKS = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z": "TIME",
    r"127\.0\.0\.1:\d+": "HOST",
    r"\b(wat|evt|task|cursor)_[0-9a-z]+": r"\1_ID",
    r"v1,[A-Za-z0-9+/=]+": "SIGNATURE",
    r"sandbox0+\d+": "REQUEST",
}


def masked(value: str) -> str:
    for pattern, mask in MASKS.items():
        value = re.sub(pattern, mask, value)
    return value


def form_of(value: Any, text_form: Callable[[str], str] = masked) -> Any:
    """Returns a JSON value with masks for what differs from run to run. Every number becomes the text NUMBER."""
    match value:
        case dict():
            return {key: form_of(inner, text_form) for key, inner in value.items()}
        case list():
            return [form_of(inner, text_form) for inner in value]
        case bool() | None:
            return value
        case int() | float():
            return "NUMBER"
        case _:
            return text_form(value)


def form_of_text(printed: str) -> Any:
    """Returns the form of a JSON answer, or the form of each line if the answer is not JSON."""
    try:
        return form_of(json.loads(printed))
    except ValueError:
        return [re.sub(r"\d+(\.\d+)?$", "NUMBER", masked(line)) for line in printed.strip().splitlines() if line]


async def run_tour(workspace: Workspace) -> list[str]:
    """Runs all steps of the page in one shell. Returns what each step prints."""
    script = "".join(f"{command}echo '{NEXT}'\n" for command, _ in STEP.findall(text(PAGE)))
    printed = await workspace.run(script)
    return [part.strip("\n") for part in printed.split(f"{NEXT}\n")[:-1]]


async def test_each_request_of_the_tour_has_the_answer_that_is_shown(workspace: Workspace) -> None:
    program("curl", "curl")
    steps = STEP.findall(text(PAGE))
    answers = await run_tour(workspace)
    assert len(answers) == len(steps) > 20
    for (command, shown), answer in zip(steps, answers, strict=True):
        assert form_of_text(answer) == form_of_text(shown), command
    headings = set(re.findall(r"^#{2,3} `([A-Z]+ /\S*)`$", text(PAGE), re.MULTILINE))
    described = json.loads((workspace.folder / "openapi.json").read_text())["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert headings - {"GET /"} == routes


# --- writing the answers ------------------------------------------------------------------------------------------


def shown_answer(answer: str) -> str:
    """Returns an answer as a block of the page."""
    if not answer:
        return ""
    try:
        return f"\n```json\n{compact(json.loads(answer))}\n```\n"
    except ValueError:
        return f"\n```text\n{answer}\n```\n"


def compact(value: Any, indent: int = 0, room: int = 116) -> str:
    """Returns indented JSON. A value that fits on one line is not divided."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= room or not isinstance(value, dict | list) or not value:
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {compact(one, indent + 2, room)}" for key, one in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(f"{inner}{compact(one, indent + 2, room)}" for one in value) + "\n" + " " * indent + "]"


async def write_answers() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_workspace(Path(folder)) as workspace:
            # Uses the default delays, as a reader does.
            workspace.environ = {name: value for name, value in workspace.environ.items() if name not in QUICK}
            answers = iter(await run_tour(workspace))
            ports = {str(workspace.port): "8080", str(workspace.hook_port): "9000"}

    def replaced(step: re.Match[str]) -> str:
        answer = next(answers)
        for ours, documented in ports.items():
            answer = answer.replace(f"127.0.0.1:{ours}", f"127.0.0.1:{documented}")
        return f"```sh\n{step[1]}```\n{shown_answer(answer)}"

    PAGE.write_text(STEP.sub(replaced, text(PAGE)), "utf-8")
    sys.stdout.write(f"wrote the answers in {page_name(PAGE)}\n")


if __name__ == "__main__":
    asyncio.run(write_answers())
