"""`retry`: have a running bridge send deliveries again."""

import asyncio
import re
import sys
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from bridge.cli.client import bridge_api
from bridge.cli.errors import CommandFailed

_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def run(given: Namespace) -> int:
    """Ask, and say how many are sent again."""
    answer, sentence = asyncio.run(_one(given) if given.delivery_id else _dead(given))
    sys.stdout.write((orjson.dumps(answer).decode() if given.json else sentence) + "\n")
    return 0


async def _one(given: Namespace) -> tuple[Any, str]:
    async with bridge_api() as api:
        if not re.fullmatch(r"[A-Za-z0-9_]+", given.delivery_id):
            raise CommandFailed(f"{given.delivery_id!r} is no delivery's id; they look like evt_...")
        answer = await api.ask("POST", f"/deliveries/{given.delivery_id}/retry")
    return answer, f"{answer['id']} is due now"


async def _dead(given: Namespace) -> tuple[Any, str]:
    now = datetime.now(UTC)
    body = {
        "state": "dead",
        "since": moment(given.since, "--since", now),
        "until": moment(given.until, "--until", now),
        "callback_host": given.host,
        "dry_run": given.dry_run,
    }
    async with bridge_api() as api:
        answer = await api.ask("POST", "/deliveries/retry", body=body)
    count = answer["count"]
    deliveries = "1 dead delivery" if count == 1 else f"{count} dead deliveries"
    return answer, f"{deliveries} {'would be' if given.dry_run else 'will be'} sent again"


def moment(text: str | None, option: str, now: datetime) -> str | None:
    """An RFC 3339 time of one, or of an age such as `15m`, `24h` or `3d`."""
    if text is None:
        return None
    if ago := _AGO.fullmatch(text):
        at = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(f"{option} must be a time (2026-11-23T15:04:05Z) or an age (15m, 24h, 3d)") from None
    if given.tzinfo is None:
        raise CommandFailed(f"{option} must say its time zone: {text}Z is UTC")
    return text
