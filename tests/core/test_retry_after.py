"""Every form of Retry-After, and anything else, read as seconds from now."""

import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.retry_after import retry_after_seconds


@given(st.text() | st.datetimes().map(lambda moment: moment.strftime("%a, %d %b %Y %H:%M:%S GMT")), st.floats(0, 4e9))
def test_any_retry_after_is_seconds_or_none(text: str, now: float) -> None:
    seconds = retry_after_seconds(text, now)
    assert seconds is None or 0 <= seconds < 1e12


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("999999999999", 999_999_999_999.0),
        ("1000000000000", None),
        ("-1", None),
        ("1.5", None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 7.0),
        ("Sun Nov  6 08:49:37 1994", 7.0),
        ("Sun, 06 Nov 1994 10:49:37 +0200", 7.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 7.0),
        ("Sun, 06 Nov 1994 08:49:20 GMT", 0.0),
    ],
)
def test_every_form_of_retry_after_is_read(text: str | None, seconds: float | None) -> None:
    now = dt.datetime(1994, 11, 6, 8, 49, 30, tzinfo=dt.UTC).timestamp()
    assert retry_after_seconds(text, now) == seconds


def test_a_date_without_a_zone_is_gmt_in_any_time_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = dt.datetime(1994, 11, 6, 8, 49, 30, tzinfo=dt.UTC).timestamp()
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert retry_after_seconds("Sun Nov  6 08:49:37 1994", now) == 7.0
    finally:
        monkeypatch.undo()
        time.tzset()
