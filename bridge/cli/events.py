"""`events`: prints the events of a running bridge in order and, with `--follow`, waits for new ones."""

import asyncio
from argparse import Namespace

from bridge.cli.client import connect_to_bridge
from bridge.cli.feed import WAIT_SECONDS, Feed, FeedPage, Retrier
from bridge.cli.terminal import Terminal, note

PAGE = 500


def run(args: Namespace) -> int:
    """Prints events, oldest first, until there are no more or `--limit` is reached. Returns 0.

    With `--follow` it waits for more until it is interrupted.
    """
    return asyncio.run(_print_events(args))


async def _print_events(args: Namespace) -> int:
    terminal, after, left, answered = Terminal(), args.after, args.limit, False
    async with connect_to_bridge() as bridge:
        feed = Feed(bridge, args.app, args.type or ())
        retrier = Retrier("the bridge answers again")

        async def next_page() -> FeedPage:
            return await feed.page(after, min(PAGE, left or PAGE), WAIT_SECONDS if args.follow else 0)

        while True:
            # A wrong URL or token is an error at once. Later the command waits for a bridge that restarts.
            page = await (retrier.until_answered(next_page) if args.follow and answered else next_page())
            answered = True
            for event in page.events:
                terminal.print_line(*([event.payload.decode()] if args.json else event.line()))
            left = None if left is None else left - len(page.events)
            at_end = not page.events and page.cursor == after and not args.follow
            after = page.cursor
            if at_end or left == 0:
                break
    if not args.follow:
        note(f"continue with --after {after}")
    return 0
