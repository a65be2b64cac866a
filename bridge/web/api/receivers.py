"""The routes of receivers, for operators: list receivers with their figures, pause a receiver, resume a receiver."""

from typing import Annotated

from aiohttp import web
from pydantic import Field
from typing_extensions import TypedDict

from bridge.core.receivers import Receiver, ReceiverHealth, duration_quantile, receiver_of
from bridge.telemetry import rfc3339
from bridge.web.api.response_models import ErrorBody, Time
from bridge.web.api.serializers import error_json
from bridge.web.auth import Caller
from bridge.web.context import CONTEXT
from bridge.web.requests import json_answer, query_of


class LastAnswerBody(TypedDict):
    """How the last attempt ended."""

    at: Time | None
    status_code: Annotated[int | None, Field(description="Null: there was no answer.")]
    error: Annotated[ErrorBody | None, Field(description="Null for a 2xx.")]


class ReceiverBody(TypedDict):
    """A receiver: the host and port that callbacks go to. Its figures cover the last 24 hours."""

    receiver: Annotated[str, Field(examples=["app.example:443", "[2001:db8::1]:8080"])]
    health: Annotated[
        ReceiverHealth,
        Field(
            description="`healthy`: the last attempt was answered with 2xx; `doubtful`: it was not; "
            "`failing`: 3 attempts in a row had no answer, or 429, 502, 503 or 504; `unknown`: no attempt."
        ),
    ]
    failures_in_a_row: Annotated[int, Field(ge=0)]
    last_answer: Annotated[LastAnswerBody | None, Field(description="Null without an attempt.")]
    pending: Annotated[int, Field(description="The number of pending deliveries.", ge=0)]
    dead: Annotated[int, Field(description="The number of dead deliveries that are kept.", ge=0)]
    attempts: Annotated[int, Field(ge=0)]
    success_share: Annotated[float | None, Field(description="Of the attempts; null without attempts.", ge=0, le=1)]
    p50_seconds: Annotated[float | None, Field(description="Half of the attempts took at most this time (±5 %).")]
    p99_seconds: Annotated[float | None, Field(description="99 % of the attempts took at most this time (±5 %).")]
    paused_at: Annotated[Time | None, Field(description="Null: it is not paused.")]
    paused_by: Annotated[str | None, Field(description="The name of the operator's token.")]


class ReceiverList(TypedDict):
    """The receivers that had attempts in the last 24 hours, have pending deliveries or are paused, by name."""

    items: list[ReceiverBody]


async def list_receivers(request: web.Request, caller: Caller) -> web.Response:
    """Answers `GET /receivers` with the receivers and their figures."""
    caller.check_is_operator()
    query_of(request)
    found = await request.app[CONTEXT].receivers.all()
    return json_answer(ReceiverList(items=[receiver_json(one) for one in found]))


async def pause_receiver(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /receivers/{receiver}/pause`: the receiver's deliveries wait. Can be repeated."""
    caller.check_is_operator()
    query_of(request)
    name = receiver_of(request.match_info["receiver"])
    return json_answer(receiver_json(await request.app[CONTEXT].receivers.pause(name, caller.actor)))


async def resume_receiver(request: web.Request, caller: Caller) -> web.Response:
    """Answers `POST /receivers/{receiver}/resume`: the waiting deliveries become due, spread over time.

    Can be repeated.
    """
    caller.check_is_operator()
    query_of(request)
    name = receiver_of(request.match_info["receiver"])
    return json_answer(receiver_json(await request.app[CONTEXT].receivers.resume(name, caller.actor)))


def receiver_json(one: Receiver) -> ReceiverBody:
    """Returns a receiver as operators see it."""
    figures, last = one.figures, one.figures.last
    return {
        "receiver": one.name,
        "health": one.health,
        "failures_in_a_row": one.failures,
        "last_answer": None
        if last is None
        else {"at": rfc3339(last.at), "status_code": last.status_code, "error": error_json(last.error)},
        "pending": one.pending,
        "dead": one.dead,
        "attempts": figures.attempts,
        "success_share": _rounded(one.success_share),
        "p50_seconds": _rounded(duration_quantile(figures.durations, 0.5)),
        "p99_seconds": _rounded(duration_quantile(figures.durations, 0.99)),
        "paused_at": None if one.pause is None else rfc3339(one.pause.at),
        "paused_by": None if one.pause is None else one.pause.by,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
