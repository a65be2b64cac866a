"""Notices for operators: the sentence of each, several notices in one, the link to the page, the body."""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.core.operations import FIRST_IDS, Notice, NoticeType, notice_payload, page_url, summed_up

AT = datetime(2026, 11, 23, 15, 4, 5, 250_000, UTC).timestamp()
SINCE = datetime(2026, 11, 22, 3, 4, 5, 60_000, UTC).timestamp()
HOST = "app.example:443"
FAILING, RECOVERED, DEAD = NoticeType.RECEIVER_FAILING, NoticeType.RECEIVER_RECOVERED, NoticeType.DELIVERY_DEAD


def notice(notice_type: NoticeType, **fields: Any) -> Notice:
    return Notice(notice_type, AT, **{"receiver": HOST, "since": SINCE, **fields})


def several(count: int) -> tuple[str, ...]:
    return tuple(f"app{number}.example:443" for number in range(count))


SINCE_TEXT = "2026-11-22 03:04:05 UTC"
WHY = "several attempts in a row had no answer, or 429, 502, 503 or 504"
TWO = "2 receivers (app0.example:443, app1.example:443)"
THREE = "3 receivers (app0.example:443, app1.example:443, app2.example:443)"
FOUR = "4 receivers (app0.example:443, app1.example:443, app2.example:443 and 1 more)"
MANY = "1,234 receivers (app0.example:443, app1.example:443, app2.example:443 and 1,231 more)"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (notice(FAILING, count=1), f"The receiver {HOST} fails: {WHY}; 1 delivery is pending."),
        (notice(FAILING, count=0), f"The receiver {HOST} fails: {WHY}; 0 deliveries are pending."),
        (notice(FAILING), f"The receiver {HOST} fails: {WHY}; 0 deliveries are pending."),
        (notice(FAILING, count=1234, receivers=several(2)), f"{TWO} fail: {WHY}; 1,234 deliveries are pending."),
        (notice(RECOVERED), f"The receiver {HOST} answers again; it had failed since {SINCE_TEXT}."),
        (notice(RECOVERED, since=None), f"The receiver {HOST} answers again; it had failed since an earlier time."),
        (
            notice(RECOVERED, receivers=several(3)),
            f"{THREE} answer again; the first had failed since {SINCE_TEXT}.",
        ),
        (
            notice(NoticeType.RECEIVER_PAUSED, by="ops", count=1),
            f"ops paused the receiver {HOST}: 1 delivery waits.",
        ),
        (
            notice(NoticeType.RECEIVER_PAUSED, by="ops", count=2),
            f"ops paused the receiver {HOST}: 2 deliveries wait.",
        ),
        (
            notice(NoticeType.RECEIVER_RESUMED, by="ops", count=1),
            f"ops resumed the receiver {HOST}: 1 delivery becomes due.",
        ),
        (
            notice(NoticeType.RECEIVER_RESUMED, by="ops", count=0),
            f"ops resumed the receiver {HOST}: 0 deliveries become due.",
        ),
        (notice(DEAD, count=1), f"1 delivery is dead at the receiver {HOST}; it is kept and can be sent again."),
        (
            notice(DEAD, count=2),
            f"2 deliveries are dead at the receiver {HOST} since {SINCE_TEXT}; they are kept and can be sent again.",
        ),
        (
            notice(DEAD, count=7, receivers=several(4)),
            f"7 deliveries are dead at {FOUR} since {SINCE_TEXT}; they are kept and can be sent again.",
        ),
        (
            notice(DEAD, count=9000, receivers=several(1234)),
            f"9,000 deliveries are dead at {MANY} since {SINCE_TEXT}; they are kept and can be sent again.",
        ),
        (
            notice(NoticeType.KEY_REFUSED, credential="configured"),
            "amux refuses the configured key; its watches wait, but not beyond their deadlines.",
        ),
        (
            notice(NoticeType.KEY_REFUSED, credential="k1"),
            "amux refuses the key k1; its watches wait, but not beyond their deadlines.",
        ),
        (notice(NoticeType.KEY_ACCEPTED, credential="configured"), "amux accepts the configured key again."),
        (notice(NoticeType.KEY_ACCEPTED, credential="k1"), "amux accepts the key k1 again."),
    ],
)
def test_the_message_is_one_sentence_for_people(found: Notice, message: str) -> None:
    assert found.message == message


def test_times_are_in_utc_wherever_the_bridge_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "XYZ-8")
        time.tzset()
        message = notice(RECOVERED).message
    time.tzset()
    assert message.endswith(f"since {SINCE_TEXT}.")


@pytest.mark.parametrize("kind", NoticeType)
def test_each_notice_is_one_sentence_without_the_name_of_a_missing_value(kind: NoticeType) -> None:
    full = Notice(kind, 2.0, HOST, "configured", ("app",), 1, ("evt_1",), 1.0, "ops")
    for one in (full, replace(full, count=2_000), Notice(kind, 2.0)):
        assert one.message.endswith(".")
        assert ". " not in one.message
        assert "None" not in one.message or one == Notice(kind, 2.0)


# --- several in one -----------------------------------------------------------------------------------------------


def test_several_notices_become_one_that_names_their_receivers_and_adds_up_the_rest() -> None:
    parts = [
        notice(DEAD, receiver="b:1", since=30.0, apps=("shop", "blog"), count=2, delivery_ids=("evt_3", "evt_4")),
        notice(DEAD, receiver="a:1", since=10.0, apps=("shop", "art"), count=40, delivery_ids=("evt_1",)),
        notice(DEAD, receiver="c:1", since=20.0),
    ]
    assert summed_up(parts) == Notice(
        DEAD,
        AT,
        receiver=None,
        apps=("art", "blog", "shop"),
        count=42,
        delivery_ids=("evt_3", "evt_4", "evt_1"),
        since=10.0,
        receivers=("b:1", "a:1", "c:1"),
    )


def test_a_notice_without_a_time_counts_from_its_own_and_a_sum_of_none_has_no_deliveries() -> None:
    earlier, later = Notice(FAILING, 5.0, receiver="a:1"), Notice(FAILING, 9.0, receiver="b:1", since=6.0)
    for parts in ([earlier, later], [later, earlier]):
        summed = summed_up(parts)
        assert (summed.at, summed.since, summed.delivery_ids, summed.count, summed.apps) == (5.0, None, None, 0, ())
    assert summed_up([earlier, Notice(FAILING, 9.0, since=1.0)]).receivers == ("a:1",)


def test_the_first_twenty_deliveries_are_named() -> None:
    ids = tuple(f"evt_{number}" for number in range(2 * FIRST_IDS))
    parts = [notice(DEAD, delivery_ids=ids[: FIRST_IDS - 1]), notice(DEAD, delivery_ids=ids[FIRST_IDS - 1 :])]
    assert FIRST_IDS == 20
    assert summed_up(parts).delivery_ids == ids[:20]


# --- link and body ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "fragment"),
    [
        (notice(FAILING), "#host=app.example%3A443"),
        (notice(RECOVERED, receiver=None), ""),
        (notice(DEAD), "#host=app.example%3A443&delivery_state=dead"),
        (notice(DEAD, receiver=None), "#delivery_state=dead"),
        (notice(NoticeType.KEY_REFUSED, receiver=None, credential="k1"), "#trouble=key"),
        (notice(NoticeType.KEY_ACCEPTED, receiver=None, credential="k1"), ""),
    ],
)
def test_the_link_shows_the_watches_that_the_notice_is_about(found: Notice, fragment: str) -> None:
    for public_url in ("https://bridge.example/base", "https://bridge.example/base/"):
        assert page_url(found, public_url) == f"https://bridge.example/base/{fragment}"
    assert page_url(found, "https://bridge.example/X") == f"https://bridge.example/X/{fragment}"
    assert page_url(found, None) is None


def test_the_body_has_every_field_and_null_for_what_does_not_apply() -> None:
    fields = ("receiver", "credential", "apps", "count", "delivery_ids", "since", "by", "message", "page_url")
    found = Notice(NoticeType.KEY_ACCEPTED, AT, credential="k1")
    event = json.loads(notice_payload(found, "evt_1", None))
    assert event == {
        "id": "evt_1",
        "object": "event",
        "type": "bridge.key_accepted",
        "created_at": int(AT),
        "timestamp": "2026-11-23T15:04:05Z",
        "data": {**dict.fromkeys(fields), "credential": "k1", "message": "amux accepts the key k1 again."},
    }
    assert tuple(event["data"]) == fields


def test_the_body_has_the_values_of_the_notice() -> None:
    found = notice(NoticeType.RECEIVER_PAUSED, by="ops", count=1, apps=("shop",), delivery_ids=("evt_1", "evt_2"))
    event = json.loads(notice_payload(found, "evt_9", "https://bridge.example"))
    assert event["data"] == {
        "receiver": HOST,
        "credential": None,
        "apps": ["shop"],
        "count": 1,
        "delivery_ids": ["evt_1", "evt_2"],
        "since": "2026-11-22T03:04:05.060Z",
        "by": "ops",
        "message": f"ops paused the receiver {HOST}: 1 delivery waits.",
        "page_url": "https://bridge.example/#host=app.example%3A443",
    }
