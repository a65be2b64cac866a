"""`show`: shows one watch, or one delivery with its attempts."""

import asyncio
import sys
from argparse import Namespace
from typing import Any

import orjson

from bridge.cli.client import BridgeClient, connect_to_bridge
from bridge.cli.errors import CommandFailed
from bridge.cli.lookup import check_id, is_delivery, is_watch, watches_of_task
from bridge.cli.terminal import Terminal
from bridge.cli.views import delivery_pairs, print_pairs, watch_pairs


def run(args: Namespace) -> int:
    """Prints the watch or the delivery that the id names."""
    found, others = asyncio.run(_find(check_id(args.id)))
    if args.json:
        sys.stdout.write(orjson.dumps(found).decode() + "\n")
        return 0
    print_pairs(Terminal(), list(delivery_pairs(found) if "attempt_log" in found else watch_pairs(found)))
    if others:
        sys.stderr.write(f"this is the newest of {others + 1} watches on the task: list --task {args.id}\n")
    return 0


async def _find(id_: str) -> tuple[Any, int]:
    """Returns the watch or the delivery, and how many other watches the task has."""
    async with connect_to_bridge() as bridge:
        if is_watch(id_):
            return await bridge.request("GET", f"/watch/{id_}"), 0
        if is_delivery(id_):
            return await bridge.request("GET", f"/deliveries/{id_}"), 0
        return await _newest(bridge, id_)


async def _newest(bridge: BridgeClient, task_id: str) -> tuple[Any, int]:
    found = await watches_of_task(bridge, task_id)
    if not found:
        raise CommandFailed(f"there is no watch on the task {task_id}")
    return found[0], len(found) - 1
