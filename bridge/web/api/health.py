"""The routes for probes and Prometheus, which need no token: `/healthz`, `/readyz` and `/metrics`."""

from aiohttp import hdrs, web

from bridge.telemetry import CONTENT_TYPE
from bridge.web.api.response_models import Alive, Ready
from bridge.web.context import CONTEXT
from bridge.web.requests import json_answer, secured


async def healthz(_: web.Request) -> web.Response:
    """Answers `GET /healthz` with 200 whenever the event loop runs."""
    return json_answer(Alive(status="alive"))


async def readyz(request: web.Request) -> web.Response:
    """Answers `GET /readyz`: 200 while this replica can work, else 503, with a reason for each failing check."""
    readiness = await request.app[CONTEXT].health.readiness()
    body: Ready = {
        "status": readiness.status,
        "checks": readiness.checks,
        "reasons": [reason.message for reason in readiness.reasons],
    }
    return json_answer(body, 503 if readiness.status == "unready" else 200)


async def metrics(request: web.Request) -> web.StreamResponse:
    """Answers `GET /metrics` with the metrics in Prometheus' text format."""
    rendered = request.app[CONTEXT].metrics.render()
    return secured(web.Response(body=rendered, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE}))
