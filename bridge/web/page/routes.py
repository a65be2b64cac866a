"""The page's routes. All but the document stand under `/page`, which is as far as the session's cookie goes."""

from typing import Final

from bridge.web.page import files, live, questions, signing_in, steering
from bridge.web.page.guard import Handler, changing, reading

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    # For all: nothing in them is anybody's.
    ("GET", "/", files.index),
    ("GET", "/page", files.to_index),
    ("GET", "/page/", files.to_index),
    ("GET", "/page/static/{name}", files.static),
    ("GET", "/page/sign-in", files.to_index),
    ("POST", "/page/sign-in", signing_in.sign_in),
    ("GET", "/page/session", signing_in.who),
    # For operators who are signed in.
    ("GET", "/page/overview", reading(questions.read_overview)),
    ("GET", "/page/watches", reading(questions.read_watches)),
    ("GET", "/page/watches/{id}", reading(questions.read_watch)),
    ("GET", "/page/live", reading(live.stream)),
    # Changes: with the same origin's proof and the session's token.
    ("POST", "/page/sign-out", changing(signing_in.sign_out)),
    ("POST", "/page/watches/{id}/cancel", changing(steering.cancel_watch)),
    ("POST", "/page/deliveries/retry", changing(steering.retry_deliveries)),
    ("POST", "/page/deliveries/{id}/retry", changing(steering.retry_delivery)),
)
