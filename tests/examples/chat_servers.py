"""Local servers that imitate chat bots and low-code tools by the rules of their documentation.

Each check has the link to its rules, and returns the answer that the real server would give. Feishu and DingTalk answer
200 also to a message that they refuse.
"""

from collections.abc import Callable
from typing import Any

from aiohttp import web

KEYWORD = "video"  # the bots at Feishu and DingTalk refuse a message that does not contain it
N8N_TOKEN = "the value of the webhook's header auth"
FEISHU_BYTES = 20 * 1024

Answer = tuple[int, Any]


def slack(body: Any, _headers: Any, _size: int) -> Answer:
    """https://api.slack.com/messaging/webhooks."""
    if not isinstance(body, dict):
        return 400, "invalid_payload"
    text = body.get("text")
    if not isinstance(text, str) or not text.strip():
        return 400, "no_text"
    return (400, "msg_too_long") if len(text) > 40_000 else (200, "ok")


def discord(body: Any, _headers: Any, _size: int) -> Answer:
    """https://discord.com/developers/docs/resources/webhook#execute-webhook."""
    content, embeds = body.get("content") or "", body.get("embeds") or []
    if not content and not embeds:
        return 400, {"message": "Cannot send an empty message", "code": 50006}
    limits = [(content, 2_000)]
    for embed in embeds:
        limits += [(embed["title"], 256), (embed["description"], 4_096)]
    if len(embeds) > 10 or sum(len(text) for text, _ in limits[1:]) > 6_000:
        return 400, {"code": 50035, "message": "Invalid Form Body"}
    if any(not isinstance(text, str) or len(text) > most for text, most in limits):
        return 400, {"code": 50035, "message": "Invalid Form Body"}
    return 204, None


def feishu(body: Any, _headers: Any, size: int) -> Answer:
    """https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot."""
    if size > FEISHU_BYTES or body.get("msg_type") != "text" or not isinstance(body["content"].get("text"), str):
        return 200, {"code": 9499, "msg": "Bad Request", "data": {}}
    if KEYWORD not in body["content"]["text"]:
        return 200, {"code": 19024, "msg": "Key Words Not Found", "data": {}}
    return 200, {"code": 0, "msg": "success", "data": {}}


def dingtalk(body: Any, headers: Any, _size: int) -> Answer:
    """https://open.dingtalk.com/document/robots/custom-robot-access."""
    if not headers["Content-Type"].startswith("application/json"):
        return 200, {"errcode": 43004, "errmsg": "the content type of the HTTP request is wrong"}
    if body.get("msgtype") != "text" or not isinstance(body["text"].get("content"), str):
        return 200, {"errcode": 40035, "errmsg": "a parameter is missing"}
    if KEYWORD not in body["text"]["content"]:
        return 200, {"errcode": 310000, "errmsg": "keywords not in content"}
    return 200, {"errcode": 0, "errmsg": "ok"}


def n8n(body: Any, headers: Any, _size: int) -> Answer:
    """https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/."""
    if headers.get("X-Webhook-Token") != N8N_TOKEN:
        return 403, "Authorization data is wrong!"
    if not isinstance(body, dict):
        return 422, {"code": 422, "message": "Failed to parse request body"}
    return 200, {"message": "Workflow was started"}


def inngest(body: Any, _headers: Any, _size: int) -> Answer:
    """https://www.inngest.com/docs/reference/rest-api/events."""
    if not isinstance(body.get("name"), str) or not body["name"] or not isinstance(body.get("data"), dict):
        return 400, {"error": "event must have a name and data", "status": 400}
    if not isinstance(body.get("id", ""), str) or not isinstance(body.get("ts", 0), int):
        return 400, {"error": "the id or the time is wrong", "status": 400}
    return 200, {"ids": ["01H08W4TMBNKMEWFD0TYC532GG"], "status": 200}


CHECKS: dict[str, Callable[[Any, Any, int], Answer]] = {
    "slack": slack,
    "discord": discord,
    "feishu": feishu,
    "dingtalk": dingtalk,
    "n8n": n8n,
    "inngest": inngest,
}


def accepted(answer: Answer) -> bool:
    """Returns whether the server shows the message. A 200 alone does not mean that."""
    status, body = answer
    return status < 300 and not (isinstance(body, dict) and (body.get("code", 0) or body.get("errcode", 0)))


def application(received: dict[str, list[tuple[Any, Answer]]]) -> web.Application:
    """Returns an application that serves each check at `/NAME/...`, and keeps bodies and answers in `received`."""

    async def handle(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        raw, body = await request.read(), await request.json()
        status, answer = CHECKS[name](body, request.headers, len(raw))
        received[name].append((body, (status, answer)))
        if answer is None:
            return web.Response(status=status)
        return (
            web.Response(status=status, text=answer)
            if isinstance(answer, str)
            else web.json_response(answer, status=status)
        )

    app = web.Application()
    app.router.add_post("/{name}/{rest:.*}", handle)
    return app
