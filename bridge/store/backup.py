"""A consistent copy of a SQLite file that a bridge may be writing to, and of the key file beside it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from bridge.core.errors import BridgeError
from bridge.store.file_modes import OWNER_ONLY, who_may_not
from bridge.store.open import KEY_FILE, read_key_file

_PAGES: Final = 4096  # in one step: 16 MiB. Ctrl-C ends the copy between two steps
_BUSY_SECONDS: Final = 10.0
_LOGS: Final = ("-wal", "-journal")  # SQLite applies a log to the database file with the same name
_BESIDE: Final = (*_LOGS, "-shm", "-lock")


class BackupFailed(BridgeError):
    """The copy was not made. The message has the reason."""

    code = "backup_failed"


def back_up(path: Path, target: Path, *, with_key: bool, overwrite: bool) -> Path | None:
    """Copies the database `path` to `target`, and its key file into the folder of `target`.

    Returns the path of the key file's copy. It is None if `with_key` is false (the keys are in the settings), or if
    there is no key file. Both copies have the mode 0600 and appear only when they are complete, the key first. They are
    on the disk when this returns. Raises BackupFailed, or BadSetting if the key file cannot be read or others may read
    it.
    """
    _check_target(path, target, overwrite=overwrite)
    key, key_file = read_key_file(path.with_name(KEY_FILE)) if with_key else "", target.with_name(KEY_FILE)
    try:
        has_key = _has_key(key_file, key)
        with _new_file(target, overwrite=overwrite) as new:
            _copy_pages(path, new)
            if key and not has_key:
                with _new_file(key_file, overwrite=False) as new_key:
                    new_key.write_text(key + "\n")
    except OSError as error:
        raise BackupFailed(f"{target} cannot be written: {error.strerror}{who_may_not(error)}") from None
    return key_file if key else None


def _check_target(path: Path, target: Path, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise BackupFailed(f"the folder {target.parent} does not exist")
    if target.is_dir():
        raise BackupFailed(f"{target} is a folder; give the name of the file to write")
    if target.exists() and target.samefile(path):
        raise BackupFailed(f"{target} is the database itself")
    if target.name == KEY_FILE or _is_beside(path, target):
        raise BackupFailed(f"{target} is the name of a file that belongs to a database; give another name")
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    for log in (target.with_name(target.name + suffix) for suffix in _LOGS):
        if os.path.lexists(log):
            raise BackupFailed(f"{log} shows that {target} is in use, or was not closed; give another name")


def _is_beside(path: Path, target: Path) -> bool:
    """Whether the target has the name of a file that SQLite or a bridge keeps beside the database."""
    names = {path.name + suffix for suffix in _BESIDE}
    return target.name in names and target.parent.samefile(path.parent)


def _exists(target: Path) -> BackupFailed:
    return BackupFailed(f"{target} already exists; --overwrite replaces it")


def _has_key(key_file: Path, key: str) -> bool:
    """Whether the folder has this key already. Raises BackupFailed for another key: its database would be lost."""
    if not key or not os.path.lexists(key_file):
        return False
    if key_file.is_file() and key_file.read_bytes().strip() == key.encode():
        return True
    raise BackupFailed(f"{key_file} is the key of another database; choose a folder without a {KEY_FILE}")


@contextmanager
def _new_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a new file in the folder of `target`, and renames it to `target` at the end of the block."""
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
    try:
        yield new
        _synchronize(new)
        if overwrite:
            new.replace(target)
        else:
            _rename_to_new(new, target)
        _synchronize(target.parent)
    finally:
        for name in (new, new.with_name(new.name + "-journal")):
            name.unlink(missing_ok=True)


def _rename_to_new(new: Path, target: Path) -> None:
    """Renames a file, but replaces no file that another process made meanwhile."""
    try:
        target.hardlink_to(new)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise _exists(target) from None
        new.rename(target)


def _synchronize(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        if not path.is_dir():  # not every file system can synchronize a folder
            raise
    finally:
        os.close(opened)


def _copy_pages(path: Path, new: Path) -> None:
    """Copies the database as it is at this moment, in steps; writers do not wait.

    The read transaction keeps the snapshot. Without it, SQLite would begin again after each commit of a writer.
    """
    try:
        with (
            closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as source,
            closing(sqlite3.connect(new)) as copy,
        ):
            source.isolation_level = copy.isolation_level = None
            source.execute("BEGIN")
            if source.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
                raise BackupFailed(f"{path} is not the database of a bridge")
            source.backup(copy, pages=_PAGES)
            copy.execute("PRAGMA journal_mode = DELETE")  # without a log: the copy is one file
    except sqlite3.Error as error:
        raise BackupFailed(f"{path} cannot be copied to {new.parent}: {error}") from None
