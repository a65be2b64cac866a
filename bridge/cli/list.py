"""`list`: lists the watches of a running bridge, newest first."""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from bridge.cli.client import connect_to_bridge
from bridge.cli.retry import parse_time
from bridge.cli.terminal import Piece, Terminal, printable
from bridge.cli.views import STYLES, deliveries_in_short, status

PAGE: Final = 200  # the bridge's largest page


def run(args: Namespace) -> int:
    """Prints one line for each watch. Returns 0, also if there is none."""
    found, cursor = asyncio.run(_fetch(args))
    if args.json:
        sys.stdout.write(orjson.dumps({"items": found, "next_cursor": cursor}).decode() + "\n")
        return 0
    _print_table(found)
    if not found:
        sys.stderr.write("no watch matches\n")
    elif cursor is not None:
        sys.stderr.write(f"there are more watches: use --limit {2 * args.limit}, or continue with --cursor {cursor}\n")
    return 0


async def _fetch(args: Namespace) -> tuple[list[Any], str | None]:
    """Returns up to `--limit` watches, from as many pages as needed, and the cursor of the next page."""
    filters = _filters(args)
    found: list[Any] = []
    cursor: str | None = args.cursor
    async with connect_to_bridge() as bridge:
        while True:
            place = {"limit": str(min(PAGE, args.limit - len(found)))} | ({} if cursor is None else {"cursor": cursor})
            page = await bridge.request("GET", "/watch", query=filters | place)
            found += page["items"]
            cursor = page["next_cursor"]
            if cursor is None or len(found) >= args.limit:
                return found, cursor


def _filters(args: Namespace) -> dict[str, str]:
    now = datetime.now(UTC)
    given = {
        **{name: getattr(args, name) for name in ("state", "outcome", "delivery_state", "app")},
        "task_id": args.task,
        "q": args.search,
        "callback_host": args.callback_host,
        "created_after": parse_time(args.since, "--since", now),
        "created_before": parse_time(args.until, "--until", now),
    }
    return {name: value for name, value in given.items() if value is not None}


def _print_table(watches: Sequence[Mapping[str, Any]]) -> None:
    rows = [_row(watch) for watch in watches]
    widths = [max(len(cell[0]) for cell in column) for column in zip(*rows, strict=True)]
    terminal = Terminal()
    for row in rows:
        cells = [(text.ljust(width), style) for (text, style), width in zip(row, widths, strict=True)]
        last = (cells[-1][0].rstrip(), cells[-1][1])
        terminal.print_line(*(piece for cell in cells[:-1] for piece in (cell, "  ")), last)


def _row(watch: Mapping[str, Any]) -> list[Piece]:
    word = status(watch)
    progress = watch["task"]["progress"] if watch["state"] == "active" else None
    return [
        (watch["id"], "plain"),
        (word if progress is None else f"{word} {progress} %", STYLES.get(word, "plain")),
        (deliveries_in_short(watch), "plain"),
        (str(watch["created_at"]), "dim"),
        (printable(watch["task_id"]), "plain"),
    ]
