"""Values and requests for the tests of drop-in creation."""

from typing import Any

from bridge.web.context import DropIn
from tests.web.harness import Answer, Bridge

KEY = "sk-configured"
CALLBACK = {"X-Callback-Url": "https://app.example/hook"}
CREATE = {"model": "sora-2", "prompt": "a fox"}
PATHS = ("/v1/videos", "/v1/video/generations")
DROP_IN = DropIn(retry_delays=(0.0, 0.0))


async def create(bridge: Bridge, path: str = "/v1/videos", body: Any = CREATE, **headers: str) -> Answer:
    """Sends a create call. A header's name may have `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await bridge.post(path, body, headers=named)


async def watches(bridge: Bridge) -> list[Any]:
    """Returns the watches of app `shop`, newest first."""
    found: list[Any] = (await bridge.get("/watch")).json["items"]
    return found
