"""The page's routes. All but the document stand under `/page`, which is as far as the session's cookie goes."""

from typing import Final

from bridge.web.dashboard import assets, handlers, live_stream, sign_in, steering
from bridge.web.dashboard.csrf import Handler, changing, reading

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    # For all: nothing in them is anybody's.
    ("GET", "/", assets.index),
    ("GET", "/page", assets.to_index),
    ("GET", "/page/", assets.to_index),
    ("GET", "/page/static/{name}", assets.static),
    ("GET", "/page/sign-in", assets.to_index),
    ("POST", "/page/sign-in", sign_in.sign_in),
    ("GET", "/page/session", sign_in.who),
    # For operators who are signed in.
    ("GET", "/page/overview", reading(handlers.read_overview)),
    ("GET", "/page/watches", reading(handlers.read_watches)),
    ("GET", "/page/watches/{id}", reading(handlers.read_watch)),
    ("GET", "/page/live", reading(live_stream.stream)),
    # Changes: with the same origin's proof and the session's token.
    ("POST", "/page/sign-out", changing(sign_in.sign_out)),
    ("POST", "/page/watches/{id}/cancel", changing(steering.cancel_watch)),
    ("POST", "/page/deliveries/retry", changing(steering.retry_deliveries)),
    ("POST", "/page/deliveries/{id}/retry", changing(steering.retry_delivery)),
)
