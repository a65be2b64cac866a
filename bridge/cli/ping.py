"""`ping`: judge a callback URL as the bridge would, then send it one signed `bridge.ping` from here."""

import asyncio
import sys
import time
from argparse import Namespace
from secrets import token_bytes
from typing import Any

import orjson

from bridge import __version__
from bridge.callback.guard import Guard, SystemResolver
from bridge.callback.sender import Sender
from bridge.cli.errors import FAILED, CommandFailed
from bridge.cli.signing_secrets import secrets_that_sign
from bridge.core.delivery import problem_of
from bridge.core.errors import InvalidRequest
from bridge.core.event import ping_payload
from bridge.core.ids import ping_id
from bridge.core.model import Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.signing import Signer
from bridge.core.targets import TargetPolicy
from bridge.service.sockets import own_addresses
from bridge.settings.settings import Settings, load


def run(given: Namespace) -> int:
    """Send one ping; 0 when the receiver answered 2xx, or the target may be sent to (`--dry-run`)."""
    settings = load()
    answer, seconds = asyncio.run(_ping(settings, given.url, dry_run=given.dry_run))
    status = answer.status if isinstance(answer, Answered) else None
    good = answer is None or (status is not None and 200 <= status < 300)
    error = None if answer is None or good else problem_of(answer)
    if given.json:
        sys.stdout.write(orjson.dumps(_as_json(status, error, seconds)).decode() + "\n")
        return 0 if good else FAILED
    if error is not None:
        raise CommandFailed(_why(answer, error))
    sys.stdout.write(f"{given.url} may be sent to\n" if answer is None else f"{status} in {seconds:.3f} s\n")
    return 0


async def _ping(
    settings: Settings, url: str, *, dry_run: bool
) -> tuple[Answered | NoAnswer | RefusedTarget | None, float]:
    """The answer, and how long it took; None for a target that may be sent to, after judging only."""
    resolver = SystemResolver()
    guard = Guard(policy_of(settings), resolver)
    try:
        target = guard.parse(url)
        if dry_run:
            await guard.addresses(target)
            return None, 0.0
        secrets = await asyncio.to_thread(secrets_that_sign, settings)
        sender = Sender(
            guard, user_agent=f"amux-bridge/{__version__}", timeout_seconds=settings.delivery_timeout_seconds
        )
        event_id = ping_id(token_bytes(20))
        now = time.time()
        payload = ping_payload(event_id, now)
        headers = Signer(secrets, settings.signing_key).headers(event_id, int(now), payload)
        try:
            result = await sender.send(url, headers, payload)
        finally:
            await sender.close()
    except InvalidRequest as error:
        raise CommandFailed("; ".join(f"the URL {rule}" for _, rule in error.fields)) from None
    finally:
        resolver.close()
    return result.answer, result.duration_seconds


def policy_of(settings: Settings) -> TargetPolicy:
    """What the service allows, without importing the service: that takes as long as starting it."""
    return TargetPolicy(
        allow_networks=settings.callback_allow_networks,
        allow_hosts=settings.callback_allow_hosts,
        ports=settings.callback_ports,
        https_only=settings.callback_https_only,
        own_port=settings.port or None,
        own_addresses=own_addresses(),
    )


def _why(answer: Answered | NoAnswer | RefusedTarget | None, error: Problem) -> str:
    if isinstance(answer, Answered) and answer.status in {401, 403}:
        return f"{error.message}; it may not know the secret that signs here (`amux-bridge secret show`)"
    return str(error.message)


def _as_json(status: int | None, error: Problem | None, seconds: float) -> dict[str, Any]:
    return {
        "ok": error is None,
        "status_code": status,
        "error": None if error is None else {"code": error.code, "message": error.message},
        "duration_seconds": round(seconds, 6),
    }
