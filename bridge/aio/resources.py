"""Shortages of this process and its machine, such as no free file descriptor. No other side is to blame for them."""

import errno
import os
import socket

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def shortage_in(error: BaseException | None) -> str | None:
    """Returns a sentence if an error, or the error behind it, is a shortage here. None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _SHORTAGES:
        return None
    return f"the bridge cannot open a connection: {os.strerror(error.errno).lower()}"


def present_shortage() -> str | None:
    """Opens a socket and closes it again. Returns a sentence if that fails because of a shortage here.

    A resolver does not say that it had no file descriptor: its error is the same as for a name that does not resolve.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return shortage_in(error)
    return None
