"""A real bridge that sends callbacks to the receivers of the pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e.bridges import Bridge
from tests.e2e.harness import Environment

# Bytes that a shell or a JSON parser may change.
CONTEXT = {"note": "caf\u00e9 $HOME \\ %s"}


@dataclass
class Sender:
    """Sends callbacks by a bridge with the stand-in for amux."""

    environment: Environment
    bridge: Bridge

    async def send(self, hook_url: str, form: str = "C") -> Any:
        """Register a watch on a completed task, wait until its event was delivered, and return the watch."""
        watch = await self.bridge.register(self.environment.finished_task(form), hook_url, context=CONTEXT)
        return await self.delivered(await self.bridge.final(watch), 1)

    async def delivered(self, watch: Any, attempts: int) -> Any:
        """Wait until a watch is delivered after this number of attempts. Above 1, first request a retry."""
        if attempts > 1:
            await self.bridge.ask("POST", f"/deliveries/{watch['deliveries'][0]['id']}/retry")
        answer = await self.bridge.until(
            "GET",
            f"/watch/{watch['id']}",
            lambda it: [(one["state"], one["attempts"]) for one in it.json["deliveries"]] == [("delivered", attempts)],
        )
        return answer.json

    async def envelope(self, form: str = "C") -> tuple[Mapping[str, str], bytes]:
        """Send a callback, and return its `webhook-` headers and its bytes, as a receiver gets them."""
        watch = await self.send(self.environment.receiver.url, form)
        answer = await self.bridge.ask("GET", f"/watch/{watch['id']}/envelope")
        return {name: value for name, value in answer.headers.items() if name.startswith("webhook-")}, answer.body

    async def ping(self, hook_url: str) -> None:
        """Ping a receiver, which must accept the ping."""
        answer = await self.bridge.ask("POST", "/ping", json={"callback_url": hook_url})
        assert (answer.status, answer.json["status_code"]) == (200, 204), answer

    def line(self, watch: Any, after: str = "") -> str:
        return f"video.completed {self.environment.video_url(watch['task_id'])}{after}"
