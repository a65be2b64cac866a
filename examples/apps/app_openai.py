"""An app with the OpenAI SDK, which uses the bridge as its base URL. One call creates a video and registers a watch.

The bridge needs BRIDGE_DROP_IN=true.

pip install openai
BRIDGE_TOKEN=... WEBHOOK_SECRET=whsec_... python app_openai.py
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from typing import Any

from openai import InvalidWebhookSignatureError, OpenAI

# The bridge has the amux key. The app has only a token of the bridge, or any text if the bridge has no tokens.
client = OpenAI(
    base_url=os.environ.get("BRIDGE_URL", "http://127.0.0.1:8080") + "/v1",
    api_key=os.environ.get("BRIDGE_TOKEN", "none"),
    webhook_secret=os.environ["WEBHOOK_SECRET"],
)
events: Queue[Any] = Queue()


class Hook(BaseHTTPRequestHandler):
    """The receiver. The receivers in ../receivers are for web frameworks, and handle a repeated event once."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            events.put(client.webhooks.unwrap(body, dict(self.headers)))
            self.send_response(204)
        except InvalidWebhookSignatureError:
            self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9000"))), Hook)
    Thread(target=server.serve_forever, daemon=True).start()

    answer = client.videos.with_raw_response.create(
        model=os.environ.get("AMUX_MODEL", "seedance-1-0-pro"),
        prompt="a lighthouse in a storm",
        extra_headers={
            "X-Callback-Url": f"http://127.0.0.1:{server.server_port}/hooks/video",
            "X-Callback-Context": '{"order": 17}',
        },
    )
    if "X-Watch-Id" not in answer.headers:  # the video is created, but not watched: register again, or poll
        raise SystemExit(f"not watched: {answer.headers.get('X-Watch-Error')}")
    video = answer.parse()
    print("watching", answer.headers["X-Watch-Id"], flush=True)

    event = events.get()  # a web app would start its work here
    print(event.type, event.data.url, event.data.context)
    if event.type == "video.completed":
        print(len(client.videos.download_content(video.id).read()), "bytes")


if __name__ == "__main__":
    main()
