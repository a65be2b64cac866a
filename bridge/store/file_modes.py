"""The modes of the database's files. Only the owner may use them, and a group that this process belongs to.

Some systems set the bits of the group when they mount a volume: Kubernetes' `fsGroup` adds `g+rw` to every file.
OpenShift runs an image under any user id, in group 0.
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
    """Whether only the owner, or a group of this process, may use a file."""
    mode = stat.S_IMODE(status.st_mode)
    return not mode & _OTHERS and (not mode & _GROUP or _is_own_group(status.st_gid))


def make_private(path: Path) -> None:
    """Makes a file private. A group of this process keeps its bits if it may read and write, as mounts set it.

    If the system refuses the chmod, nothing is raised: the file has another owner, or the mount has fixed modes.
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
    """Returns the user and groups of this process, as the end of a sentence about a refused file. Else empty."""
    if os.name != "posix" or error.errno not in _NOT_PERMITTED:
        return ""
    groups = ", ".join(map(str, sorted({os.getegid(), *os.getgroups()})))
    return f" (this process has user id {os.geteuid()} and group ids {groups})"


def _is_own_group(group: int) -> bool:
    return os.name == "posix" and (group == os.getegid() or group in os.getgroups())
