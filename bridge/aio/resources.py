"""Shortages of this process and its machine, such as no free file descriptor, which no other side has caused."""

import errno
import os
import socket

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def shortage_in(error: BaseException | None) -> str | None:
    """Returns a sentence if an error is a shortage of this process or machine. None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _SHORTAGES:
        return None
    return f"the bridge cannot open a connection: {os.strerror(error.errno).lower()}"


def present_shortage() -> str | None:
    """Opens a socket and closes it again. Returns a sentence if that fails because of a shortage.

    A resolver without a file descriptor has the same error as for a name that cannot be resolved, so it must be tested.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return shortage_in(error)
    return None
