"""Runs the demo: the stand-in, a bridge and a receiver in one process, and an app that uses them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from secrets import token_bytes
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from bridge.cli.demo.screen import Screen
from bridge.cli.demo.tasks import DEMO_TASKS, DemoTask
from bridge.cli.errors import CommandFailed
from bridge.cli.receiver import ReceivedCallback, Receiver, status_for
from bridge.core.signing import Secret, SigningKey, new_secret
from bridge.sandbox import Sandbox
from bridge.service.runtime import Runtime
from bridge.settings.settings import Settings, load

WITHIN_SECONDS = 14.0  # about 5 s on a quiet machine; the whole command, with its imports, must end within 20 s
FRAME_SECONDS = 0.15
RECEIVER_ERROR = 500  # the receiver's answer to an attempt that must fail


@dataclass(slots=True)
class _TaskCallbacks:
    """The callbacks of one task: attempts that the receiver must still fail, and the types of the accepted events."""

    attempts_to_fail: int
    accepted: list[str] = field(default_factory=list)


class Scenario:
    """One run of the demo. `clock` is monotonic, in seconds; the times that are shown count from the first task."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._started_at = clock()
        self._finished_after = 0.0
        self._tasks: dict[str, DemoTask] = {}  # by task id
        self._callbacks = {task.prompt: _TaskCallbacks(task.failed_attempts) for task in DEMO_TASKS}
        self._unexpected = 0  # callbacks that are not verified or belong to no task
        self._watches: dict[str, Mapping[str, Any]] = {}  # by prompt, as the API returns them

    async def run(self) -> None:
        """Starts the services, registers the tasks and shows each callback until every event is delivered.

        Raises CommandFailed if an event is missing, comes twice or is not verified.
        """
        secret, key = new_secret(token_bytes(32)), SigningKey(token_bytes(32))
        async with _start_services(secret, key, self._on_callback) as (amux_url, bridge_url, hook_url):
            self._screen.show_services(
                [
                    ("amux stand-in", amux_url, "tasks in memory, any key"),
                    ("bridge", bridge_url, "polls each task, sends a callback when it ends"),
                    ("receiver", hook_url, "your app: verifies each callback"),
                ]
            )
            self._started_at = self._clock()
            async with aiohttp.ClientSession(trust_env=False) as app:
                try:
                    async with asyncio.timeout(WITHIN_SECONDS):
                        await self._register(app, amux_url, bridge_url, hook_url)
                        while not self._all_delivered():
                            await asyncio.sleep(FRAME_SECONDS)
                            await self._refresh(app, bridge_url)
                except TimeoutError:
                    raise CommandFailed(self._missing_sentence()) from None
                finally:
                    self._finished_after = self._elapsed()
                    self._screen.release()
        self._check_result()

    def _elapsed(self) -> float:
        return self._clock() - self._started_at

    # --- the app's side -------------------------------------------------------------------------------------------

    async def _register(self, app: aiohttp.ClientSession, amux_url: str, bridge_url: str, hook_url: str) -> None:
        """Creates each task at amux and registers a watch on it."""
        for task in DEMO_TASKS:
            created = await _post(
                app,
                f"{amux_url}/v1/video/generations",
                {"model": "demo", "prompt": task.prompt, "sandbox": task.sandbox},
                {"Authorization": "Bearer any"},
            )
            self._tasks[created["task_id"]] = task
            watch = {
                "task_id": created["task_id"],
                "callback_url": hook_url,
                "context": {"prompt": task.prompt},
                "timeout_seconds": task.timeout_seconds,
            }
            await _post(app, f"{bridge_url}/watch", watch, {})
            self._screen.show_registered(task)

    async def _refresh(self, app: aiohttp.ClientSession, bridge_url: str) -> None:
        """Reads the watches from the bridge and draws the table."""
        async with app.get(f"{bridge_url}/watch") as response:
            page = await response.json()
        for watch in page["items"]:
            self._watches[self._tasks[watch["task_id"]].prompt] = watch
        self._screen.draw_table(
            self._elapsed(),
            self._watches,
            {prompt: len(callbacks.accepted) for prompt, callbacks in self._callbacks.items()},
        )

    # --- the receiver's side --------------------------------------------------------------------------------------

    def _on_callback(self, callback: ReceivedCallback) -> int:
        """Shows one callback and returns the status to answer with: an error if it is not verified or must fail."""
        data = (callback.event or {}).get("data")
        task = self._tasks.get(str(data.get("task_id"))) if isinstance(data, dict) else None
        status = status_for(callback)
        if task is None or not callback.verified:
            self._unexpected += 1
        elif self._callbacks[task.prompt].attempts_to_fail:
            self._callbacks[task.prompt].attempts_to_fail -= 1
            status = RECEIVER_ERROR
        else:
            self._callbacks[task.prompt].accepted.append(str((callback.event or {})["type"]))
        self._screen.show_callback(self._elapsed(), task, callback, status=status)
        return status

    # --- the result -----------------------------------------------------------------------------------------------

    def _all_delivered(self) -> bool:
        """Returns whether the receiver has accepted an event of each task and the bridge has recorded each delivery."""
        states = [delivery["state"] for watch in self._watches.values() for delivery in watch["deliveries"]]
        return all(callbacks.accepted for callbacks in self._callbacks.values()) and states == ["delivered"] * len(
            DEMO_TASKS
        )

    def _missing_sentence(self) -> str:
        missing = [task for task in DEMO_TASKS if not self._callbacks[task.prompt].accepted]
        names = ", ".join(f"{task.expected_event} of {task.prompt!r}" for task in missing)
        return f"after {WITHIN_SECONDS:g} s these are missing: {names or 'records of deliveries in the bridge'}"

    def _check_result(self) -> None:
        accepted = {prompt: callbacks.accepted for prompt, callbacks in self._callbacks.items()}
        if self._unexpected or accepted != {task.prompt: [task.expected_event] for task in DEMO_TASKS}:
            raise CommandFailed(
                f"the receiver got other events than expected: {accepted}, and {self._unexpected} callbacks that "
                "were not verified or belong to no task"
            )
        outcomes = [task.expected_event.partition(".")[2].replace("_", " ") for task in DEMO_TASKS]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
        self._screen.show_summary(
            f"{len(DEMO_TASKS)} of {len(DEMO_TASKS)} callbacks delivered in {self._finished_after:.1f} s: {counts}.",
            "Every signature was verified. No event was lost, and none was delivered twice.",
        )


@asynccontextmanager
async def _start_services(
    secret: Secret, key: SigningKey, on_callback: Callable[[ReceivedCallback], int]
) -> AsyncIterator[tuple[str, str, str]]:
    """Starts the stand-in, the receiver and the bridge on free loopback ports; yields the URLs."""
    sandbox, receiver = Sandbox(), Receiver([secret], on_callback)
    with TemporaryDirectory(prefix="amux-bridge-demo-") as folder:
        try:
            amux_url = await sandbox.start()
            hook_url = await receiver.start("127.0.0.1", 0)
            runtime = await Runtime.start(_settings(amux_url, Path(folder), secret, key))
            try:
                yield amux_url, runtime.url, hook_url
            finally:
                await runtime.stop()
        finally:
            await receiver.stop()
            await sandbox.stop()


def _settings(amux_url: str, folder: Path, secret: Secret, key: SigningKey) -> Settings:
    """Returns the demo's settings. Every setting has a value here, so that the environment is ignored."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    changed: dict[str, Any] = {
        "amux_api_key": "any",
        "amux_base_url": amux_url,
        "port": 0,
        "database_url": f"sqlite:///{folder / 'bridge.db'}",
        "signing_secrets": (secret,),
        "signing_key": key,
        "callback_allow_networks": (ip_network("127.0.0.0/8"),),
        "poll_first_delay_seconds": 0.2,
        "poll_interval_seconds": 0.3,
        "poll_max_interval_seconds": 0.5,
        "delivery_retry_delays_seconds": (0.6, 1, 2),
        "drain_timeout_seconds": 2,
    }
    return load(env_file=None, **(defaults | changed))


async def _post(app: aiohttp.ClientSession, url: str, body: Any, headers: Mapping[str, str]) -> Any:
    async with app.post(url, json=body, headers=headers) as response:
        answer = await response.json()
        if response.status >= 300:
            raise CommandFailed(f"{url} answered {response.status}: {answer}")
        return answer
