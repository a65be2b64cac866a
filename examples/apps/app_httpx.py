"""An app with httpx. It creates a video at amux, registers a watch at the bridge, and waits for the callback.

pip install httpx standardwebhooks
AMUX_API_KEY=sk-... WEBHOOK_SECRET=whsec_... python app_httpx.py
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING

import httpx
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

if TYPE_CHECKING:  # ../receivers/events.py
    from events import VideoEvent

AMUX = os.environ.get("AMUX_BASE_URL", "https://api.amux.ai")
BRIDGE = os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("BRIDGE_TOKEN")  # not needed for a sidecar without tokens
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
events: "Queue[VideoEvent]" = Queue()


class Hook(BaseHTTPRequestHandler):
    """The receiver. The receivers in ../receivers are for web frameworks, and handle a repeated event once."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            events.put(webhook.verify(body, dict(self.headers)))
            self.send_response(204)
        except WebhookVerificationError:
            self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Hook)
    Thread(target=server.serve_forever, daemon=True).start()

    created = httpx.post(
        f"{AMUX}/v1/video/generations",
        headers={"Authorization": f"Bearer {os.environ['AMUX_API_KEY']}"},
        json={"model": os.environ.get("AMUX_MODEL", "seedance-1-0-pro"), "prompt": "a lighthouse in a storm"},
        timeout=60,
    )
    created.raise_for_status()
    task = created.json()

    watched = httpx.post(
        f"{BRIDGE}/watch",
        headers={"Authorization": f"Bearer {TOKEN}"} if TOKEN else {},
        json={
            "task_id": task.get("task_id") or task["id"],
            "callback_url": f"http://127.0.0.1:{server.server_port}/hooks/video",
            "context": {"order": 17},
        },
    )
    watched.raise_for_status()
    print("watching", watched.json()["id"], flush=True)

    event = events.get()  # a web app would start its work here
    print(event["type"], event["data"]["url"], event["data"]["context"])


if __name__ == "__main__":
    main()
