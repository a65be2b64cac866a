"""`POST /ping`: judge a target, then send it one signed `bridge.ping`."""

import asyncio
import secrets

from aiohttp import web

from bridge.callback.guard import REGISTRATION_LOOK_UP_SECONDS, NameUnresolved
from bridge.core.delivery import problem_of
from bridge.core.event import ping_id, ping_payload
from bridge.core.model import Answer, Answered, NoAnswer
from bridge.core.targets import Target
from bridge.telemetry import get_logger, without_query
from bridge.web.api.request_models import PingRequest
from bridge.web.api.response_models import PingOutcome
from bridge.web.api.serializers import error_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.requests import json_answer, parsed, query_of, read_body

_log = get_logger("web")


async def ping(request: web.Request, caller: Caller) -> web.Response:
    """`POST /ping`; what the receiver does, or fails to do, is a 200."""
    services = request.app[CONTEXT]
    query_of(request)
    asked = PingRequest.read(parsed(await read_body(request)))
    loop_time = asyncio.get_running_loop().time
    began = loop_time()
    unresolved = await _judge(services, services.guard.parse(asked.callback_url))
    if asked.dry_run:
        return json_answer(_outcome(unresolved, loop_time() - began))
    with services.ping_limits.one(caller.key):
        answer, seconds = await _send(services, asked.callback_url)
    outcome = _outcome(answer, seconds)
    _log.event("pinged", callback_url=without_query(asked.callback_url), by=caller.key, ok=outcome["ok"])
    return json_answer(outcome)


async def _judge(services: AppContext, target: Target) -> Answer | None:
    """None for a target that may be sent to; a name that has no address just now is no refusal.

    Raises TargetRefused.
    """
    try:
        async with asyncio.timeout(REGISTRATION_LOOK_UP_SECONDS):
            await services.guard.addresses(target)
    except NameUnresolved as error:
        return NoAnswer(error.code, str(error))
    except TimeoutError:
        return NoAnswer(NameUnresolved.code, f"{target.host} does not resolve: its look-up takes too long")
    return None


async def _send(services: AppContext, callback_url: str) -> tuple[Answer, float]:
    event_id = ping_id(secrets.token_bytes(20))
    now = services.store.now()
    payload = ping_payload(event_id, now)
    headers = services.signer.headers(event_id, int(now), payload)
    result = await services.sender.send(callback_url, headers, payload)
    return result.answer, result.duration_seconds


def _outcome(answer: Answer | None, seconds: float) -> PingOutcome:
    """What came of it; never the receiver's body. None: a dry run's target that may be sent to."""
    status = answer.status if isinstance(answer, Answered) else None
    good = answer is None or (status is not None and 200 <= status < 300)
    error = None if good or answer is None else error_json(problem_of(answer))
    return {"ok": good, "status_code": status, "error": error, "duration_seconds": round(seconds, 6)}
