"""Signed, expiring links to a watch's content: whoever holds one needs no token until it ends."""

import base64
import hmac

_PURPOSE = "amux-bridge content link v1"  # parts this use of the key from every other
_LONGEST_EXPIRY = 15  # digits: past any date, short enough for int()


def content_link(base: str, watch_id: str, expires: int, key: bytes) -> str:
    """A link to the video of `watch_id`, good until `expires` (Unix seconds).

    `base` is the bridge's public URL without a slash at its end; `key` is secret bytes that every replica has.
    """
    signature = _signature(watch_id, str(expires), key)
    return f"{base}/watch/{watch_id}/content?expires={expires}&signature={signature}"


def link_is_good(watch_id: str, expires: str, signature: str, key: bytes, now: float) -> bool:
    """Whether a link's parts, as they came, are ours and not over at `now` (Unix seconds).

    Never raises, whatever the parts hold. Compares in constant time.
    """
    if not (watch_id + expires + signature).isascii():
        return False
    if not expires.isdigit() or len(expires) > _LONGEST_EXPIRY:
        return False
    expected = _signature(watch_id, expires, key)
    return hmac.compare_digest(expected.encode(), signature.encode()) and now < int(expires)


def _signature(watch_id: str, expires: str, key: bytes) -> str:
    # Lines, and neither part can hold one: ids are ours and expiries are digits.
    message = f"{_PURPOSE}\n{watch_id}\n{expires}".encode()
    digest = hmac.digest(key, message, "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
