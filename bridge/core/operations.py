"""Notices for operators: what happened to a receiver, a delivery or an amux key, as data and as one sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import urlencode

import orjson

from bridge.core.event import envelope

FIRST_IDS = 20  # the most deliveries that a notice names
SUM_UP_SECONDS = 60.0  # between two notices of dead deliveries of one receiver
MOST_A_MINUTE = 20  # notices of one type; if more receivers are concerned, one notice is for all of them
_NAMED = 3  # receivers that the sentence of a notice for several receivers names


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
    """One notice. `at` and `since` are Unix seconds. Fields that do not apply are None.

    `count` is the number of dead deliveries, or of the receiver's pending ones. `credential` is a name, never a key. A
    notice for several receivers has `receivers` and no `receiver`.
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
    receivers: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The notice as one sentence, for people."""
        match self.type:
            case NoticeType.RECEIVER_FAILING:
                pending = _counted(self.count, "delivery is", "deliveries are")
                verb = "fail" if self.receivers else "fails"
                why = "several attempts in a row had no answer, or 429, 502, 503 or 504"
                text = f"{self._who('The')} {verb}: {why}; {pending} pending."
            case NoticeType.RECEIVER_RECOVERED:
                verb, had = ("answer", "the first had") if self.receivers else ("answers", "it had")
                text = f"{self._who('The')} {verb} again; {had} failed since {_clock(self.since)}."
            case NoticeType.RECEIVER_PAUSED:
                text = f"{self.by} paused the receiver {self.receiver}: {self._waiting('waits', 'wait')}."
            case NoticeType.RECEIVER_RESUMED:
                text = f"{self.by} resumed the receiver {self.receiver}: {self._waiting('becomes', 'become')} due."
            case NoticeType.DELIVERY_DEAD:
                since = "" if self.count == 1 else f" since {_clock(self.since)}"
                dead = _counted(self.count, "delivery is", "deliveries are")
                kept = "it is" if self.count == 1 else "they are"
                text = f"{dead} dead at {self._who('the')}{since}; {kept} kept and can be sent again."
            case NoticeType.KEY_REFUSED:
                text = f"amux refuses the {self._key()}; its watches wait, but not beyond their deadlines."
            case NoticeType.KEY_ACCEPTED:
                text = f"amux accepts the {self._key()} again."
        return text

    def _key(self) -> str:
        return "configured key" if self.credential == "configured" else f"key {self.credential}"

    def _who(self, the: str) -> str:
        if not self.receivers:
            return f"{the} receiver {self.receiver}"
        more = len(self.receivers) - _NAMED
        names = ", ".join(self.receivers[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
        return f"{len(self.receivers):,} receivers ({names})"

    def _waiting(self, one: str, many: str) -> str:
        return _counted(self.count, f"delivery {one}", f"deliveries {many}")


def summed_up(notices: Sequence[Notice]) -> Notice:
    """Returns one notice for several receivers, from notices of one type for one receiver each."""
    first = min(notices, key=lambda one: one.since or one.at)
    ids = [delivery_id for one in notices for delivery_id in one.delivery_ids or ()]
    return replace(
        first,
        receiver=None,
        receivers=tuple(one.receiver for one in notices if one.receiver is not None),
        apps=tuple(sorted({app for one in notices for app in one.apps or ()})),
        count=sum(one.count or 0 for one in notices),
        delivery_ids=tuple(ids[:FIRST_IDS]) if ids else None,
    )


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
