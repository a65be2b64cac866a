"""The cost of those parts of a life that neither the bare bridge nor plain sqlite3 has.

The parts run one after another, each at the rate of the lives: at 20 a second the processor's caches are cold, and the
same code costs twice as much as at 300. The cost of the timer that starts the runs is subtracted.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from bridge.aio.threads import Threads
from bridge.amux.wire import observe
from bridge.callback.guard import Guard
from bridge.core.event import terminal_event
from bridge.core.ids import WatchIds
from bridge.core.model import Answered, EventType, Outcome, TaskSnapshot, TaskStatus, Watch
from bridge.core.registration import options_text
from bridge.core.signing import Signer, parse_secret
from bridge.core.targets import TargetPolicy
from bridge.core.watch import Ending
from bridge.settings import settings as settings_module
from bridge.store.encryption import Cipher
from bridge.store.row_mapping import digest
from bridge.telemetry import Metrics, Stage, get_logger
from bridge.telemetry.logs import configure_logging
from bridge.web.auth import Access
from tests.bench.bridge_process import KEY, SECRET, SETTINGS, TOKEN, ask
from tests.bench.processes import MEASURED, own_cpu, run_once

Part = Callable[[], Awaitable[None]]

POLLS, COMMITS, LINES = 4, 2, 4  # of a life
URL = "http://127.0.0.1:9/hooks/video"


def parts_of_a_life(amux: str, rate: float, seconds: float, folder: Path) -> dict[str, float]:
    """Returns the milliseconds of CPU of each part of a life, at `rate` lives a second."""
    answers = [ask(amux, "GET", f"/v1/video/generations/{task}") for task in ("task_1", "task_x-1000")]
    found = run_once(MEASURED, _measure, answers, rate, seconds, folder / "parts.log", seconds=20 * seconds + 60)
    assert isinstance(found, dict)
    return found


async def _measure(answers: list[bytes], rate: float, seconds: float, log: Path) -> dict[str, float]:
    async def nothing() -> None:
        return

    with log.open("a") as stream:
        configure_logging("INFO", "json", stream)
        idle = await _paced(nothing, rate, seconds)
        found: dict[str, float] = {}
        for name, (part, without) in _parts(*answers).items():
            before = await _paced(without, rate, seconds) if without is not None else idle
            found[name] = await _paced(part, rate, seconds) - before
    return found


async def _paced(part: Part, rate: float, seconds: float) -> float:
    """Returns the milliseconds of CPU of one run of a part, with those of the timer."""
    await part()
    runs, began, cpu = max(1, int(rate * seconds)), time.monotonic(), own_cpu()
    for number in range(runs):
        await part()
        await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.monotonic()))
    return 1000 * (own_cpu() - cpu) / runs


def _parts(running: bytes, ended: bytes) -> Mapping[str, tuple[Part, Part | None]]:
    """Returns each part by its name, and with it the work that the bare bridge does too, if there is any."""
    return {
        f"{COMMITS} hand-overs to the writer's thread and back": (_hand_overs(), None),
        f"{LINES} lines of the log": (_log, None),
        "metrics": (_metrics(), None),
        "ids, digests, fingerprint, signature": (_ids(), None),
        "checks of the caller and of the target": (_checks(), None),
        f"{POLLS} answers of amux read and judged": (_answers(running, ended), _documents(running, ended)),
        "the event's bytes": (_event, None),
    }


def _hand_overs() -> Part:
    threads = Threads(1, "bench-writer")

    async def part() -> None:
        for _ in range(COMMITS):
            await threads.submit(int)

    return part


async def _log() -> None:
    fields: dict[str, Any] = {"watch_id": "wat_" + "0" * 26, "task_id": "task_1", "app": "bench", "callback_url": URL}
    for event in ("registered", "status_changed", "settled", "delivered"):
        get_logger("bench").event(event, **fields, attempt=1, status_code=200, error=None, duration_seconds=0.0123)


def _metrics() -> Part:
    metrics, record = Metrics(), observe(200, "application/json", b'{"status":"queued"}', task_id="t", base_url="")

    async def part() -> None:
        metrics.registered.inc()
        for _ in range(POLLS):
            metrics.polls.count(record, 0.01, 0.02)
        for _ in range(COMMITS):
            metrics.store_seconds.labels("register").observe(0.005)
        metrics.settled[Outcome.COMPLETED].inc()
        metrics.detection_seconds.observe(0.5)
        for stage in Stage:
            metrics.stages.observe(stage, 0.5)
        metrics.count_attempt(Answered(200))
        metrics.attempt_seconds.observe(0.01)
        metrics.settle_to_first_attempt_seconds.observe(0.01)
        metrics.settle_to_delivered_seconds.observe(0.02)

    return part


def _ids() -> Part:
    ids, cipher, signer = WatchIds(random.getrandbits), Cipher([KEY], b"r" * 32), Signer([parse_secret(SECRET)])
    events, body = frozenset({EventType.COMPLETED}), b"x" * 500

    async def part() -> None:
        name = ids.next(time.time()).removeprefix("wat_")
        digest("configured", name)
        digest("bench", name, URL)
        cipher.fingerprint("options", options_text(events, None, 3600.0, {}, None, "configured", None))
        signer.headers(f"evt_{name}c", int(time.time()), body)

    return part


def _checks() -> Part:
    settings = settings_module.load(None, **SETTINGS, amux_base_url="http://127.0.0.1:9")
    guard = Guard(TargetPolicy(allow_networks=settings.callback_allow_networks), _no_look_up)
    access = Access(settings.tokens, {})
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {TOKEN}"}))

    async def part() -> None:
        access.caller(headers)
        guard.check_cached(URL)
        await guard.addresses(guard.parse(URL))
        guard.check_peer("127.0.0.1", 9)

    return part


async def _no_look_up(_name: str, _port: int) -> list[str]:
    raise OSError


def _answers(running: bytes, ended: bytes) -> Part:
    async def part() -> None:
        for body in [running] * (POLLS - 1) + [ended]:
            observe(200, "application/json; charset=utf-8", body, task_id="task_1", base_url="http://127.0.0.1:9")

    return part


def _documents(running: bytes, ended: bytes) -> Part:
    async def part() -> None:
        for body in [running] * (POLLS - 1) + [ended]:
            orjson.loads(body)

    return part


async def _event() -> None:
    watch = Watch("wat_" + "0" * 26, "bench", "task_1", URL, frozenset({EventType.COMPLETED}), b"null", 0.0, 0.0, 0.0)
    snapshot = TaskSnapshot(TaskStatus.COMPLETED, 100, "https://cdn.example.com/v/4711.mp4")
    terminal_event(
        watch, Ending(Outcome.COMPLETED, snapshot), time.time(), "https://api.amux.ai/v1/videos/task_1/content"
    )
