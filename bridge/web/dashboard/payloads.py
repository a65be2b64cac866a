"""Shows the events of a watch as its receiver gets them: the exact bytes, and headers that are signed now."""

from typing import Any, Final

from bridge import USER_AGENT
from bridge.core.registration import MASK
from bridge.core.signing import Signer
from bridge.core.trace_context import without_own
from bridge.store.outgoing import BuiltEvent, Outgoing

_JSON: Final = "application/json"


def payloads_json(outgoing: Outgoing, signer: Signer, now: float) -> dict[str, Any]:
    """Returns each event with its payload and headers. A header is `[name, value]`; the app's own values are masked.

    `now` is in Unix seconds. A receiver that follows the standard accepts these signatures for five minutes.
    """
    return {
        "now": now,
        "payloads": [_payload_json(event, outgoing, signer, int(now)) for event in outgoing.events],
    }


def _payload_json(event: BuiltEvent, outgoing: Outgoing, signer: Signer, now: int) -> dict[str, Any]:
    headers = {
        "Content-Type": _JSON,
        "User-Agent": USER_AGENT,
        **({} if outgoing.trace is None else without_own(outgoing.trace.headers(), outgoing.headers)),
        **signer.headers(event.id, now, event.payload, outgoing.secret),
    }
    return {
        "id": event.id,
        "type": event.type,
        "headers": list(headers.items()),
        "masked_headers": [[name, MASK] for name in outgoing.headers],
        "payload": event.payload.decode(),
    }
