"""A receiver with aiohttp. Set WEBHOOK_SECRET (whsec_...), then:

pip install aiohttp standardwebhooks
python aiohttp_receiver.py
"""

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:  # the file beside this one
    from events import PingEvent, VideoEvent

webhook = Webhook(os.environ["WEBHOOK_SECRET"])


def first_time(event_id: str) -> bool:
    """Whether this event is new. An app does this in the transaction of its work, so a crash loses neither."""
    with closing(sqlite3.connect(os.environ.get("SEEN_DB", "seen.db"))) as seen, seen:
        seen.execute("CREATE TABLE IF NOT EXISTS seen (event_id TEXT PRIMARY KEY)")
        return seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event_id,)).rowcount == 1


async def hook(request: web.Request) -> web.Response:
    body = await request.read()  # the bytes as they arrived: JSON that is written again has another signature
    try:
        event: VideoEvent | PingEvent = webhook.verify(body, dict(request.headers))
    except WebhookVerificationError:
        return web.Response(status=401)
    if first_time(event["id"]):
        print(event["type"], event["data"]["task_id"], event["data"]["url"], flush=True)
    return web.Response(status=204)  # also for a repeated event, else it is sent again


app = web.Application()
app.router.add_post("/hooks/video", hook)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")), print=None)
