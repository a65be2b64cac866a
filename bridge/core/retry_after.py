"""Reads the Retry-After header."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_DELAY_SECONDS = re.compile(r"[0-9]{1,12}")  # RFC 9110, 10.2.3; twelve digits are 30,000 years


def retry_after_seconds(text: str | None, now: float) -> float | None:
    """Returns the seconds from `now` (Unix seconds) that a Retry-After asks for, at least 0.

    The text is a number of seconds or an HTTP-date (RFC 9110, 10.2.3). Returns None if it is absent or neither.
    """
    if text is None:
        return None
    text = text.strip()
    if _DELAY_SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # HTTP-dates are in GMT. A date without a zone is read as GMT too.
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
