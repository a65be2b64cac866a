"""Reads an id on the command line, which names a watch, a delivery or a task."""

import re
from typing import Any, Final

from bridge.cli.client import BridgeClient
from bridge.cli.errors import WrongUsage

_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,191}")  # the characters of a task id; ids of the bridge have fewer


def check_id(text: str) -> str:
    """Returns an id. Raises WrongUsage for any other text, such as a URL."""
    if not _ID.fullmatch(text) or not text.strip("."):
        raise WrongUsage(f"{text!r} is not the id of a watch (wat_...), a delivery (evt_...) or a task")
    return text


def is_watch(text: str) -> bool:
    """Returns whether an id is the id of a watch."""
    return text.startswith("wat_")


def is_delivery(text: str) -> bool:
    """Returns whether an id is the id of a delivery."""
    return text.startswith("evt_")


async def watches_of_task(bridge: BridgeClient, task_id: str, **filters: str) -> list[Any]:
    """Returns up to 200 watches on a task, newest first. `filters` are more query parameters of `GET /watch`."""
    page = await bridge.request("GET", "/watch", query={"task_id": task_id, "limit": "200", **filters})
    found: list[Any] = page["items"]
    return found
