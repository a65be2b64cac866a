"""`check`: makes the checks of a start, and prints "yes" or "no" and the reason for each. It sends amux one request."""

import asyncio
import os
import sys
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from bridge import USER_AGENT
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
from bridge.settings.cautions import cautions, variable_cautions
from bridge.settings.proxies import certificate_cautions, proxy_cautions
from bridge.settings.settings import Settings, load_to_serve

MISSING_TASK_ID: Final = "task_of_amux-bridge_check_that_cannot_exist"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `ok` is None for a "no" that needs no fix."""

    name: str
    ok: bool | None
    why: str


def run(args: Namespace) -> int:
    """Prints every finding. Returns 0 if nothing needs a fix, else 1."""
    findings, notes = _find()
    ok = all(finding.ok is not False for finding in findings)
    if args.json:
        report = {"ok": ok, "checks": [asdict(finding) for finding in findings], "cautions": notes}
        sys.stdout.write(orjson.dumps(report).decode() + "\n")
    else:
        _print(findings, notes)
    return 0 if ok else FAILED


def _find() -> tuple[list[Finding], list[str]]:
    try:
        settings = load_to_serve()
    except BadSetting as error:
        bad = [Finding("settings", ok=False, why=line) for line in str(error).splitlines()]
        not_checked = "not checked, because the settings are not valid"
        return [*bad, Finding("store", ok=None, why=not_checked), Finding("amux key", ok=None, why=not_checked)], []
    count = f"{len(settings.model_fields_set)} of {len(Settings.model_fields)} are set; the others have their defaults"
    notes = [*cautions(settings), *proxy_cautions(), *certificate_cautions(), *variable_cautions()]
    refused = [*_check_certificates(settings), *asyncio.run(_check_notices(settings))]
    others = [_check_store(settings), asyncio.run(_check_key(settings))]
    return [Finding("settings", ok=True, why=count), *refused, *others], notes


def _check_certificates(settings: Settings) -> list[Finding]:
    """Reads the files for TLS with receivers. Returns nothing if they are valid or not set."""
    from bridge.callback.tls import receiver_tls

    try:
        receiver_tls(settings.callback_client_certificate, settings.callback_client_key, settings.callback_ca_file)
    except BadSetting as error:
        return [Finding("certificates", ok=False, why=str(error))]
    return []


async def _check_notices(settings: Settings) -> list[Finding]:
    """Checks the targets of notices for operators, and sends nothing. Returns nothing if a start accepts them."""
    if settings.operations_callback_url is None and not settings.notify_urls:
        return []
    from bridge.aio.threads import Threads
    from bridge.callback.guard import Guard, SystemResolver
    from bridge.service.operations import check_operations
    from bridge.service.targets import configured_ports, target_policy

    resolver = SystemResolver(Threads(1, "bridge-dns"))
    try:
        await check_operations(settings, Guard(target_policy(settings, configured_ports(settings)), resolver))
    except BadSetting as error:
        return [Finding("operations", ok=False, why=str(error))]
    finally:
        await resolver.close()
    return []


def _check_store(settings: Settings) -> Finding:
    """Opens the store as a start does, but creates no file."""
    from bridge.store.database import closing, sqlite_path
    from bridge.store.open import open_database

    name = "PostgreSQL"
    if settings.database_url.startswith("sqlite:"):
        path = sqlite_path(settings.database_url)
        if not path.exists():
            return _missing_file_finding(path)
        name = str(path)
    try:
        database, _ = open_database(settings.database_url, settings.encryption_keys)
        with closing(database):
            return Finding("store", ok=True, why=f"{name} opens, is writable, and the encryption key is correct")
    except BridgeError as error:
        return Finding("store", ok=False, why=str(error))


def _missing_file_finding(path: Path) -> Finding:
    if not path.parent.is_dir():
        return Finding("store", ok=False, why=f"BRIDGE_DATABASE_URL: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return Finding("store", ok=False, why=f"BRIDGE_DATABASE_URL: the folder {path.parent} cannot be written")
    return Finding("store", ok=True, why=f"{path} does not exist yet; the first start creates it")


async def _check_key(settings: Settings) -> Finding:
    """Asks amux about a task that cannot exist. If amux answers that there is no such task, amux accepts the key."""
    if settings.amux_api_key is None:
        why = "AMUX_API_KEY is not set, so each watch must have its own api_key; if each one has, nothing needs a fix"
        return Finding("amux key", ok=None, why=why)
    from bridge.aio.proxy_connector import proxy_of
    from bridge.amux.client import AmuxClient

    client = AmuxClient(
        settings.amux_base_url,
        user_agent=USER_AGENT,
        timeout_seconds=settings.poll_request_timeout_seconds,
        proxy=proxy_of(settings.amux_proxy),
    )
    try:
        observation = await client.poll(MISSING_TASK_ID, settings.amux_api_key.get_secret_value())
    finally:
        await client.close()
    ok, why = _interpret(observation)
    return Finding("amux key", ok=ok, why=f"{why} ({settings.amux_base_url})")


def _interpret(observation: Observation) -> tuple[bool, str]:
    match observation:
        case TaskNotFound() | TaskForbidden():
            return True, "amux accepts the key (it answered that the test task does not exist)"
        case KeyRefused(message=message) | TransientError(message=message) | PollRejected(message=message):
            return False, message
        case Throttled(message=message):
            return False, f"{message}; so the key could not be checked"
        case TaskRecord():
            return False, "amux returns a task that cannot exist; is AMUX_BASE_URL correct?"


def _print(findings: list[Finding], notes: list[str]) -> None:
    terminal = Terminal()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        word, style = ("yes", "good") if finding.ok else ("no ", "warning" if finding.ok is None else "bad")
        terminal.print_line((f"{finding.name:<{width}}", "bold"), "  ", (word, style), f"  {printable(finding.why)}")
    for note in notes:
        terminal.print_line((f"{'note':<{width}}", "bold"), "       ", printable(note))
