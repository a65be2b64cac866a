"""A receiver with FastAPI. Set WEBHOOK_SECRET (whsec_...), then:

pip install fastapi uvicorn standardwebhooks
python fastapi_receiver.py
"""

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI, Request, Response
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:  # the file beside this one
    from events import PingEvent, VideoEvent

app = FastAPI()
webhook = Webhook(os.environ["WEBHOOK_SECRET"])


def first_time(event_id: str) -> bool:
    """Whether this event is new. An app does this in the transaction of its work, so a crash loses neither."""
    with closing(sqlite3.connect(os.environ.get("SEEN_DB", "seen.db"))) as seen, seen:
        seen.execute("CREATE TABLE IF NOT EXISTS seen (event_id TEXT PRIMARY KEY)")
        return seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event_id,)).rowcount == 1


@app.post("/hooks/video")
async def hook(request: Request) -> Response:
    body = await request.body()  # not a pydantic model: the signature is over the bytes as they arrived
    try:
        event: VideoEvent | PingEvent = webhook.verify(body, dict(request.headers))
    except WebhookVerificationError:
        return Response(status_code=401)
    if first_time(event["id"]):
        print(event["type"], event["data"]["task_id"], event["data"]["url"], flush=True)
    return Response(status_code=204)  # also for a repeated event, else it is sent again


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")), log_level="warning")
