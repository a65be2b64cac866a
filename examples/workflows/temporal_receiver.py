"""A receiver that signals the Temporal workflow which waits for the video. Set WEBHOOK_SECRET (whsec_...), then:

pip install temporalio aiohttp standardwebhooks
python temporal_receiver.py

The watch names the workflow: `"context": {"workflow_id": workflow.info().workflow_id}`. The workflow waits with

    @workflow.signal
    def video_ended(self, event: dict) -> None:
        self.event = event

    await workflow.wait_condition(lambda: self.event is not None)
"""

import os

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

CLIENT = web.AppKey("client", Client)


async def hook(request: web.Request) -> web.Response:
    body = await request.read()  # not request.json(): the signature is over the bytes as they arrived
    try:
        event = Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, dict(request.headers))
    except WebhookVerificationError:
        return web.Response(status=401)
    workflow_id = (event["data"]["context"] or {}).get("workflow_id")
    if workflow_id is None:
        return web.Response(status=204)  # a ping
    try:
        # A signal may come twice: the second one sets the same event.
        await request.app[CLIENT].get_workflow_handle(workflow_id).signal("video_ended", event)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise  # the answer is 500, and the bridge sends the event again
        return web.Response(status=410)  # the workflow has ended: the delivery ends too
    return web.Response(status=204)


async def connect(app: web.Application) -> None:
    app[CLIENT] = await Client.connect(os.environ.get("TEMPORAL_ADDRESS", "localhost:7233"))


if __name__ == "__main__":
    app = web.Application()
    app.on_startup.append(connect)
    app.router.add_post("/hooks/video", hook)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")), print=None)
