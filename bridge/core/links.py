"""Signed links to a watch's content. A link needs no token and is valid until it expires."""

import base64
import hmac

_PURPOSE = "amux-bridge content link v1"  # separates this use of the key from all its other uses
_MAX_EXPIRY_DIGITS = 15  # later than any date, and short enough for int()


def content_link(base: str, watch_id: str, expires: int, key: bytes) -> str:
    """Returns a link to the video of `watch_id` that is valid until `expires` (Unix seconds).

    `base` is the bridge's public URL without a slash at its end. `key` is secret and the same in every replica.
    """
    signature = _signature(watch_id, str(expires), key)
    return f"{base}/watch/{watch_id}/content?expires={expires}&signature={signature}"


def is_valid_link(watch_id: str, expires: str, signature: str, key: bytes, now: float) -> bool:
    """Whether the parts of a link were signed with `key` and the link has not expired at `now` (Unix seconds).

    The parts are unchecked texts. Never raises. Compares in constant time.
    """
    if not (watch_id + expires + signature).isascii():
        return False
    if not expires.isdigit() or len(expires) > _MAX_EXPIRY_DIGITS:
        return False
    expected = _signature(watch_id, expires, key)
    return hmac.compare_digest(expected.encode(), signature.encode()) and now < int(expires)


def _signature(watch_id: str, expires: str, key: bytes) -> str:
    # The parts are separated by line feeds, which neither watch ids nor digits contain.
    message = f"{_PURPOSE}\n{watch_id}\n{expires}".encode()
    digest = hmac.digest(key, message, "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
