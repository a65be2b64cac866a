"""The recipes for workflow engines and task queues work with a real bridge and the stand-in for amux.

The tests imitate what cannot run here: Temporal's service with its gRPC interface, Trigger.dev's SDK with a package of
the same name. For n8n, Node evaluates the expressions of the nodes.
"""

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bridge.core.signing import Signer
from tests.examples.harness import (
    EXAMPLES,
    OTHER,
    PROGRAM_TIMEOUT_SECONDS,
    BridgeHarness,
    environment,
    running_receiver,
)
from tests.ports import free_port
from tests.programs import npm_install, program

WORKFLOWS = EXAMPLES / "workflows"


def packages(*names: str) -> None:
    """Skips the test where a package of an example is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed")


# --- task queues --------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if "Ready to accept connections" in line:
                break
        yield f"redis://127.0.0.1:{port}/0"
        server.kill()


@asynccontextmanager
async def worker(folder: Path, environ: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Runs the worker of a queue, and yields its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        cwd=folder,
        env=environment({**environ, "PYTHONPATH": str(WORKFLOWS), "PYTHONDONTWRITEBYTECODE": "1"}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,  # Celery and Dramatiq write there what a task prints
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # includes the worker's child processes
        await process.communicate()


@pytest.mark.long
@pytest.mark.parametrize(
    ("package", "name", "command"),
    [
        ("celery", "celery_receiver", ("celery", "--app", "celery_receiver", "worker", "--pool", "solo")),
        ("dramatiq", "dramatiq_receiver", ("dramatiq", "--processes", "1", "--threads", "1", "dramatiq_receiver")),
    ],
)
async def test_an_event_becomes_a_task_of_the_queue_once(  # noqa: PLR0917  fixtures
    harness: BridgeHarness, redis_url: str, tmp_path: Path, package: str, name: str, command: tuple[str, ...]
) -> None:
    packages(package, "redis")
    environ = {"BROKER_URL": redis_url}
    async with (
        running_receiver(WORKFLOWS / f"{name}.py", tmp_path, environ) as receiver,
        worker(tmp_path, environ, *command) as printed,
    ):
        task = harness.completed_task()
        await harness.delivered(await harness.register(task, receiver.url), 1)
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            line = ""
            while f"video.completed {task}" not in line:
                line = (await printed.readline()).decode()
                assert line, "the worker has ended"
        assert f"video.completed {task} {harness.amux_url}/files/{task}.mp4" in line
        body = b'{"id": "evt_1", "type": "video.completed"}'
        forged = {"Content-Type": "application/json", **Signer([OTHER]).headers("evt_1", 1_795_446_245, body)}
        async with harness.session.post(receiver.url, data=body, headers=forged) as answer:
            assert answer.status == 401


@pytest.mark.long
@pytest.mark.parametrize(("package", "name"), [("celery", "celery_receiver"), ("dramatiq", "dramatiq_receiver")])
async def test_without_the_broker_the_event_stays_with_the_bridge(
    harness: BridgeHarness, tmp_path: Path, package: str, name: str
) -> None:
    packages(package, "redis")
    environ = {"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"}
    async with running_receiver(WORKFLOWS / f"{name}.py", tmp_path, environ) as receiver:
        watch = await harness.register(harness.completed_task(), receiver.url)
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            while True:
                [delivery] = (await harness.request("GET", f"/watch/{watch}?wait_seconds=10"))["deliveries"] or [{}]
                if delivery.get("attempts"):
                    break
                await asyncio.sleep(0.05)  # a pause between two requests
        assert (delivery["state"], delivery["last_error"]["code"]) == ("pending", "http_500")


# --- Temporal -----------------------------------------------------------------------------------------------------


class TemporalService:
    """Answers the two calls of Temporal's frontend that the receiver makes. `running` has the ids of workflows."""

    def __init__(self, running: set[str]) -> None:
        self.running = running
        self.signals: list[tuple[str, str, Any]] = []

    async def get_system_info(self, _request: Any, _context: Any) -> Any:
        from temporalio.api.workflowservice.v1 import GetSystemInfoResponse

        return GetSystemInfoResponse()

    async def signal(self, request: Any, context: Any) -> Any:
        import grpc
        from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionResponse

        workflow_id = request.workflow_execution.workflow_id
        if workflow_id not in self.running:
            await context.abort(grpc.StatusCode.NOT_FOUND, "workflow execution already completed")
        [payload] = request.input.payloads
        self.signals.append((workflow_id, request.signal_name, json.loads(payload.data)))
        return SignalWorkflowExecutionResponse()


@asynccontextmanager
async def temporal(service: TemporalService) -> AsyncIterator[str]:
    """Serves the calls, and yields the address."""
    import grpc
    from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, SignalWorkflowExecutionRequest

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=request.FromString, response_serializer=lambda answer: answer.SerializeToString()
        )
        for name, call, request in (
            ("GetSystemInfo", service.get_system_info, GetSystemInfoRequest),
            ("SignalWorkflowExecution", service.signal, SignalWorkflowExecutionRequest),
        )
    }
    server = grpc.aio.server()
    name = "temporal.api.workflowservice.v1.WorkflowService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.long
async def test_an_event_is_a_signal_of_the_workflow_that_the_context_names(
    harness: BridgeHarness, tmp_path: Path
) -> None:
    packages("temporalio", "grpc")
    service = TemporalService({"order-17"})
    async with (
        temporal(service) as address,
        running_receiver(WORKFLOWS / "temporal_receiver.py", tmp_path, {"TEMPORAL_ADDRESS": address}) as receiver,
    ):
        task, urls = harness.completed_task(), {}
        for workflow in ("order-17", "order-18"):
            body = {"task_id": task, "callback_url": f"{receiver.url}?{workflow}", "context": {"workflow_id": workflow}}
            urls[workflow] = (await harness.request("POST", "/watch", **body))["id"]
        await harness.delivered(urls["order-17"], 1)
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            while (ended := await harness.request("GET", f"/watch/{urls['order-18']}"))["deliveries"] == [] or (
                ended["deliveries"][0]["state"] == "pending"
            ):
                await asyncio.sleep(0.05)  # a pause between two requests
        pinged = await harness.request("POST", "/ping", callback_url=receiver.url)
    # The receiver answered 410, because order-18 does not run.
    assert (ended["deliveries"][0]["state"], ended["deliveries"][0]["attempts"]) == ("dead", 1)
    assert pinged["status_code"] == 204
    [(workflow, name, event)] = service.signals
    assert (workflow, name) == ("order-17", "video_ended")
    assert (event["type"], event["data"]["task_id"]) == ("video.completed", task)


# --- Trigger.dev --------------------------------------------------------------------------------------------------

# The parts of @trigger.dev/sdk that the example uses. A token has a URL that accepts one POST.
SDK = """\
import { createServer } from "node:http";
export const task = (definition) => definition;
const results = new Map();
export const wait = {
  async createToken({ timeout }) {
    if (timeout !== "2h") throw new Error("a timeout is expected");
    const server = createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      const json = request.method === "POST" && request.headers["content-type"].startsWith("application/json");
      response.writeHead(json ? 200 : 415, { "Content-Type": "application/json" }).end('{"success":true}');
      if (json) results.get(url)(JSON.parse(Buffer.concat(parts)));
      server.close();
    });
    await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
    const url = `http://127.0.0.1:${server.address().port}/api/v1/waitpoints/tokens/waitpoint_1/callback/hash`;
    const output = new Promise((resolve) => results.set(url, resolve));
    return { id: "waitpoint_1", url, output };
  },
  async forToken(token) {
    return { ok: true, output: await token.output };
  },
};
"""
RUN_TASK = """\
import { makeVideo } from "./trigger_dev.mjs";
try { console.log(await makeVideo.run({ taskId: process.argv[2] })); }
catch (error) { console.log(`error: ${error.message}`); }
process.exit(); // without this a token that got nothing keeps the process alive
"""


@pytest.mark.long
async def test_a_waitpoint_token_of_trigger_dev_gets_the_event(harness: BridgeHarness, tmp_path: Path) -> None:
    node = program("node", "nodejs")
    sdk = tmp_path / "node_modules/@trigger.dev/sdk"
    sdk.mkdir(parents=True)
    (sdk / "package.json").write_text('{"name": "@trigger.dev/sdk", "type": "module", "exports": "./index.js"}')
    (sdk / "index.js").write_text(SDK)
    (tmp_path / "trigger_dev.mjs").write_text((WORKFLOWS / "trigger_dev.mjs").read_text())
    (tmp_path / "run.mjs").write_text(RUN_TASK)

    async def run(task: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(node, "run.mjs", task), cwd=tmp_path, env=harness.environ, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            out, _ = await process.communicate()
        return out.decode().strip()

    task = harness.completed_task()
    assert await run(task) == f"{harness.amux_url}/files/{task}.mp4"
    assert (await run("sandbox_0_0_failed_1")).startswith("error: video.failed: Upstream model rejected")
    assert (await run("not/a/task")).startswith("error: task_id: must be 1 to 191 of the characters")


# --- n8n ----------------------------------------------------------------------------------------------------------

# As n8n does, evaluates each `{{ }}` in a node's parameters, if the parameter's text begins with `=`.
EVALUATE = """\
const { parameters, $json, $env, $execution } = JSON.parse(process.argv[1]);
const evaluate = (value) => {
  if (Array.isArray(value)) return value.map(evaluate);
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, evaluate(each)]));
  if (typeof value !== "string" || !value.startsWith("=")) return value;
  const run = (code) => new Function("$json", "$env", "$execution", `return (${code})`)($json, $env, $execution);
  return value.slice(1).replace(/\\{\\{(.*?)\\}\\}(?!\\})/gs, (_, code) => run(code));
};
console.log(JSON.stringify(evaluate(parameters)));
"""
RUN_CODE = """\
const { code, $json } = JSON.parse(process.argv[1]);
try { console.log(JSON.stringify(new Function("$json", code)($json))); }
catch (error) { console.log(JSON.stringify(error.message)); }
"""


def in_node(script: str, **given: Any) -> Any:
    command = [program("node", "nodejs"), "-e", script, "--", json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PROGRAM_TIMEOUT_SECONDS)
    return json.loads(done.stdout)


def n8n_nodes() -> dict[str, Any]:
    workflow = json.loads((WORKFLOWS / "n8n_wait.json").read_text())
    return {node["name"]: node for node in workflow["nodes"]}


def test_the_nodes_of_the_n8n_workflow_form_one_chain() -> None:
    workflow = json.loads((WORKFLOWS / "n8n_wait.json").read_text())
    names = [node["name"] for node in workflow["nodes"]]
    assert len({node["id"] for node in workflow["nodes"]}) == len(set(names)) == len(names)
    following = {name: way["main"][0][0]["node"] for name, way in workflow["connections"].items()}
    assert list(following) == names[:-1]
    assert list(following.values()) == names[1:]
    wait = n8n_nodes()["Wait for the callback"]["parameters"]
    assert (wait["resume"], wait["httpMethod"]) == ("webhook", "POST")


async def test_the_n8n_workflow_gets_the_event_at_its_resume_url(harness: BridgeHarness) -> None:
    nodes, resumed = n8n_nodes(), asyncio.Queue[Any]()

    async def resume(request: web.Request) -> web.Response:
        await resumed.put(await request.json())
        return web.json_response({"message": "Workflow was started"})

    app = web.Application()
    app.router.add_post("/webhook-waiting/231", resume)
    async with TestServer(app) as n8n:
        execution = {"resumeUrl": str(n8n.make_url("/webhook-waiting/231"))}
        item: Any = {}
        for name in ("Create the video", "Watch it"):
            parameters = nodes[name]["parameters"] | {}
            sent = await asyncio.to_thread(
                in_node,
                EVALUATE,
                parameters=parameters,
                **{"$json": item, "$env": harness.environ, "$execution": execution},
            )
            headers = {header["name"]: header["value"] for header in sent["headerParameters"]["parameters"]}
            headers["Content-Type"] = "application/json"
            async with harness.session.request(
                sent["method"], sent["url"], data=sent["jsonBody"], headers=headers
            ) as answer:
                assert answer.ok, await answer.text()
                item = await answer.json()
        async with asyncio.timeout(PROGRAM_TIMEOUT_SECONDS):
            event = await resumed.get()
    code = nodes["Result"]["parameters"]["jsCode"]
    result = await asyncio.to_thread(in_node, RUN_CODE, code=code, **{"$json": {"body": event}})
    assert result == [{"json": {"url": event["data"]["url"]}}]
    failed = {"type": "video.failed", "data": {"error": {"message": "no"}}}
    assert await asyncio.to_thread(in_node, RUN_CODE, code=code, **{"$json": {"body": failed}}) == "video.failed: no"


# --- Next.js ------------------------------------------------------------------------------------------------------

# Calls the route's handler as Next.js does, and answers with what it returns.
SERVE_ROUTE = """\
import { createServer } from "node:http";
import { POST } from "./route.mjs";
const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const url = `http://localhost${request.url}`;
  const answer = await POST(new Request(url, { method: "POST", headers: request.headers, body: Buffer.concat(parts) }));
  response.writeHead(answer.status).end();
});
server.listen(Number(process.env.PORT), "127.0.0.1");
"""


@pytest.mark.long
async def test_a_route_of_next_js_accepts_an_event_once_and_refuses_a_forged_one(
    harness: BridgeHarness, tmp_path: Path
) -> None:
    route = EXAMPLES / "receivers/nextjs/app/hooks/video/route.js"
    (tmp_path / "route.mjs").write_text(route.read_text())
    (tmp_path / "serve.mjs").write_text(SERVE_ROUTE)
    [names] = re.findall(r"^// npm install (.*)$", route.read_text(), re.MULTILINE)
    await asyncio.to_thread(npm_install, tmp_path, *names.split())
    async with running_receiver(tmp_path / "serve.mjs", tmp_path, {}) as receiver:
        task = harness.completed_task()
        watch = await harness.register(task, receiver.url)
        delivery = await harness.delivered(watch, 1)
        await harness.request("POST", f"/deliveries/{delivery['id']}/retry")
        await harness.delivered(watch, 2)
        body = b'{"id": "evt_1", "type": "video.completed", "data": {}}'
        forged = {"Content-Type": "application/json", **Signer([OTHER]).headers("evt_1", 1_795_446_245, body)}
        async with harness.session.post(receiver.url, data=body, headers=forged) as answer:
            assert answer.status == 401
        assert await receiver.stop() == [f"video.completed {task} {harness.amux_url}/files/{task}.mp4"]
