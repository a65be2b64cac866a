"""Notices for operators: what happened to a receiver, a delivery or an amux key, as data and as one sentence."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import urlencode

import orjson

from bridge.core.event import envelope

FIRST_IDS = 20  # deliveries that a notice names
SUM_UP_SECONDS = 60.0  # between two notices of dead deliveries of one receiver


class NoticeType(StrEnum):
    """The type of a notice."""

    RECEIVER_FAILING = "bridge.receiver_failing"
    RECEIVER_RECOVERED = "bridge.receiver_recovered"
    RECEIVER_PAUSED = "bridge.receiver_paused"
    RECEIVER_RESUMED = "bridge.receiver_resumed"
    DELIVERY_DEAD = "bridge.delivery_dead"
    KEY_REFUSED = "bridge.key_refused"
    KEY_ACCEPTED = "bridge.key_accepted"


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice. `at` and `since` are Unix seconds; what does not apply is None.

    `count` is the number of dead deliveries, or of the receiver's pending ones. `credential` is a name, never a key.
    """

    type: NoticeType
    at: float
    receiver: str | None = None
    credential: str | None = None
    apps: tuple[str, ...] | None = None
    count: int | None = None
    delivery_ids: tuple[str, ...] | None = None
    since: float | None = None
    by: str | None = None

    @property
    def message(self) -> str:
        """The notice as one sentence or two, for people."""
        match self.type:
            case NoticeType.RECEIVER_FAILING:
                text = (
                    f"The receiver {self.receiver} fails: several attempts in a row had no answer, or 429, 502, 503 or "
                    f"504. {_counted(self.count, 'delivery is', 'deliveries are')} pending."
                )
            case NoticeType.RECEIVER_RECOVERED:
                text = f"The receiver {self.receiver} answers again. It had failed since {_clock(self.since)}."
            case NoticeType.RECEIVER_PAUSED:
                text = f"{self.by} paused the receiver {self.receiver}: {self._waiting('waits', 'wait')}."
            case NoticeType.RECEIVER_RESUMED:
                text = f"{self.by} resumed the receiver {self.receiver}: {self._waiting('becomes', 'become')} due."
            case NoticeType.DELIVERY_DEAD:
                since = "" if self.count == 1 else f" since {_clock(self.since)}"
                dead = _counted(self.count, "delivery is", "deliveries are")
                kept = "It is" if self.count == 1 else "They are"
                text = f"{dead} dead at the receiver {self.receiver}{since}. {kept} kept and can be sent again."
            case NoticeType.KEY_REFUSED:
                text = f"amux refuses the key {self.credential}. Its watches wait, but not beyond their deadlines."
            case NoticeType.KEY_ACCEPTED:
                text = f"amux accepts the key {self.credential} again."
        return text

    def _waiting(self, one: str, many: str) -> str:
        return _counted(self.count, f"delivery {one}", f"deliveries {many}")


def _counted(count: int | None, one: str, many: str) -> str:
    return f"1 {one}" if count == 1 else f"{count or 0:,} {many}"


def _clock(at: float | None) -> str:
    return "an earlier time" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def page_url(notice: Notice, public_url: str | None) -> str | None:
    """Returns the dashboard's URL with the watches that a notice is about; None without BRIDGE_PUBLIC_URL."""
    if public_url is None:
        return None
    filters: dict[str, str] = {}
    if notice.receiver is not None:
        filters["host"] = notice.receiver
    if notice.type is NoticeType.DELIVERY_DEAD:
        filters["delivery_state"] = "dead"
    if notice.type is NoticeType.KEY_REFUSED:
        filters["trouble"] = "key"
    return f"{public_url.rstrip('/')}/" + (f"#{urlencode(filters)}" if filters else "")


def notice_payload(notice: Notice, notice_id: str, public_url: str | None) -> bytes:
    """Returns the body of a notice's callback."""
    data = {
        "receiver": notice.receiver,
        "credential": notice.credential,
        "apps": notice.apps,
        "count": notice.count,
        "delivery_ids": notice.delivery_ids,
        "since": None if notice.since is None else _rfc3339(notice.since),
        "by": notice.by,
        "message": notice.message,
        "page_url": page_url(notice, public_url),
    }
    return orjson.dumps(envelope(notice_id, notice.type, notice.at, data))


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
