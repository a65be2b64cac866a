"""The folder of the content cache: one file for each video. Every function here blocks and is called in a thread.

A file has a header of 4 KiB, which describes the video, and then the video's bytes. It is written as
`<watch id>.<number>.part`, and is renamed to the watch's id when the video is complete and on the disk. The next start
removes files with another name, and files whose size differs from the header.

Each bridge has a folder of its own in the configured one, named after its database, and locks it. A second bridge on
the same database uses the next folder, `<name>-2`.
"""

import contextlib
import json
import os
import re
import shutil
import stat
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Final

from bridge.core.cache_room import Disk
from bridge.core.ids import WATCH_ID_PATTERN

try:
    import fcntl
except ImportError:  # Windows, which has no os.pread either
    fcntl = None  # type: ignore[assignment]

HEADER_BYTES: Final = 4096
MAX_BRIDGES: Final = 32  # with one database on one machine
_VERSION: Final = 1
_LOCK_FILE: Final = "lock"
_WATCH_ID = re.compile(WATCH_ID_PATTERN)
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_OWNER_ONLY: Final = 0o600
_OWNER_ONLY_FOLDER: Final = 0o700


@dataclass(frozen=True, slots=True)
class ContentHead:
    """A video's description. `length` is in bytes, None while it is not known.

    `media_type` and `last_modified` are amux's headers. `entity_tag` is made by the bridge.
    """

    entity_tag: str
    length: int | None
    media_type: str
    last_modified: str | None = None


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A complete file that was found at a start. `size` is the video's, in bytes; `used_at` is in Unix seconds."""

    watch_id: str
    size: int
    used_at: float


class ContentFolder:
    """One bridge's folder in `base`. `name` identifies the bridge's database. `prepare` must be called first.

    A `private` base belongs to the bridge alone and is made if it is missing. Another base, such as the system's
    temporary folder, is used by other programs too.
    """

    def __init__(self, base: Path, name: str, *, private: bool = True) -> None:
        self._base = base
        self._name = name
        self._private = private
        self._path = base / name
        self._lock: int | None = None
        self._part_numbers = count(1)  # for several threads

    @property
    def path(self) -> Path:
        """The bridge's own folder."""
        return self._path

    def prepare(self) -> list[FoundFile]:
        """Makes and locks the folder, removes incomplete and unknown files, and returns the complete files.

        Raises OSError if the folder cannot be used.
        """
        if fcntl is None or not hasattr(os, "pread"):
            raise OSError("this operating system is not supported")
        for number in range(1, MAX_BRIDGES + 1):
            self._path = self._base / (self._name if number == 1 else f"{self._name}-{number}")
            self._make_folders()
            self._lock = _locked(self._path / _LOCK_FILE)
            if self._lock is not None:
                try:
                    return self._found_files()
                except OSError:
                    self.close()
                    raise
        raise OSError(f"{MAX_BRIDGES} other bridges use this folder")

    def close(self) -> None:
        """Unlocks the folder, and removes it if it is empty."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):
            if os.listdir(self._path) == [_LOCK_FILE]:  # noqa: PTH208  names only
                (self._path / _LOCK_FILE).unlink()  # `_locked` notices this
                self._path.rmdir()
        os.close(self._lock)
        self._lock = None

    def disk(self) -> Disk:
        """Returns the size and the free space of the folder's disk. Raises OSError."""
        found = os.statvfs(self._path)
        return Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def create(self, watch_id: str, head: ContentHead) -> "PartFile":
        """Creates the file of a video that is about to be written. Raises OSError."""
        path = self._path / f"{_checked(watch_id)}.{next(self._part_numbers)}.part"
        try:
            fd = os.open(path, _CREATE, _OWNER_ONLY)
        except FileNotFoundError:  # the temporary folder was cleaned
            self._make_folders()
            fd = os.open(path, _CREATE, _OWNER_ONLY)
        part = PartFile(fd, path, self._path / watch_id)
        try:
            _write_header(part.fd, head)
        except BaseException:
            part.discard()
            raise
        return part

    def open(self, watch_id: str) -> tuple[int, ContentHead]:
        """Opens a complete file and marks it as used now. Returns its descriptor and its head.

        Raises OSError, also for a file that is damaged.
        """
        fd = os.open(self._path / _checked(watch_id), os.O_RDONLY)
        try:
            head = _read_header(fd)
            os.utime(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd, head

    def remove(self, watch_id: str) -> None:
        """Removes a complete file if it exists. Its readers can still read it to the end. Raises OSError."""
        (self._path / _checked(watch_id)).unlink(missing_ok=True)

    def _make_folders(self) -> None:
        if self._private:
            _make_private_base(self._base)
        _make_own_folder(self._path, shared_base=not self._private)

    def _found_files(self) -> list[FoundFile]:
        found = []
        for entry in list(os.scandir(self._path)):
            if entry.name == _LOCK_FILE:
                continue
            try:
                found.append(_complete_file(entry))
            except (OSError, ValueError):
                _remove_entry(entry)
        return sorted(found, key=lambda file: file.used_at)


@dataclass(frozen=True, slots=True)
class PartFile:
    """A file that is being written, with its open descriptor."""

    fd: int
    path: Path
    final_path: Path

    def write(self, position: int, piece: bytes) -> None:
        """Writes bytes of the video. Raises OSError, for example on a full disk."""
        left = memoryview(piece)
        while left:
            written = os.pwrite(self.fd, left, HEADER_BYTES + position)
            left, position = left[written:], position + written

    def complete(self, head: ContentHead) -> None:
        """Writes the final head, and renames the file when its bytes are on the disk. Raises OSError."""
        _write_header(self.fd, head)
        os.fsync(self.fd)  # without it, a power failure could leave other bytes under the final name
        self.path.rename(self.final_path)

    def remove(self) -> None:
        """Removes the file; its descriptor stays open."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes and closes the file."""
        self.remove()
        os.close(self.fd)


def read_piece(fd: int, position: int, size: int) -> bytes:
    """Returns up to `size` bytes of a video, b"" at the end of the file. Raises OSError."""
    return os.pread(fd, size, HEADER_BYTES + position)


def _checked(watch_id: str) -> str:
    """Returns a watch's id, which is a file name too. Raises ValueError for any other text."""
    if not _WATCH_ID.fullmatch(watch_id):
        raise ValueError("not a watch id")
    return watch_id


# --- headers of files ---------------------------------------------------------------------------------------------


def _write_header(fd: int, head: ContentHead) -> None:
    text = json.dumps({"version": _VERSION, **asdict(head)}).encode()
    if len(text) > HEADER_BYTES:
        raise OSError("amux's headers are too long to be kept")
    os.pwrite(fd, text.ljust(HEADER_BYTES), 0)


def _read_header(fd: int) -> ContentHead:
    """Returns the head of a complete file. Raises OSError if it is damaged."""
    try:
        fields = json.loads(os.pread(fd, HEADER_BYTES, 0))
        if fields.pop("version") != _VERSION:
            raise OSError("another version of the bridge wrote the file")
        head = ContentHead(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise OSError("the header of the file is damaged") from None
    if head.length != os.fstat(fd).st_size - HEADER_BYTES:
        raise OSError("the file is incomplete")
    return head


# --- files and folders --------------------------------------------------------------------------------------------


def _complete_file(entry: "os.DirEntry[str]") -> FoundFile:
    """Returns a complete file. Raises OSError or ValueError for everything else."""
    watch_id = _checked(entry.name)
    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        _read_header(fd)
        found = os.fstat(fd)
        with contextlib.suppress(PermissionError):  # the mount of a volume may have added the group's bits
            os.fchmod(fd, _OWNER_ONLY)
    finally:
        os.close(fd)
    return FoundFile(watch_id, found.st_size - HEADER_BYTES, found.st_mtime)


def _remove_entry(entry: "os.DirEntry[str]") -> None:
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()


def _make_private_base(base: Path) -> None:
    """Makes the configured folder with mode 0700. An existing folder keeps its mode, unless it is empty and our own."""
    try:
        base.mkdir(_OWNER_ONLY_FOLDER, parents=True)
    except FileExistsError:
        if base.stat().st_uid == os.geteuid() and not any(base.iterdir()):
            base.chmod(_OWNER_ONLY_FOLDER)


def _make_own_folder(path: Path, *, shared_base: bool) -> None:
    """Makes the folder with mode 0700. Raises OSError for a folder that another user made or can use."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(_OWNER_ONLY_FOLDER)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path} is not a folder")
    if shared_base and found.st_uid != os.geteuid():
        raise PermissionError(f"{path} belongs to another user")
    with contextlib.suppress(PermissionError):  # the mount of a volume may have added the group's bits
        path.chmod(_OWNER_ONLY_FOLDER)
    if path.lstat().st_mode & 0o007:
        raise PermissionError(f"{path} is open to other users")


def _locked(path: Path) -> int | None:
    """Returns the descriptor of a locked lock file, or None if another bridge holds the lock or removed the file."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, _OWNER_ONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), path.stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None
