"""The modes of the database's files: their owner's alone, and their group's where the group is this process's own.

Those who mount volumes set the group bits: Kubernetes' `fsGroup` adds `g+rw` to every file at each mount, and OpenShift
runs an image under any user id, in group 0.
"""

import errno
import os
import stat
from pathlib import Path

OWNER_ONLY = 0o600
_GROUP, _OTHERS = 0o070, 0o007
_READ_AND_WRITE = 0o060  # of a group
_NOT_PERMITTED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP, errno.ENOSYS})


def is_private(status: os.stat_result) -> bool:
    """Whether only the owner may use a file, and perhaps a group that is one of this process's own."""
    mode = stat.S_IMODE(status.st_mode)
    return not mode & _OTHERS and (not mode & _GROUP or _is_own_group(status.st_gid))


def make_private(path: Path) -> None:
    """Takes a file's bits from all others. An own group that may read and write, as mounters set it, keeps its bits.

    A chmod that the system does not permit is no error: the file belongs to another user, or the mount has fixed modes.
    """
    status = path.stat()
    if is_private(status):
        return
    group = _READ_AND_WRITE if _is_own_group(status.st_gid) else 0
    mode = stat.S_IMODE(status.st_mode)
    try:
        path.chmod(OWNER_ONLY | (group if mode & _READ_AND_WRITE == _READ_AND_WRITE else 0))
    except OSError as error:
        if error.errno not in _NOT_PERMITTED:
            raise


def who_may_not(error: OSError) -> str:
    """Returns the user and groups of this process, as the end of a sentence about a file that it may not use."""
    if os.name != "posix" or error.errno not in _NOT_PERMITTED:
        return ""
    groups = ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
    return f" (this process has user id {os.geteuid()} and group ids {groups})"


def _is_own_group(group: int) -> bool:
    return os.name == "posix" and (group == os.getegid() or group in os.getgroups())
