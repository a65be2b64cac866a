"""The route of the event feed."""

from typing import Final

from bridge.core.errors import CursorExpired
from bridge.core.model import EventType
from bridge.web.api import json_schemas
from bridge.web.api.event_feed import CALLER, DEFAULT_LIMIT, LATEST, MAX_LIMIT, list_events
from bridge.web.api.response_models import EventFeedPage
from bridge.web.api.route import CallersHandler, Parameter, Response, Route
from bridge.web.api.watches import MAX_WAIT_SECONDS

EVENTS: Final = "Events"
_ABOUT: Final = """\
The events of the app, the oldest first: all terminal events, also those that are not sent, and the status events that \
the watch asked for. Begin without `after`, and continue with the `next_cursor` of each answer: no event is skipped \
and none comes twice, whichever replica answers. A page may have fewer items than `limit`. `410 cursor_expired` says \
that retention may have removed an event after the cursor. Then begin again without `after`.\
"""
_CALLER: Final = "The owner of the token: `app shop`, or `operator ops`."

EVENT_FEED_ROUTES: Final[tuple[Route[CallersHandler], ...]] = (
    Route(
        "GET",
        "/events",
        list_events,
        EVENTS,
        "Read the events",
        {
            200: Response(
                "The next events, each exactly as a receiver gets it.", EventFeedPage, headers={CALLER: _CALLER}
            )
        },
        _ABOUT,
        (
            Parameter(
                "after",
                "The `next_cursor` of the previous page. Without it, the page begins with the oldest event that is"
                " kept. With `latest`, it has only events from now on.",
                {"anyOf": [json_schemas.CURSOR, {"const": LATEST}]},
            ),
            Parameter(
                "limit",
                "The largest number of events in the page.",
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_LIMIT,
                    "default": DEFAULT_LIMIT,
                },
            ),
            Parameter(
                "type",
                "Only events of this type. Can be given several times.",
                {"type": "array", "items": {"enum": list(EventType)}},
            ),
            Parameter(
                "wait_seconds",
                "Hold the response until there is an event, or for this time.",
                {"type": "number", "minimum": 0, "maximum": MAX_WAIT_SECONDS},
            ),
            Parameter(
                "app",
                "Only events of this app. For operators: an app sees only its own events.",
                json_schemas.APP_NAME,
            ),
        ),
        problems=(CursorExpired,),
    ),
)
