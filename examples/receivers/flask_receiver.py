"""A receiver with Flask. Set WEBHOOK_SECRET (whsec_...), then:

pip install flask standardwebhooks
flask --app flask_receiver run --port 9000
"""

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:  # the file beside this one
    from events import PingEvent, VideoEvent

app = Flask(__name__)
webhook = Webhook(os.environ["WEBHOOK_SECRET"])


def first_time(event_id: str) -> bool:
    """Whether this event is new. An app does this in the transaction of its work, so a crash loses neither."""
    with closing(sqlite3.connect(os.environ.get("SEEN_DB", "seen.db"))) as seen, seen:
        seen.execute("CREATE TABLE IF NOT EXISTS seen (event_id TEXT PRIMARY KEY)")
        return seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event_id,)).rowcount == 1


@app.post("/hooks/video")
def hook() -> Response:
    body = request.get_data()  # not request.json: the signature is over the bytes as they arrived
    try:
        event: VideoEvent | PingEvent = webhook.verify(body, dict(request.headers))
    except WebhookVerificationError:
        return Response(status=401)
    if first_time(event["id"]):
        print(event["type"], event["data"]["task_id"], event["data"]["url"], flush=True)
    return Response(status=204)  # also for a repeated event, else it is sent again


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ.get("PORT", "9000")))
