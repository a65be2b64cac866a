"""A receiver that hands each event to a Celery task. Set WEBHOOK_SECRET (whsec_...) and BROKER_URL, then:

pip install celery redis aiohttp standardwebhooks
celery --app celery_receiver worker
python celery_receiver.py
"""

import asyncio
import os

from aiohttp import web
from celery import Celery
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

celery = Celery("videos", broker=os.environ.get("BROKER_URL", "redis://localhost:6379/0"))


@celery.task(name="video_ended", acks_late=True, ignore_result=True)  # without a name it has the one of __main__
def video_ended(event: dict) -> None:
    # It may run twice: a unique column with event["id"], in the transaction of the work, makes the second run harmless.
    print(f"{event['type']} {event['data']['task_id']} {event['data']['url']}", flush=True)


async def hook(request: web.Request) -> web.Response:
    body = await request.read()  # not request.json(): the signature is over the bytes as they arrived
    try:
        event = Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, dict(request.headers))
    except WebhookVerificationError:
        return web.Response(status=401)
    # Without the broker this raises, the answer is 500, and the bridge sends the event again.
    await asyncio.to_thread(video_ended.apply_async, (event,), task_id=event["id"], retry=False)
    return web.Response(status=204)


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/hooks/video", hook)
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "9000")), print=None)
