"""The routes that are open to all: alive, ready, metrics."""

from aiohttp import hdrs, web

from bridge.telemetry import CONTENT_TYPE
from bridge.web.api.response_models import Alive, Ready
from bridge.web.context import CONTEXT
from bridge.web.requests import json_answer, secured


async def healthz(_: web.Request) -> web.Response:
    """`GET /healthz`: the event loop answers."""
    return json_answer(Alive(status="alive"))


async def readyz(request: web.Request) -> web.Response:
    """`GET /readyz`: 200 while this replica can do its work, 503 with a reason for each no."""
    readiness = await request.app[CONTEXT].health.readiness()
    told: Ready = {
        "status": readiness.status,
        "checks": readiness.checks,
        "reasons": [reason.message for reason in readiness.reasons],
    }
    return json_answer(told, 503 if readiness.status == "unready" else 200)


async def metrics(request: web.Request) -> web.StreamResponse:
    """`GET /metrics`: Prometheus' text format."""
    rendered = request.app[CONTEXT].metrics.render()
    return secured(web.Response(body=rendered, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE}))
