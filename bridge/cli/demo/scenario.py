"""The demo's stage: the stand-in, a bridge and a receiver in one process, and an app that uses them."""

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
from bridge.cli.receiver import Received, Receiver, taken_if_verified
from bridge.core.signing import Secret, SigningKey, new_secret
from bridge.sandbox import Sandbox
from bridge.service.runtime import Runtime
from bridge.settings.settings import Settings, load

WITHIN_SECONDS = 14.0  # some 5 s pass on a quiet machine; the whole command promises 20, imports included
FRAME_SECONDS = 0.15
DOWN = 500  # what a receiver in trouble answers


@dataclass(slots=True)
class _Heard:
    """What the receiver was told of one task."""

    refusals_left: int
    verified: list[str] = field(default_factory=list)


class Scenario:
    """One performance. `clock` is monotonic, in seconds; what is shown counts from the first task on."""

    def __init__(self, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._began = self._ended = clock()
        self._scenes: dict[str, DemoTask] = {}  # by task id
        self._heard = {scene.prompt: _Heard(scene.refusals) for scene in DEMO_TASKS}
        self._strangers = 0
        self._watches: dict[str, Mapping[str, Any]] = {}

    async def play(self) -> None:
        """Start everything, register, and show what comes until all is told. Raises CommandFailed if it is not."""
        secret, key = new_secret(token_bytes(32)), SigningKey(token_bytes(32))
        async with _started(secret, key, self._take) as (amux_url, bridge_url, hook_url):
            self._screen.opening(
                [
                    ("amux stand-in", amux_url, "tasks in memory, any key"),
                    ("bridge", bridge_url, "asks about each task, tells of its end"),
                    ("receiver", hook_url, "your app: verifies what comes"),
                ]
            )
            self._began = self._clock()
            async with aiohttp.ClientSession(trust_env=False) as app:
                try:
                    async with asyncio.timeout(WITHIN_SECONDS):
                        await self._register(app, amux_url, bridge_url, hook_url)
                        while not self._over():
                            await asyncio.sleep(FRAME_SECONDS)
                            await self._look(app, bridge_url)
                except TimeoutError:
                    raise CommandFailed(self._missing()) from None
                finally:
                    self._ended = self._since()
                    self._screen.leave()
        self._judge()

    def _since(self) -> float:
        return self._clock() - self._began

    # --- as an app does it ----------------------------------------------------------------------------------------

    async def _register(self, app: aiohttp.ClientSession, amux_url: str, bridge_url: str, hook_url: str) -> None:
        """Create each task at amux, and have the bridge watch it."""
        for scene in DEMO_TASKS:
            task = await _posted(
                app,
                f"{amux_url}/v1/video/generations",
                {"model": "demo", "prompt": scene.prompt, "sandbox": scene.sandbox},
                {"Authorization": "Bearer any"},
            )
            self._scenes[task["task_id"]] = scene
            wanted = {
                "task_id": task["task_id"],
                "callback_url": hook_url,
                "context": {"prompt": scene.prompt},
                "timeout_seconds": scene.timeout_seconds,
            }
            await _posted(app, f"{bridge_url}/watch", wanted, {})
            self._screen.registered(scene)

    async def _look(self, app: aiohttp.ClientSession, bridge_url: str) -> None:
        """Ask the bridge where everything stands."""
        async with app.get(f"{bridge_url}/watch") as response:
            page = await response.json()
        for watch in page["items"]:
            self._watches[self._scenes[watch["task_id"]].prompt] = watch
        self._screen.table(
            self._since(), self._watches, {prompt: len(heard.verified) for prompt, heard in self._heard.items()}
        )

    # --- as a receiver does it ------------------------------------------------------------------------------------

    def _take(self, received: Received) -> int:
        """Show one callback and answer it: no to what is not verified, and where the scene has trouble."""
        data = (received.event or {}).get("data")
        scene = self._scenes.get(str(data.get("task_id"))) if isinstance(data, dict) else None
        answer = taken_if_verified(received)
        if scene is None or not received.verified:
            self._strangers += 1
        elif self._heard[scene.prompt].refusals_left:
            self._heard[scene.prompt].refusals_left -= 1
            answer = DOWN
        else:
            self._heard[scene.prompt].verified.append(str((received.event or {})["type"]))
        self._screen.heard(self._since(), scene, received, answered=answer)
        return answer

    # --- whether it went well -------------------------------------------------------------------------------------

    def _over(self) -> bool:
        """Whether every task was told, and the bridge knows that it was heard."""
        states = [owed["state"] for watch in self._watches.values() for owed in watch["deliveries"]]
        return all(heard.verified for heard in self._heard.values()) and states == ["delivered"] * len(DEMO_TASKS)

    def _missing(self) -> str:
        missing = [scene for scene in DEMO_TASKS if not self._heard[scene.prompt].verified]
        names = ", ".join(f"{scene.told} of {scene.prompt!r}" for scene in missing)
        return f"after {WITHIN_SECONDS:g} s these are missing: {names or 'deliveries as recorded by the bridge'}"

    def _judge(self) -> None:
        told = {prompt: heard.verified for prompt, heard in self._heard.items()}
        if self._strangers or told != {scene.prompt: [scene.told] for scene in DEMO_TASKS}:
            raise CommandFailed(f"something else came than was expected: {told}, and {self._strangers} unverified")
        kinds = [scene.told.partition(".")[2].replace("_", " ") for scene in DEMO_TASKS]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        self._screen.closing(
            f"{len(DEMO_TASKS)} of {len(DEMO_TASKS)} tasks told in {self._ended:.1f} s: {counts}.",
            "Every signature verified, nothing lost, nothing told twice.",
        )


@asynccontextmanager
async def _started(
    secret: Secret, key: SigningKey, take: Callable[[Received], int]
) -> AsyncIterator[tuple[str, str, str]]:
    """The three, on free loopback ports: their URLs."""
    sandbox, receiver = Sandbox(), Receiver([secret], take)
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
    """The demo's own, each given, so that nothing of the environment counts."""
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    own: dict[str, Any] = {
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
    return load(env_file=None, **(defaults | own))


async def _posted(app: aiohttp.ClientSession, url: str, body: Any, headers: Mapping[str, str]) -> Any:
    async with app.post(url, json=body, headers=headers) as response:
        answer = await response.json()
        if response.status >= 300:
            raise CommandFailed(f"{url} answered {response.status}: {answer}")
        return answer
