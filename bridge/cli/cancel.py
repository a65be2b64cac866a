"""`cancel`: cancels a watch at a running bridge."""

import asyncio
import sys
from argparse import Namespace
from typing import Any

import orjson

from bridge.cli.client import BridgeClient, connect_to_bridge
from bridge.cli.errors import CommandFailed, WrongUsage
from bridge.cli.lookup import check_id, is_delivery, is_watch, watches_of_task


def run(args: Namespace) -> int:
    """Cancels the watch. Returns 0, also if the watch was cancelled before."""
    watch = asyncio.run(_cancel(check_id(args.id)))
    sys.stdout.write((orjson.dumps(watch).decode() if args.json else f"{watch['id']} is cancelled") + "\n")
    return 0


async def _cancel(id_: str) -> Any:
    if is_delivery(id_):
        raise WrongUsage(f"{id_} is a delivery; cancel its watch: `amux-bridge show {id_}` shows the watch's id")
    async with connect_to_bridge() as bridge:
        watch_id = id_ if is_watch(id_) else await _only_active(bridge, id_)
        return await bridge.request("DELETE", f"/watch/{watch_id}")


async def _only_active(bridge: BridgeClient, task_id: str) -> str:
    """Returns the id of the one active watch on a task. Raises CommandFailed if there is none, or if there are more."""
    found = await watches_of_task(bridge, task_id, state="active")
    if len(found) == 1:
        return str(found[0]["id"])
    if not found:
        raise CommandFailed(f"there is no active watch on the task {task_id}")
    ids = ", ".join(watch["id"] for watch in found[:5])
    raise CommandFailed(f"the task {task_id} has {len(found)} active watches; cancel them one by one: {ids}")
