"""Finds shortages of this process or machine, such as no free file descriptor. The other side did not cause them."""

import errno
import os
import socket

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def shortage_in(error: BaseException | None) -> str | None:
    """Returns a sentence about the shortage if an error is a shortage of this process or machine, else None."""
    if not isinstance(error, OSError) or error.errno not in _SHORTAGES:
        return None
    return f"the bridge cannot open a connection: {os.strerror(error.errno).lower()}"


def present_shortage() -> str | None:
    """Opens a socket and closes it again. Returns a sentence if that fails because of a shortage, else None.

    A resolver that gets no file descriptor raises the same error as for an unknown name. This test distinguishes them.
    """
    try:
        socket.socket().close()
    except OSError as error:
        return shortage_in(error)
    return None
