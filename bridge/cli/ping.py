"""`ping`: checks a callback URL as the bridge does, then sends it one signed `bridge.ping` from this machine."""

import asyncio
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from secrets import token_bytes
from typing import Any

import orjson

from bridge import USER_AGENT
from bridge.aio.proxy_connector import proxy_of
from bridge.aio.threads import Threads
from bridge.callback.guard import Guard, SystemResolver
from bridge.callback.sender import Sender
from bridge.callback.tls import receiver_tls
from bridge.cli.client import with_settings
from bridge.cli.errors import FAILED, CommandFailed, WrongUsage
from bridge.cli.signing_secrets import load_signing_secrets, missing_database
from bridge.cli.terminal import note
from bridge.core.delivery import problem_of
from bridge.core.errors import InvalidRequest, TargetRefused
from bridge.core.event import ping_payload
from bridge.core.ids import random_event_id
from bridge.core.model import Answered, NoAnswer, Problem, RefusedTarget
from bridge.core.signing import Secret, Signer, new_secret
from bridge.service.targets import configured_ports, target_policy
from bridge.settings.settings import Settings, load


def run(args: Namespace) -> int:
    """Sends one ping. Returns 0 if the receiver answered 2xx or, with `--dry-run`, if callbacks may go to the URL.

    Otherwise raises CommandFailed, or returns 1 with `--json`.
    """
    settings = load()
    answer, seconds = asyncio.run(_ping(settings, args.url, dry_run=args.dry_run))
    status = answer.status if isinstance(answer, Answered) else None
    ok = answer is None or (status is not None and 200 <= status < 300)
    error = None if answer is None or ok else problem_of(answer)
    if args.json:
        sys.stdout.write(orjson.dumps(_as_json(status, error, seconds)).decode() + "\n")
        return 0 if ok else FAILED
    if error is not None:
        raise CommandFailed(_failure_sentence(answer, error))
    sys.stdout.write(f"{args.url} is allowed\n" if answer is None else f"{status} in {seconds:.3f} s\n")
    return 0


async def _ping(
    settings: Settings, url: str, *, dry_run: bool
) -> tuple[Answered | NoAnswer | RefusedTarget | None, float]:
    """Returns the answer and how many seconds it took. With `dry_run` nothing is sent and the answer is None."""
    resolver = SystemResolver(Threads(1, "bridge-dns"))
    guard = Guard(target_policy(settings, configured_ports(settings)), resolver)
    try:
        target = guard.parse(url)
        if dry_run:
            await guard.addresses(target)
            return None, 0.0
        secrets = await asyncio.to_thread(_signing_secrets, settings)
        sender = Sender(
            guard,
            user_agent=USER_AGENT,
            timeout_seconds=settings.delivery_timeout_seconds,
            ssl_context=receiver_tls(
                settings.callback_client_certificate, settings.callback_client_key, settings.callback_ca_file
            ),
            has_client_certificate=settings.callback_client_certificate is not None,
            proxy=proxy_of(settings.callback_proxy),
        )
        event_id = random_event_id(token_bytes(20))
        now = time.time()
        payload = ping_payload(event_id, now)
        headers = Signer(secrets, settings.signing_key).headers(event_id, int(now), payload)
        try:
            result = await sender.send(url, headers, payload)
        finally:
            await sender.close()
    except TargetRefused as error:
        sentence = with_settings(str(error), error.settings, "for this command and for the bridge")
        raise CommandFailed(sentence) from None
    except InvalidRequest as error:
        raise WrongUsage("; ".join(f"the URL {rule}" for _, rule in error.fields)) from None
    finally:
        await resolver.close()
    return result.answer, result.duration_seconds


def _signing_secrets(settings: Settings) -> Sequence[Secret]:
    """Returns the bridge's secrets. If the bridge has never started, returns a new secret and creates no file."""
    if settings.signing_secrets or missing_database(settings) is None:
        return load_signing_secrets(settings)
    note("there is no signing secret yet, so this ping is signed with a new secret that no receiver knows")
    return [new_secret(token_bytes(32))]


def _failure_sentence(answer: Answered | NoAnswer | RefusedTarget | None, error: Problem) -> str:
    if isinstance(answer, Answered) and answer.status in {401, 403}:
        return f"{error.message}; the receiver may not have the signing secret (`amux-bridge secret show`)"
    return str(error.message)


def _as_json(status: int | None, error: Problem | None, seconds: float) -> dict[str, Any]:
    return {
        "ok": error is None,
        "status_code": status,
        "error": None if error is None else {"code": error.code, "message": error.message},
        "duration_seconds": round(seconds, 6),
    }
