"""Makes the examples of the OpenAPI document: sends each request to a real bridge, and provokes each error.

Each request is sent twice: by the `curl` command and by the Python program that the document shows.
"""

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bridge.amux.proxy import Upload
from bridge.core.event_cursor import Position, cursor_of
from bridge.core.operations import NoticeType
from bridge.sandbox import Behaviour, Fault, FaultKind, Outcome
from bridge.web.api.samples import LOCAL, Examples
from bridge.web.context import CONTEXT
from bridge.web.rate_limits import PINGS_A_MINUTE
from bridge.web.server import MAX_LINE_BYTES
from tests.dashboard.harness import APP_TOKEN, KEY, OPERATOR_TOKEN, Bridge, running_bridge
from tests.docs.example_recorder import APP, Recorder, request, running_receiver
from tests.programs import program
from tests.waiting import SAFETY_SECONDS

NEVER = Behaviour(queue_seconds=0, outcome=Outcome.NEVER)
DONE = Behaviour(queue_seconds=0, run_seconds=0)
PARTS_OF_THE_DOCUMENT = ("openapi", "info", "servers")  # the rest of `/openapi.json` is this document itself

# --- operations ---------------------------------------------------------------------------------------------------


async def record_watches(recorder: Recorder) -> None:
    hook = f"{recorder.receiver.url}/hooks/video"
    tasks = [recorder.bridge.amux.create_task(NEVER) for _ in range(2)]
    watch: Any = {"task_id": tasks[0], "callback_url": hook, "context": {"order": 17}}
    made = await recorder.example("POST /watch", request("POST", "/watch", watch))
    bad = {"task_id": "a/b", "callback_url": hook}
    await recorder.example(
        "POST /watch/batch", request("POST", "/watch/batch", {"watches": [watch | {"task_id": tasks[1]}, bad]})
    )
    done = await recorder.register(DONE, context={"order": "A-7712"})
    watch_id = (await recorder.settled(done["id"]))["id"]
    await recorder.example("GET /watch", request("GET", "/watch?q=A-7712&limit=1"))
    await recorder.example("GET /watch/{id}", request("GET", f"/watch/{watch_id}?wait_seconds=30"))
    await recorder.example(
        "GET /watch/{id}/events", request("GET", f"/watch/{watch_id}/events", answer="events"), lambda text: text
    )
    await recorder.example("GET /watch/{id}/envelope", request("GET", f"/watch/{watch_id}/envelope"))
    await recorder.example("GET /watch/{id}/content", request("GET", f"/watch/{watch_id}/content", answer="bytes"))
    await recorder.seen_running(made["id"])
    await recorder.example("DELETE /watch/{id}", request("DELETE", f"/watch/{made['id']}"))
    await recorder.example("GET /events", request("GET", "/events?type=video.completed&limit=1"))


async def record_deliveries(recorder: Recorder) -> None:
    gone = await recorder.settled((await recorder.register(DONE, callback_url=f"{recorder.receiver.url}/gone"))["id"])
    delivery = gone["deliveries"][0]["id"]
    await recorder.example("GET /deliveries/{id}", request("GET", f"/deliveries/{delivery}"))
    retry = {"state": "dead", "since": "2026-11-01T00:00:00Z", "dry_run": True}
    await recorder.example("POST /deliveries/retry", request("POST", "/deliveries/retry", retry))
    await recorder.example("POST /deliveries/{id}/retry", request("POST", f"/deliveries/{delivery}/retry"))
    await recorder.example(
        "POST /ping", request("POST", "/ping", {"callback_url": f"{recorder.receiver.url}/hooks/video"})
    )


async def record_receivers(recorder: Recorder) -> None:
    name = recorder.receiver.url.removeprefix("http://")
    await recorder.settled((await recorder.register(DONE))["id"])
    for operation, path in (
        ("GET /receivers", "/receivers"),
        ("POST /receivers/{receiver}/pause", f"/receivers/{name}/pause"),
        ("POST /receivers/{receiver}/resume", f"/receivers/{name}/resume"),
    ):
        method = operation.partition(" ")[0]
        await recorder.example(operation, request(method, path, caller="operator"))


async def record_service(recorder: Recorder) -> None:
    def parts(document: Any) -> Any:
        return {name: document[name] for name in PARTS_OF_THE_DOCUMENT}

    await recorder.example("GET /healthz", request("GET", "/healthz", caller=None))
    await recorder.example("GET /readyz", request("GET", "/readyz", caller=None))
    await recorder.example("GET /metrics", request("GET", "/metrics", caller=None, answer="text"))
    await recorder.example("GET /openapi.json", request("GET", "/openapi.json", caller=None), parts)
    await recorder.example(
        "GET /docs", request("GET", "/docs", caller=None, answer="text"), lambda text: "\n".join(text.splitlines()[:2])
    )


async def record_drop_in(recorder: Recorder) -> None:
    callback = {"X_Callback_Url": f"{recorder.receiver.url}/hooks/video", "X_Callback_Context": '{"order": 17}'}
    body = {"model": "sora-2", "prompt": "a red kite over the sea"}
    for path in ("/v1/videos", "/v1/video/generations"):
        await recorder.example(f"POST {path}", request("POST", path, body, **callback))
    task = recorder.bridge.amux.create_task(DONE)
    for path in ("/v1/videos", "/v1/video/generations"):
        await recorder.example(f"GET {path}/{{id}}", request("GET", f"{path}/{task}"))
    await recorder.example("GET /v1/videos/{id}/content", request("GET", f"/v1/videos/{task}/content", answer="bytes"))


# --- events -------------------------------------------------------------------------------------------------------


async def record_events(recorder: Recorder) -> None:
    """Keeps one event of each type, as a receiver gets it."""
    all_events = ["video.completed", "video.failed", "video.timed_out", "video.unavailable"]
    forbidden = Behaviour(faults=(Fault(FaultKind.FORBIDDEN_TASK, times=None),))
    await recorder.register(Behaviour(0.5, 0.5), events=["video.queued", "video.in_progress", *all_events])
    await recorder.register(Behaviour(0, 0, Outcome.FAILED))
    await recorder.register(NEVER, timeout_seconds=0.3)
    await recorder.register(forbidden)
    await recorder.receiver.until("video.queued", "video.in_progress", *all_events, "bridge.ping")
    recorder.examples["events"] = dict(sorted(recorder.receiver.events.items()))


async def record_notices(recorder: Recorder, folder: Path) -> None:
    """Keeps one notice of each type. Notices go to another receiver than the one that fails."""
    delays = ",".join(["0.05"] * 4)
    url = f"{recorder.receiver.url}/operations"
    async with (
        running_receiver() as failing,
        running_bridge(folder, operations_callback_url=url, delivery_retry_delays_seconds=delays) as bridge,
    ):
        hook, received = f"{failing.url}/hooks/video", recorder.receiver.until
        failing.status = 503
        await bridge.register(callback_url=hook)
        await received(NoticeType.RECEIVER_FAILING, NoticeType.DELIVERY_DEAD)
        failing.status = 204
        await bridge.register(callback_url=hook)
        await received(NoticeType.RECEIVER_RECOVERED)
        name, operator = failing.url.removeprefix("http://"), {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        for change, kind in (("pause", NoticeType.RECEIVER_PAUSED), ("resume", NoticeType.RECEIVER_RESUMED)):
            await bridge.request("POST", f"/receivers/{name}/{change}", headers=operator)
            await received(kind)
        bridge.amux.keys = frozenset({"sk-another"})
        await bridge.register(NEVER, callback_url=hook)
        await received(NoticeType.KEY_REFUSED)
        bridge.amux.keys = None
        await received(NoticeType.KEY_ACCEPTED)
        notices = {name: event for name, event in recorder.receiver.events.items() if name in set(NoticeType)}
        text = json.dumps(notices).replace(name, "127.0.0.1:9000")
    recorder.examples["events"] |= json.loads(text)


# --- errors -------------------------------------------------------------------------------------------------------


async def record_errors(recorder: Recorder) -> None:
    hook = f"{recorder.receiver.url}/hooks/video"
    active = await recorder.register(NEVER)
    done = (await recorder.settled((await recorder.register(DONE))["id"]))["id"]
    cancelled = await recorder.register(Behaviour(outcome=Outcome.NEVER), events=["video.queued", "video.failed"])
    body = {"task_id": active["task_id"], "callback_url": hook}
    error = recorder.error
    await error("malformed_json", "POST", "/watch", data=b"{", headers={"Content-Type": "application/json"})
    await error("unsupported_media_type", "POST", "/watch", data=b"{}", headers={"Content-Type": "text/plain"})
    await error("body_too_large", "POST", "/watch", json={"task_id": "x" * 70_000})
    await error("invalid_request", "POST", "/watch", json={"task_id": "a/b", "events": ["video.done"]})
    await error("callback_refused", "POST", "/watch", json={"task_id": "t", "callback_url": "http://10.0.0.1/"})
    await error("watch_conflict", "POST", "/watch", json=body | {"context": {"order": 18}})
    key = {"Idempotency-Key": "order-17"}
    await recorder.bridge.request("POST", "/watch", json=body, headers=APP | key)
    await error("idempotency_conflict", "POST", "/watch", json=body | {"context": {"order": 18}}, headers=key)
    await error("unauthorized", "GET", "/watch", headers={"Authorization": "Bearer unknown"})
    await error("forbidden", "POST", "/watch", json=body, headers={"Authorization": f"Bearer {OPERATOR_TOKEN}"})
    await error("not_found", "GET", "/watch/wat_00000000000000000000000000")
    await error("method_not_allowed", "PUT", "/watch")
    await error("watch_settled", "DELETE", f"/watch/{done}")
    await error("watch_active", "GET", f"/watch/{active['id']}/envelope")
    await error("watch_not_completed", "GET", f"/watch/{active['id']}/content")
    await error("precondition_failed", "GET", f"/watch/{done}/content", headers={"If-Match": '"another"'})
    await error("range_not_satisfiable", "GET", f"/watch/{done}/content", headers={"Range": "bytes=9999999-"})
    await error("expectation_failed", "GET", "/watch", headers={"Expect": "200-ok"})
    async with asyncio.timeout(SAFETY_SECONDS):
        while not (deliveries := (await watch_of(recorder, cancelled["id"]))["deliveries"]):
            await asyncio.sleep(0.02)  # a pause between two requests
    await recorder.bridge.request("DELETE", f"/watch/{cancelled['id']}", headers=APP)
    await error("watch_cancelled", "POST", f"/deliveries/{deliveries[0]['id']}/retry")
    recorder.keep(
        "malformed_request", await raw(recorder, f"GET /watch HTTP/1.1\r\nX: {'x' * MAX_LINE_BYTES}x\r\n\r\n")
    )
    head = "POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    head += f"Expect: 100-continue\r\nAuthorization: Bearer {APP_TOKEN}\r\n\r\n"
    with patch.object(Upload.__init__, "__defaults__", (0.1,)):  # how long an upload may pause
        recorder.keep("malformed_body", await raw(recorder, head, "5\r\n{    \r\n"))


async def watch_of(recorder: Recorder, watch_id: str) -> Any:
    headers = {"Authorization": f"Bearer {APP_TOKEN}"}
    return (await recorder.bridge.request("GET", f"/watch/{watch_id}", headers=headers)).json


async def raw(recorder: Recorder, head: str, body: str = "") -> Any:
    """Sends bytes that no HTTP client sends, and returns the answer's JSON. It sends `body` after `100 Continue`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(recorder.bridge.url.rpartition(":")[2]))
    writer.write(head.encode())
    async with asyncio.timeout(SAFETY_SECONDS):
        if body:
            await reader.readuntil(b"100 Continue\r\n\r\n")
            writer.write(body.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        assert length is not None, head
        answer = await reader.readexactly(int(length[1]))
    writer.close()
    return json.loads(answer)


async def record_trouble(recorder: Recorder) -> None:
    """Keeps the errors of a bridge in trouble. No other recording may use the bridge after this."""
    runtime, error = recorder.bridge.runtime, recorder.error
    body = {"task_id": "task_1", "callback_url": f"{recorder.receiver.url}/hooks/video"}
    context = runtime._runners[0].app[CONTEXT]
    while await runtime._store.delete_ended_before(runtime._store.now(), 500):
        pass
    await error("cursor_expired", "GET", f"/events?after={cursor_of(Position())}")
    for _ in range(PINGS_A_MINUTE):
        await recorder.bridge.request("POST", "/ping", json={"callback_url": body["callback_url"]}, headers=APP)
    await error("too_many_pings", "POST", "/ping", json={"callback_url": body["callback_url"]})
    with patch.object(runtime._store, "watch", None):  # acts like a bug
        await error("internal_error", "GET", "/watch/wat_00000000000000000000000000")
    await recorder.bridge.amux.stop()
    await error("amux_unavailable", "GET", "/v1/videos/task_1")
    context.health.draining = True
    await error("draining", "POST", "/watch", json=body)
    context.health.draining = False
    database = recorder.folder / "bridge.db"
    database.rename(recorder.folder / "gone.db")
    await error("store_unavailable", "GET", "/watch")
    (recorder.folder / "gone.db").rename(database)


async def record_limits(recorder: Recorder) -> None:
    """Keeps the errors of a bridge without an amux key and at its limit of active watches."""
    watch = {"task_id": "task_1", "callback_url": f"{recorder.receiver.url}/hooks/video"}
    await recorder.error("no_api_key", "POST", "/watch", json=watch)
    await recorder.error("too_many_watches", "POST", "/watch", json=watch | {"api_key": KEY, "task_id": "task_2"})


# --- all of it ----------------------------------------------------------------------------------------------------


async def record(folder: Path) -> Examples:
    """Returns all examples. The addresses of this run are replaced by those that the document shows."""
    program("curl", "curl")
    (folder / "main").mkdir()
    (folder / "limits").mkdir()
    (folder / "notices").mkdir()
    async with running_receiver() as receiver, running_bridge(folder / "main", drop_in="true") as bridge:
        recorder = Recorder(bridge, receiver, folder / "main")
        for step in (record_watches, record_deliveries, record_receivers, record_drop_in, record_events):
            await step(recorder)
        await record_notices(recorder, folder / "notices")
        await record_service(recorder)
        await record_errors(recorder)
        await record_trouble(recorder)
        async with running_bridge(folder / "limits", amux_api_key="", max_active_watches="1") as limited:
            recorder.bridge = limited
            first = {"task_id": "task_1", "callback_url": f"{receiver.url}/hooks/video", "api_key": KEY}
            await limited.request("POST", "/watch", json=first, headers=APP)
            await record_limits(recorder)
        return localized(recorder, bridge)


def localized(recorder: Recorder, bridge: Bridge) -> Examples:
    text = json.dumps(recorder.examples, ensure_ascii=False)
    for ours, shown in (
        (recorder.receiver.url.removeprefix("http://"), "127.0.0.1:9000"),
        (bridge.url.removeprefix("http://"), LOCAL.removeprefix("http://")),
        (str(bridge.runtime._settings.amux_base_url), "https://api.amux.ai"),
    ):
        text = text.replace(ours, shown)
    result: Examples = json.loads(text)
    return result
