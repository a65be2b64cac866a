"""The table of the routes of receivers."""

from typing import Final

from bridge.web.api import receivers
from bridge.web.api.json_schemas import RECEIVER
from bridge.web.api.route import CallersHandler, Parameter, Response, Route
from bridge.web.errors import Forbidden

RECEIVERS: Final = "Receivers"
_RECEIVER: Final = Parameter(
    "receiver",
    "A host and its port, in any case: `app.example:443`, `[2001:db8::1]:8080`. The receiver may be unknown.",
    RECEIVER,
    "path",
)

RECEIVER_ROUTES: Final[tuple[Route[CallersHandler], ...]] = (
    Route(
        "GET",
        "/receivers",
        receivers.list_receivers,
        RECEIVERS,
        "List receivers",
        {200: Response("Each receiver, by name.", receivers.ReceiverList)},
        "For operators. The figures cover the last 24 hours. Attempts of other replicas are added within seconds.",
        problems=(Forbidden,),
    ),
    Route(
        "POST",
        "/receivers/{receiver}/pause",
        receivers.pause_receiver,
        RECEIVERS,
        "Pause a receiver",
        {200: Response("The receiver. Its deliveries wait and use up no attempts.", receivers.ReceiverBody)},
        "For operators. Can be repeated. A retry of a delivery is accepted and waits too. Every replica follows within"
        " 5 seconds; attempts under way end as usual.",
        (_RECEIVER,),
        problems=(Forbidden,),
    ),
    Route(
        "POST",
        "/receivers/{receiver}/resume",
        receivers.resume_receiver,
        RECEIVERS,
        "Resume a receiver",
        {200: Response("The receiver. All its pending deliveries become due.", receivers.ReceiverBody)},
        "For operators. Can be repeated. The deliveries become due one after the other: 100 in a second, or more, so"
        " that all are due within 15 minutes.",
        (_RECEIVER,),
        problems=(Forbidden,),
    ),
)
