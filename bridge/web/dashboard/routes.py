"""The dashboard's routes. All but the document are under `/page`, because the session's cookie is sent only there."""

from typing import Final

from bridge.web.dashboard import assets, bulk, export, handlers, live_stream, sign_in, watch_table
from bridge.web.dashboard.csrf import Handler, changing, reading

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    # Public: they contain no data.
    ("GET", "/", assets.index),
    ("GET", "/page", assets.to_index),
    ("GET", "/page/", assets.to_index),
    ("GET", "/page/static/{name}", assets.static),
    ("GET", "/page/sign-in", assets.to_index),
    ("POST", "/page/sign-in", sign_in.sign_in),
    ("GET", "/page/session", sign_in.read_session),
    # With a session.
    ("GET", "/page/overview", reading(handlers.read_overview)),
    ("GET", "/page/watches", reading(watch_table.read_watches)),
    ("GET", "/page/watches.csv", reading(export.export_csv)),
    ("GET", "/page/watches.jsonl", reading(export.export_json_lines)),
    ("GET", "/page/watches/{id}", reading(handlers.read_watch)),
    ("GET", "/page/watches/{id}/payloads", reading(handlers.read_payloads)),
    ("GET", "/page/live", reading(live_stream.stream)),
    # With a session, a request from the same origin and the session's CSRF token.
    ("POST", "/page/sign-out", changing(sign_in.sign_out)),
    ("POST", "/page/watches/cancel", changing(bulk.cancel_watches)),
    ("POST", "/page/watches/resend", changing(bulk.resend_deliveries)),
    ("POST", "/page/watches/{id}/cancel", changing(handlers.cancel_watch)),
    ("POST", "/page/watches/{id}/ping", changing(handlers.ping_receiver)),
    ("POST", "/page/deliveries/retry", changing(handlers.retry_deliveries)),
    ("POST", "/page/receivers/{receiver}/pause", changing(handlers.pause_receiver)),
    ("POST", "/page/receivers/{receiver}/resume", changing(handlers.resume_receiver)),
    ("POST", "/page/deliveries/{id}/retry", changing(handlers.retry_delivery)),
)
