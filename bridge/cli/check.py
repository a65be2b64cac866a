"""`check`: what a start would find, each with yes or no and why. It registers nothing and asks amux once."""

import asyncio
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from bridge import __version__
from bridge.cli.errors import FAILED
from bridge.cli.terminal import Terminal, printable
from bridge.core.errors import BadSetting, BridgeError
from bridge.core.model import (
    KeyRefused,
    Observation,
    PollRejected,
    TaskForbidden,
    TaskNotFound,
    TaskRecord,
    Throttled,
    TransientError,
)
from bridge.settings.settings import Settings, cautions, load, unknown_names

NO_SUCH_TASK: Final = "task_of_amux-bridge_check_that_cannot_exist"


@dataclass(frozen=True, slots=True)
class Finding:
    """One question's answer; `ok` is None for a no that is nothing to mend."""

    name: str
    ok: bool | None
    why: str


def run(given: Namespace) -> int:
    """Print every finding; 0 when nothing needs mending."""
    findings, notes = _findings()
    good = all(finding.ok is not False for finding in findings)
    if given.json:
        told = {"ok": good, "checks": [asdict(finding) for finding in findings], "cautions": notes}
        sys.stdout.write(orjson.dumps(told).decode() + "\n")
    else:
        _print(findings, notes)
    return 0 if good else FAILED


def _findings() -> tuple[list[Finding], list[str]]:
    try:
        settings = load()
    except BadSetting as error:
        bad = [Finding("settings", ok=False, why=line) for line in str(error).splitlines()]
        unasked = "cannot be asked before the settings are right"
        return [*bad, Finding("store", ok=None, why=unasked), Finding("amux key", ok=None, why=unasked)], []
    given = f"{len(settings.model_fields_set)} of {len(Settings.model_fields)} are given, the others have defaults"
    notes = cautions(settings) + [f"{name} is no setting of this bridge; is it a typo?" for name in unknown_names()]
    return [Finding("settings", ok=True, why=given), _store(settings), asyncio.run(_amux(settings))], notes


def _store(settings: Settings) -> Finding:
    """Open the store as a start would, but make no new file."""
    from bridge.store.database import closing, sqlite_path
    from bridge.store.open import open_database

    where = "PostgreSQL"
    if settings.database_url.startswith("sqlite:"):
        path = sqlite_path(settings.database_url)
        if not path.exists():
            return _new_file(path)
        where = str(path)
    try:
        database, _ = open_database(settings.database_url, settings.encryption_keys)
        with closing(database):
            return Finding("store", ok=True, why=f"{where} opens, takes writes, and the encryption key fits")
    except BridgeError as error:
        return Finding("store", ok=False, why=str(error))


def _new_file(path: Path) -> Finding:
    if not path.parent.is_dir():
        return Finding("store", ok=False, why=f"BRIDGE_DATABASE_URL: the folder {path.parent} does not exist")
    return Finding("store", ok=True, why=f"{path} is not there yet; the first start makes it")


async def _amux(settings: Settings) -> Finding:
    """Ask amux about a task that cannot exist: whoever says so has taken the key."""
    if settings.amux_api_key is None:
        return Finding("amux key", ok=None, why="AMUX_API_KEY is not set, so each watch must bring its own api_key")
    from bridge.amux.client import AmuxClient

    client = AmuxClient(
        settings.amux_base_url,
        user_agent=f"amux-bridge/{__version__}",
        timeout_seconds=settings.poll_request_timeout_seconds,
    )
    try:
        seen = await client.poll(NO_SUCH_TASK, settings.amux_api_key.get_secret_value())
    finally:
        await client.close()
    ok, why = _meaning(seen)
    return Finding("amux key", ok=ok, why=f"{why} ({settings.amux_base_url})")


def _meaning(seen: Observation) -> tuple[bool, str]:
    match seen:
        case TaskNotFound() | TaskForbidden():
            return True, "amux takes it: it says that a task which cannot exist is not there"
        case KeyRefused(message=message) | TransientError(message=message) | PollRejected(message=message):
            return False, message
        case Throttled(message=message):
            return False, f"{message}; so nothing is known of the key"
        case TaskRecord():
            return False, "amux tells of a task that cannot exist; is AMUX_BASE_URL amux's?"


def _print(findings: list[Finding], notes: list[str]) -> None:
    terminal = Terminal()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        word, style = ("yes", "good") if finding.ok else ("no ", "doubtful" if finding.ok is None else "bad")
        terminal.say((f"{finding.name:<{width}}", "bold"), "  ", (word, style), f"  {printable(finding.why)}")
    for note in notes:
        terminal.say((f"{'note':<{width}}", "bold"), "       ", printable(note))
