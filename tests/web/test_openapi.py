"""The OpenAPI document, the page made of it, and schemathesis, which tests the bridge against the document."""

import asyncio
import base64
import hashlib
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from bridge.core.event import ping_payload
from bridge.core.model import EventType
from bridge.core.operations import NoticeType
from bridge.sandbox import Behaviour, Sandbox
from bridge.web.api.drop_in_routes import DROP_IN_ROUTES
from bridge.web.api.response_models import EventBody, PingBody
from bridge.web.api.routes import OPEN_ROUTES, ROUTES
from bridge.web.context import DropIn, StreamTimes
from tests.web.harness import APP, OPERATOR, Bridge, running_bridge

NO_TOKEN = {"Authorization": ""}


async def document(bridge: Bridge) -> Any:
    answer = await bridge.get("/openapi.json", headers=NO_TOKEN)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    return answer.json


async def test_the_document_has_every_route_of_the_table_and_no_other(bridge: Bridge) -> None:
    openapi = await document(bridge)
    assert openapi["openapi"] == "3.1.0"
    assert openapi["servers"] == [{"url": "/"}]
    routes = {(route.method, route.path) for route in ROUTES} | {(route.method, route.path) for route in OPEN_ROUTES}
    assert {(method.upper(), path) for path, methods in openapi["paths"].items() for method in methods} == routes
    names = [operation["operationId"] for methods in openapi["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


async def test_the_document_has_drop_in_creation_when_it_is_on(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, drop_in=DropIn(), public_url="https://bridge.example") as bridge:
        openapi = await document(bridge)
    assert {route.path for route in DROP_IN_ROUTES} < openapi["paths"].keys()
    assert openapi["servers"] == [{"url": "https://bridge.example"}]
    headers = {one["name"] for one in openapi["paths"]["/v1/videos"]["post"]["parameters"]}
    assert {"X-Callback-Url", "X-Callback-Context", "X-Callback-Events", "X-Callback-Timeout"} < headers


async def test_the_document_has_every_event_as_a_webhook(bridge: Bridge) -> None:
    openapi = await document(bridge)
    assert list(openapi["webhooks"]) == [*EventType, "bridge.ping", *NoticeType]
    watch = await bridge.watch(context={"a": 1})
    await bridge.settle(watch["id"])
    event = (await bridge.get(f"/watch/{watch['id']}/envelope")).body
    for model, body in ((EventBody, event), (PingBody, ping_payload("evt_" + "a" * 32, 1_795_446_245.5))):
        assert TypeAdapter(model).validate_json(body, strict=True)
        schema = openapi["components"]["schemas"][model.__name__]
        assert set(schema["properties"]) == set(json.loads(body))
        assert set(schema["required"]) == set(json.loads(body))


async def test_the_document_says_which_routes_require_a_token(bridge: Bridge) -> None:
    openapi = (await document(bridge))["paths"]
    assert openapi["/watch"]["post"]["security"] == [{"token": []}]
    assert openapi["/watch/{id}/content"]["get"]["security"] == [{"token": []}, {}]
    assert openapi["/healthz"]["get"]["security"] == []


async def test_the_document_of_a_bridge_without_tokens_requires_none(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tokens={}, operators={}) as bridge:
        openapi = await document(bridge)
    assert all(not one["security"] for methods in openapi["paths"].values() for one in methods.values())


async def test_the_document_has_the_configured_limits(bridge: Bridge) -> None:
    request = (await document(bridge))["components"]["schemas"]["WatchRequestBody"]
    seconds = request["properties"]["timeout_seconds"]
    assert (seconds["default"], seconds["anyOf"][0]["maximum"]) == (600.0, 3600.0)
    assert request["additionalProperties"] is False
    assert request["required"] == ["task_id", "callback_url"]
    assert request["properties"]["secret"]["anyOf"][0]["writeOnly"]


async def test_an_app_that_filters_by_another_app_finds_nothing(bridge: Bridge) -> None:
    watch = await bridge.watch()
    assert (await bridge.get("/watch?app=shop")).json["items"] == [watch]
    assert (await bridge.get("/watch?app=lab")).json == {"items": [], "next_cursor": None}
    assert (await bridge.get("/watch?app=shop", headers=OPERATOR)).json["items"] == [watch]


# --- the page -----------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects a page's tags, links and anchors. Fails on a closing tag without its opening tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        attributes = dict(attrs)
        assert not {"src", "style", "onclick"} & set(attributes)
        if "id" in attributes:
            self.anchors.append(attributes["id"] or "")
        if "href" in attributes:
            self.links.add(attributes["href"] or "")
        if tag not in {"meta", "br", "input", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("drop_in", [None, DropIn()])
async def test_the_page_loads_nothing_and_its_links_resolve(tmp_path: Path, drop_in: DropIn | None) -> None:
    async with running_bridge(tmp_path, drop_in=drop_in) as bridge:
        answer = await bridge.get("/docs", headers=NO_TOKEN)
        openapi = await document(bridge)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    text = answer.body.decode()
    assert len(answer.body) < 300_000
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "form"} & page.tags
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert page.links - {f"#{anchor}" for anchor in inside} == {"openapi.json"}
    assert inside <= set(page.anchors)
    assert len(set(page.anchors)) == len(page.anchors)
    assert "url(" not in text
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{allowed}'")
    assert "prefers-color-scheme: dark" in style
    for path in openapi["paths"]:
        assert f"<code>{path}</code>" in text
    assert "`" not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)


# --- schemathesis -------------------------------------------------------------------------------------------------

# Both checks are off for the drop-in routes: amux judges the calls that the bridge passes on, and no schema can say
# that one header requires another.
CONFIG = """
hooks = "beyond_schemas"

[[operations]]
include-path-regex = "^/v1/"
checks.positive_data_acceptance.enabled = false
checks.negative_data_rejection.enabled = false

[[operations]]
include-path-regex = "^/events$"  # no pattern has the check digits of a cursor
checks.positive_data_acceptance.enabled = false
"""

HOOKS = """
import schemathesis

@schemathesis.hook
def filter_body(context, body):
    headers = body.get("headers") if isinstance(body, dict) else None  # the same header in two spellings
    model = body.get("model") if isinstance(body, dict) else None  # no pattern has all characters that are printable
    if isinstance(model, str) and not model.isprintable():
        return False
    return not isinstance(headers, dict) or len({name.lower() for name in headers}) == len(headers)
"""


@asynccontextmanager
async def document_url(folder: Path) -> AsyncIterator[str]:
    """Serves a bridge with a watch and a delivery. Yields the URL of its document."""
    sandbox = Sandbox(default=Behaviour(queue_seconds=0, run_seconds=0))
    times = StreamTimes(check_seconds=0.05, longest_seconds=0.2)
    amux_url = await sandbox.start()
    try:
        async with running_bridge(folder, amux_url=amux_url, drop_in=DropIn(), times=times) as bridge:
            watch = await bridge.watch(task_id=sandbox.create_task(Behaviour(queue_seconds=0, run_seconds=0)))
            await bridge.dead(watch["id"])
            for notifier in (bridge.context.change_notifier, bridge.context.event_numbering.notifier):
                notifier.end()  # held answers end at once: schemathesis waits at most ten seconds
            yield f"http://127.0.0.1:{bridge.port}/openapi.json"
    finally:
        await sandbox.stop()


def call_each_operation_once(url: str) -> int:
    """Calls each operation once and checks the response against the document. Returns the number of operations."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    found = 0
    for made in schemathesis.openapi.from_url(url).get_all_operations():
        operation: Any = made
        operation = operation.ok()
        found += 1

        @given(case=operation.as_strategy())
        @settings(
            max_examples=1,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            beyond_schemas = case.path.startswith(("/v1/", "/events"))
            excluded = [schemathesis.checks.positive_data_acceptance] if beyond_schemas else []
            case.call_and_validate(headers=APP, excluded_checks=excluded, timeout=60)

        check()
    return found


async def test_schemathesis_finds_nothing_in_one_request_for_each_operation(tmp_path: Path) -> None:
    async with document_url(tmp_path) as url:
        # All routes except `/openapi.json`, which schemathesis reads to begin with.
        assert (
            await asyncio.to_thread(call_each_operation_once, url)
            == len(ROUTES) + len(OPEN_ROUTES) + len(DROP_IN_ROUTES) - 1
        )


@pytest.mark.long
async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "beyond_schemas.py").write_text(HOOKS)
    async with document_url(tmp_path) as url:
        process = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml", "run", url),
            *("-H", f"Authorization: {APP['Authorization']}", "--max-examples", "40"),
            *("--no-color", "--request-timeout", "60"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-8000:]
