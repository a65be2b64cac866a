"""The examples of the OpenAPI document are real: a test sends each request again and compares the answers' form.

`python -m tests.docs.test_examples` writes the file again.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bridge.core.event import PING_TYPE
from bridge.core.model import EventType
from bridge.core.operations import NoticeType
from bridge.web import errors
from bridge.web.api import samples
from bridge.web.api.drop_in_routes import DROP_IN_ROUTES
from bridge.web.api.routes import OPEN_ROUTES, ROUTES
from tests.docs.api_examples import record
from tests.docs.example_recorder import same_form

FILE = Path(samples.__file__).with_name("examples.json")


def shown() -> Any:
    return json.loads(FILE.read_text("utf-8"))


def test_every_operation_and_every_error_code_has_an_example() -> None:
    tables: tuple[Any, ...] = (*ROUTES, *OPEN_ROUTES, *DROP_IN_ROUTES)
    assert set(shown()["operations"]) == {f"{route.method} {route.path}" for route in tables}
    assert set(shown()["errors"]) == set(errors.TITLES)
    assert set(shown()["events"]) == {*EventType, PING_TYPE, *NoticeType}


@pytest.mark.long  # a whole bridge, and about 60 requests
async def test_each_request_is_answered_with_the_form_of_the_shown_answer(tmp_path: Path) -> None:
    again: Any = await record(tmp_path)
    before = shown()
    for kind in ("operations", "errors", "events"):
        assert set(again[kind]) == set(before[kind])
        for name, example in again[kind].items():
            assert same_form(shortened(example), shortened(before[kind][name])), (name, example, before[kind][name])


def shortened(example: Any) -> Any:
    """Returns an example with only the beginning of an answer that is not JSON: metrics and the page change often."""
    if "answer" not in example or not isinstance(example["answer"]["value"], str):
        return example
    return example | {"answer": {"value": " ".join(example["answer"]["value"].split()[:2])}}


def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        examples = asyncio.run(record(Path(folder)))
    FILE.write_text(json.dumps(examples, ensure_ascii=False, indent=1) + "\n", "utf-8")
    sys.stdout.write(f"wrote {FILE.name}: {FILE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    write()
