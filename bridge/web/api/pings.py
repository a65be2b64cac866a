"""`POST /ping`: checks a callback target, then sends it one signed `bridge.ping`."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from bridge.callback.guard import REGISTRATION_LOOK_UP_SECONDS, NameUnresolved
from bridge.callback.sender import repeats_secret
from bridge.core.delivery import problem_of
from bridge.core.event import ping_payload
from bridge.core.ids import random_event_id
from bridge.core.model import Answer, Answered, NoAnswer
from bridge.core.targets import Target
from bridge.telemetry import get_logger, without_query
from bridge.web.api.request_models import PingRequest
from bridge.web.api.response_models import PingOutcome
from bridge.web.api.serializers import error_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT, AppContext
from bridge.web.requests import bad_parameters, json_answer, read_json

_log = get_logger("web")


async def ping(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /ping`: checks the target and, without `dry_run`, sends a ping.

    The status is 200 for any answer of the receiver, and also if it does not answer.
    """
    context = request.app[CONTEXT]
    context.check_not_draining()
    bad = bad_parameters(request)
    value = await read_json(request, bad)
    body = PingRequest.read(value, context.registration.bad_target, bad)
    clock = asyncio.get_running_loop().time
    started_at = clock()
    unresolved = await _check_target(context, context.guard.parse(body.callback_url))
    if body.dry_run:
        return json_answer(_outcome(unresolved, clock() - started_at))
    return json_answer(await send_ping(context, caller, body.callback_url))


async def send_ping(
    context: AppContext,
    caller: Caller,
    callback_url: str,
    headers: Mapping[str, str] | None = None,
    secret: str | None = None,
) -> PingOutcome:
    """Sends one ping within the caller's limits, logs it, and returns its result. Raises TooManyPings.

    `headers` and `secret` are those of a watch. Without `secret`, the configured secrets sign the ping.
    """
    with context.ping_limits.one(caller.key):
        answer, seconds = await _send(context, callback_url, headers or {}, secret)
    outcome = _outcome(answer, seconds)
    _log.event("pinged", callback_url=without_query(callback_url), by=caller.key, ok=outcome["ok"])
    return outcome


async def _check_target(context: AppContext, target: Target) -> Answer | None:
    """Returns None for an allowed target, and the failed look-up for a name that cannot be resolved now.

    Raises TargetRefused.
    """
    try:
        async with asyncio.timeout(REGISTRATION_LOOK_UP_SECONDS):
            await context.guard.addresses(target)
    except NameUnresolved as error:
        return NoAnswer(error.code, str(error))
    except TimeoutError:
        seconds = f"{REGISTRATION_LOOK_UP_SECONDS:g}"
        return NoAnswer(NameUnresolved.code, f"{target.host} was not resolved within {seconds} s")
    return None


async def _send(
    context: AppContext, callback_url: str, headers: Mapping[str, str], secret: str | None
) -> tuple[Answer, float]:
    event_id = random_event_id(context.system.token_bytes(20))
    now = context.store.now()
    payload = ping_payload(event_id, now)
    signature = context.signer.headers(event_id, int(now), payload, secret)
    result = await context.sender.send(callback_url, {**headers, **signature}, payload)
    answer = result.answer
    # The sender hides a location that repeats a header's value; it does not know the secret.
    if secret and isinstance(answer, Answered) and answer.location and repeats_secret(answer.location, [secret]):
        answer = replace(answer, location=None)
    return answer, result.duration_seconds


def _outcome(answer: Answer | None, seconds: float) -> PingOutcome:
    """Returns the result of a ping, without the body of the receiver's answer.

    `answer` is None if a dry run allows the target.
    """
    status = answer.status if isinstance(answer, Answered) else None
    ok = answer is None or (status is not None and 200 <= status < 300)
    error = None if ok or answer is None else error_json(problem_of(answer))
    return {"ok": ok, "status_code": status, "error": error, "duration_seconds": round(seconds, 6)}
