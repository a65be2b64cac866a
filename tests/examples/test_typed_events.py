"""The types of events are made from the bridge's models, match real events, and are used by the examples."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from bridge.core.event import PING_TYPE
from bridge.core.model import EventType
from bridge.core.operations import NoticeType
from bridge.web.api.samples import recorded
from tests.examples.harness import EXAMPLES
from tests.examples.typed_events import EVENTS, PYTHON, TYPESCRIPT, Python, TypeScript
from tests.programs import npm_install, program

RECEIVERS = EXAMPLES / "receivers"


def test_the_files_are_what_the_bridges_models_make() -> None:
    again = "run: python -m tests.examples.typed_events"
    assert PYTHON.read_text("utf-8") == Python().file(), again
    assert TYPESCRIPT.read_text("utf-8") == TypeScript().file(), again


def test_the_types_are_true_of_a_real_event_of_each_type() -> None:
    names = runpy.run_path(str(PYTHON))
    by_type = {kind: names[name] for name in EVENTS for kind in get_args(get_type_hints(names[name])["type"])}
    assert set(by_type) == {*EventType, PING_TYPE, *NoticeType} == set(recorded()["events"])
    for kind, event in recorded()["events"].items():
        assert set(event) == set(by_type[kind].__annotations__)
        assert set(event["data"]) == set(by_type[kind].__annotations__["data"].__annotations__)


def test_the_examples_use_the_types() -> None:
    for path in (*RECEIVERS.glob("*_receiver.py"), EXAMPLES / "apps/app_httpx.py"):
        assert "from events import " in path.read_text(), path.name
    for path in (*RECEIVERS.glob("*.mjs"), EXAMPLES / "apps/app_fetch.mjs"):
        assert '/events.ts").VideoEvent' in path.read_text(), path.name


@pytest.mark.long
def test_the_python_examples_are_correct_for_a_type_checker() -> None:
    examples = sorted([*RECEIVERS.glob("*.py"), EXAMPLES / "apps/app_httpx.py"])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--ignore-missing-imports",
            "--allow-untyped-decorators",
            "--config-file=",
            *map(str, examples),
        ],
        env={"MYPYPATH": str(RECEIVERS), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_the_typescript_types_are_true_of_real_events(tmp_path: Path) -> None:
    program("node", "nodejs")
    npm_install(tmp_path, "typescript@5")
    (tmp_path / "events.ts").write_text(TYPESCRIPT.read_text())
    events = json.dumps(list(recorded()["events"].values()))
    (tmp_path / "check.ts").write_text(
        f'import type {{ Event }} from "./events";\nconst events: Event[] = {events};\n'
        'for (const event of events) if (event.type === "video.completed") console.log(event.data.task_id);\n'
    )
    command = [str(tmp_path / "node_modules/.bin/tsc"), "--strict", "--noEmit", "check.ts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
