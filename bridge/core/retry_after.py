"""What a Retry-After asks for."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

_DELAY_SECONDS = re.compile(r"[0-9]{1,12}")  # RFC 9110, 10.2.3; twelve digits are 30,000 years


def retry_after_seconds(text: str | None, now: float) -> float | None:
    """Read a Retry-After (RFC 9110, 10.2.3: seconds or an HTTP-date) as seconds from `now` (Unix), at least 0.

    None when it is absent or neither.
    """
    if text is None:
        return None
    text = text.strip()
    if _DELAY_SECONDS.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        # HTTP-dates are GMT, and one without a zone is read so.
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
