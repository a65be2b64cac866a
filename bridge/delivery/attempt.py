"""One attempt: signs an event, sends it once, and decides the next step of the delivery."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from bridge.callback.sender import KEPT_BODY_BYTES, Sender, SendResult, repeats_secret
from bridge.core.delivery import Delivered, Verdict, on_answer, problem_of
from bridge.core.model import Answer, Answered, Attempt, NoAnswer, PendingDelivery
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import Signer
from bridge.core.trace_context import log_fields, without_own
from bridge.telemetry import get_logger, redact

_log = get_logger("delivery")

INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Sent:
    """One finished POST. Times are Unix seconds."""

    answer: Answer
    started_at: float
    ended_at: float
    duration_seconds: float

    @property
    def concerns_host(self) -> bool:
        """Whether the result says something about the host's health. An error inside the bridge does not."""
        return not (isinstance(self.answer, NoAnswer) and self.answer.code == INTERNAL_ERROR)


class AttemptRunner:
    """Makes attempts. `now` returns Unix seconds by the store's clock."""

    def __init__(self, sender: Sender, signer: Signer, now: Callable[[], float]) -> None:
        self._sender = sender
        self._signer = signer
        self._now = now

    async def run(self, delivery: PendingDelivery) -> Sent:
        """Signs and POSTs a delivery's payload once. Raises only CancelledError."""
        started_at = self._now()
        try:
            result = await self._send(delivery, int(started_at))
        except Exception as error:  # noqa: BLE001  any error counts as a failed attempt, and the schedule continues
            means = "an unexpected error in the bridge; the attempt counts as failed"
            _log.event("attempt_error", level=logging.ERROR, trace=error, **_ids(delivery), means=means)
            message = f"the attempt failed inside the bridge: {type(error).__name__}"
            result = SendResult(NoAnswer(INTERNAL_ERROR, message), 0.0)
        return Sent(result.answer, started_at, self._now(), result.duration_seconds)

    async def _send(self, delivery: PendingDelivery, timestamp: int) -> SendResult:
        signature = self._signer.headers(delivery.id, timestamp, delivery.payload, delivery.secret)
        headers = {**delivery.headers, **_trace_headers(delivery), **signature}
        result = await self._sender.send(delivery.callback_url, headers, delivery.payload)
        answer = result.answer
        # The sender hides a location that repeats a header's value. It does not know the secret, so a location that
        # repeats the secret is hidden here.
        secrets = [delivery.secret] if delivery.secret else []
        if isinstance(answer, Answered) and answer.location and repeats_secret(answer.location, secrets):
            result = replace(result, answer=replace(answer, location=None))
        return result


def _ids(delivery: PendingDelivery) -> dict[str, str]:
    return {"watch_id": delivery.watch_id, "delivery_id": delivery.id, **log_fields(delivery.trace)}


def _trace_headers(delivery: PendingDelivery) -> Mapping[str, str]:
    """Returns the headers of the watch's trace. The watch's own headers of the same name replace them."""
    return {} if delivery.trace is None else without_own(delivery.trace.headers(), delivery.headers)


def verdict_of(sent: Sent, delivery: PendingDelivery, policy: RetryPolicy, jitter: float) -> Verdict:
    """Decides the next step of a delivery after a POST. `jitter` is a random number in [0, 1)."""
    return on_answer(sent.answer, delivery.round_attempts + 1, sent.ended_at, policy, jitter)


def attempt_row(sent: Sent, delivery: PendingDelivery, verdict: Verdict) -> Attempt:
    """Returns the attempt for the attempt log, without the values of the watch's headers and secret."""
    status, body = (sent.answer.status, sent.answer.body) if isinstance(sent.answer, Answered) else (None, b"")
    error = None if isinstance(verdict, Delivered) else problem_of(sent.answer)
    hidden = [*delivery.headers.values(), *([delivery.secret] if delivery.secret else [])]
    return Attempt(sent.started_at, sent.duration_seconds, status, error, body_text(body, hidden) if body else None)


def body_text(body: bytes, hidden: Iterable[str]) -> str:
    """Returns the first 4 KiB of an answer as text that databases accept, with the values in `hidden` redacted."""
    hidden = list(hidden)
    text = body.decode(errors="replace").replace("\0", "")
    if len(body) >= KEPT_BODY_BYTES:
        text = _without_cut_value(text, hidden)
    return redact(text, hidden)


def _without_cut_value(text: str, hidden: Iterable[str]) -> str:
    """Removes the first part of a hidden value from the text's end, because redaction finds only whole values."""
    longest = max(
        (size for value in hidden for size in range(1, len(value)) if text.endswith(value[:size])),
        default=0,
    )
    return text[: len(text) - longest]
