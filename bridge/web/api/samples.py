"""Example requests as text: a `curl` command and a Python program with httpx. The answers are in `examples.json`.

A test sends every request of `examples.json` to a real bridge, by its command and by its program, and compares the
answers. `python -m tests.docs.test_examples` writes the file again.
"""

import json
import pprint
import shlex
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, NotRequired

from typing_extensions import TypedDict

from bridge.web.requests import JSON

TOKENS: Final = {"app": "BRIDGE_TOKEN", "operator": "BRIDGE_OPERATOR_TOKEN"}
LOCAL: Final = "http://127.0.0.1:8080"  # for a bridge without a public URL
Kind = Literal["json", "text", "bytes", "events"]


class Request(TypedDict):
    """A request of `examples.json`. `path` includes the query. `answer` is how its answer is read."""

    method: str
    path: str
    caller: Literal["app", "operator"] | None
    headers: NotRequired[dict[str, str]]
    body: NotRequired[Any]
    answer: Kind


class Answer(TypedDict):
    """An answer of `examples.json`: JSON, or text."""

    status: int
    value: Any


class Example(TypedDict):
    """A request and its answer."""

    request: Request
    answer: Answer


class Examples(TypedDict):
    """The whole file: by operation (`POST /watch`), by the code of an error, and by the type of an event."""

    operations: dict[str, Example]
    errors: dict[str, dict[str, Any]]
    events: dict[str, dict[str, Any]]


@cache
def recorded() -> Examples:
    """Returns the file's content."""
    content: Examples = json.loads(files("bridge.web.api").joinpath("examples.json").read_bytes())
    return content


def samples_of(request: Request, url: str, *, open_to_all: bool) -> list[Mapping[str, str]]:
    """Returns a request in the form of OpenAPI's extension `x-codeSamples`.

    `url` is the bridge's public URL, or "/" if it has none. With `open_to_all`, the samples send no token.
    """
    base = LOCAL if url == "/" else url.rstrip("/")
    caller = None if open_to_all else request["caller"]
    return [
        {"lang": "Shell", "label": "curl", "source": curl_of(request, base, caller)},
        {"lang": "Python", "label": "Python", "source": python_of(request, base, caller)},
    ]


def curl_of(request: Request, base: str, caller: str | None) -> str:
    """Returns a `curl` command that sends the request."""
    parts = ["curl -sN" if request["answer"] == "events" else "curl -s"]
    if request["method"] not in {"GET", "POST"} or (request["method"] == "POST" and "body" not in request):
        parts[0] += f" -X {request['method']}"
    parts[0] += f" {shlex.quote(base + request['path'])}"
    if caller is not None:
        parts.append(f'-H "Authorization: Bearer ${TOKENS[caller]}"')
    headers = dict(request.get("headers", {}))
    if "body" in request:
        headers["Content-Type"] = JSON
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]
    if "body" in request:
        parts.append(f"-d {shlex.quote(json.dumps(request['body'], ensure_ascii=False))}")
    if request["answer"] == "bytes":
        parts.append("-o video.mp4")
    return " \\\n  ".join(parts)


def python_of(request: Request, base: str, caller: str | None) -> str:
    """Returns a Python program that sends the request with httpx."""
    method = request["method"].lower()
    arguments = [json.dumps(base + request["path"])]
    headers = [f'"Authorization": f"Bearer {{os.environ[\'{TOKENS[caller]}\']}}"'] if caller is not None else []
    headers += [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in request.get("headers", {}).items()]
    if headers:
        arguments.append(f"headers={{{', '.join(headers)}}}")
    if "body" in request:
        body = pprint.pformat(request["body"], width=100, sort_dicts=False).replace("\n", "\n         ")
        arguments.append(f"json={body}")
    call = ",\n    ".join(arguments)
    imports = "import os\n\nimport httpx\n\n" if caller is not None else "import httpx\n\n"
    if request["answer"] == "events":
        return (
            f'{imports}with httpx.stream(\n    "{method.upper()}",\n    {call},\n    timeout=None,\n) as answer:\n'
            "    for line in answer.iter_lines():\n        print(line)\n"
        )
    show = {
        "json": "print(answer.status_code, answer.json())",
        "text": "print(answer.text)",
        "bytes": 'with open("video.mp4", "wb") as file:\n    file.write(answer.content)',
    }[request["answer"]]
    return f"{imports}answer = httpx.{method}(\n    {call},\n)\n{show}\n"


def pretty(value: Any, indent: int = 0, room: int = 88) -> str:
    """Returns a JSON value as text for people: an array or object is on one line if it fits. A string is unchanged."""
    if isinstance(value, str) and not indent:
        return value
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= room or not isinstance(value, dict | list) or not value:
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {pretty(one, indent + 2, room)}" for key, one in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(f"{inner}{pretty(one, indent + 2, room)}" for one in value) + "\n" + " " * indent + "]"
