"""`retry`: asks a running bridge to send deliveries again."""

import asyncio
import re
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from bridge.cli.client import connect_to_bridge
from bridge.cli.errors import WrongUsage

_AGE = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def run(args: Namespace) -> int:
    """Sends the request, prints how many deliveries are sent again, and returns 0."""
    answer, sentence = asyncio.run(_retry_one(args) if args.delivery_id else _retry_dead(args))
    sys.stdout.write((orjson.dumps(answer).decode() if args.json else sentence) + "\n")
    return 0


async def _retry_one(args: Namespace) -> tuple[Any, str]:
    async with connect_to_bridge() as bridge:
        if not re.fullmatch(r"[A-Za-z0-9_]+", args.delivery_id):
            raise WrongUsage(f"{args.delivery_id!r} is not a delivery id; delivery ids begin with evt_")
        answer = await bridge.request("POST", f"/deliveries/{args.delivery_id}/retry")
    return answer, f"{answer['id']} is due now"


async def _retry_dead(args: Namespace) -> tuple[Any, str]:
    now = datetime.now(UTC)
    body = {
        "state": "dead",
        "since": parse_time(args.since, "--since", now),
        "until": parse_time(args.until, "--until", now),
        "callback_host": args.host,
        "dry_run": args.dry_run,
    }
    async with connect_to_bridge() as bridge:
        answer = await bridge.request("POST", "/deliveries/retry", body=body)
    count = answer["count"]
    deliveries = "1 dead delivery" if count == 1 else f"{count} dead deliveries"
    return answer, f"{deliveries} {'would be' if args.dry_run else 'will be'} sent again"


def parse_time(text: str | None, option: str, now: datetime) -> str | None:
    """Returns an RFC 3339 time; None for None. `text` is such a time, or an age such as `15m`, `24h` or `3d`.

    Raises WrongUsage for any other text, and for a time without a time zone.
    """
    if text is None:
        return None
    if age := _AGE.fullmatch(text):
        at = now - timedelta(**{_UNITS[age[2]]: int(age[1])})
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"{option} must be a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)") from None
    if parsed.tzinfo is None:
        raise WrongUsage(f"{option} must include a time zone: {text}Z is UTC")
    return text
