"""One attempt: signed, sent once, and what its answer means."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bridge.callback.sender import KEPT_BODY_BYTES, Sender, SendResult
from bridge.core.delivery import Delivered, Verdict, on_answer, problem_of
from bridge.core.model import Answer, Answered, Attempt, NoAnswer, PendingDelivery
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import Secret, SigningKey, parse_secret, signed_headers
from bridge.telemetry import get_logger, redact

_log = get_logger("delivery")
_parsed = lru_cache(maxsize=256)(parse_secret)  # a watch's own secret, at each attempt

OWN_FAULT = "internal_error"


@dataclass(frozen=True, slots=True)
class Sent:
    """One POST that is over; times are Unix seconds."""

    answer: Answer
    started_at: float
    ended_at: float
    duration_seconds: float

    @property
    def tells_of_host(self) -> bool:
        """Whether the host has a part in it: not in a fault of our own."""
        return not (isinstance(self.answer, NoAnswer) and self.answer.code == OWN_FAULT)


class AttemptRunner:
    """Makes attempts. `secrets` is read at each one, current first; `now` gives the store's Unix seconds."""

    def __init__(
        self, sender: Sender, secrets: Sequence[Secret], signing_key: SigningKey | None, now: Callable[[], float]
    ) -> None:
        self._sender = sender
        self._secrets = secrets
        self._signing_key = signing_key
        self._now = now

    async def make(self, owed: PendingDelivery) -> Sent:
        """POST a delivery's bytes once, signed now; raises nothing but CancelledError.

        A watch's own secret takes the place of the configured ones; the Ed25519 key signs besides in either case.
        """
        started_at = self._now()
        try:
            result = await self._send(owed, int(started_at))
        except Exception as error:  # noqa: BLE001  whatever it is, this delivery goes its way on the schedule
            _log.event("attempt_broke", level=40, trace=error, watch_id=owed.watch_id, delivery_id=owed.id)
            result = SendResult(NoAnswer(OWN_FAULT, f"the attempt broke: {type(error).__name__}"), 0.0)
        return Sent(result.answer, started_at, self._now(), result.duration_seconds)

    async def _send(self, owed: PendingDelivery, timestamp: int) -> SendResult:
        secrets = self._secrets if owed.secret is None else (_parsed(owed.secret),)
        signed = signed_headers(owed.id, timestamp, owed.payload, secrets, self._signing_key)
        return await self._sender.send(owed.callback_url, {**owed.headers, **signed}, owed.payload)


def verdict_of(sent: Sent, owed: PendingDelivery, policy: RetryPolicy, jitter: float) -> Verdict:
    """What a POST means for its delivery; `jitter` in [0, 1) is the caller's drawing."""
    return on_answer(sent.answer, owed.round_attempts + 1, sent.ended_at, policy, jitter)


def attempt_row(sent: Sent, owed: PendingDelivery, verdict: Verdict) -> Attempt:
    """The attempt as its log tells it: without what the watch's headers and secret hold."""
    status, body = (sent.answer.status, sent.answer.body) if isinstance(sent.answer, Answered) else (None, b"")
    error = None if isinstance(verdict, Delivered) else problem_of(sent.answer)
    hidden = [*owed.headers.values(), *([owed.secret] if owed.secret else [])]
    return Attempt(sent.started_at, sent.duration_seconds, status, error, body_text(body, hidden) if body else None)


def body_text(body: bytes, hidden: Iterable[str]) -> str:
    """The first 4 KiB of an answer as text that every database takes, without the values in `hidden`."""
    hidden = list(hidden)
    text = body.decode(errors="replace").replace("\0", "")
    if len(body) >= KEPT_BODY_BYTES:
        text = _without_cut_value(text, hidden)
    return redact(text, hidden)


def _without_cut_value(text: str, hidden: Iterable[str]) -> str:
    """The text without a hidden value's beginning at its end: half a secret is not recognised by redaction."""
    longest = max(
        (size for value in hidden for size in range(1, len(value)) if text.endswith(value[:size])),
        default=0,
    )
    return text[: len(text) - longest]
