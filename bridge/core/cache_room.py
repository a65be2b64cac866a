"""Room for files of a cache: which files make room for another one, within a limit and the disk's reserve."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

RESERVE_SHARE: Final = 0.10  # of the disk
RESERVE_BYTES: Final = 256 << 20  # also on a small disk: the database needs room


@dataclass(frozen=True, slots=True)
class Disk:
    """The size of a disk and the bytes that are free on it."""

    free: int
    total: int

    @property
    def usable(self) -> int:
        """The bytes that may still be used. Negative if fewer bytes are free than the reserve."""
        return self.free - max(RESERVE_BYTES, int(self.total * RESERVE_SHARE))


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A complete file: its name, its size, when it was last used, and whether it is being read."""

    name: str
    size: int
    used_at: float
    in_use: bool


@dataclass(frozen=True, slots=True)
class Demand:
    """The bytes that must fit: `wanted`, in addition to all files.

    `held` is the reserved size of the files that are being written. `unwritten` is the part of `held` that is not on
    the disk yet. `limit` is the most bytes that all files together may have.
    """

    wanted: int
    held: int
    unwritten: int
    limit: int


def files_to_remove(files: Sequence[CachedFile], demand: Demand, disk: Disk) -> list[str] | None:
    """Returns the complete files to remove so that the demand fits, or None if it cannot fit.

    Files without readers are removed first, the least recently used one first. A removed file that is being read uses
    the disk until its readers end.
    """
    over_limit = sum(file.size for file in files) + demand.held + demand.wanted - demand.limit
    over_disk = demand.unwritten + demand.wanted - disk.usable
    chosen = []
    for file in sorted(files, key=lambda each: (each.in_use, each.used_at)):
        if over_limit <= 0 and over_disk <= 0:
            break
        chosen.append(file.name)
        over_limit -= file.size
        over_disk -= 0 if file.in_use else file.size
    return chosen if over_limit <= 0 and over_disk <= 0 else None
