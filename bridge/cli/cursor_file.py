"""The file in which `listen --pull` keeps its place in the event feed between two runs."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bridge.cli.errors import CommandFailed
from bridge.core.event_cursor import position_of

try:
    import fcntl
except ImportError:  # Windows: there is no lock, and the user must take care that only one process uses a file
    fcntl = None  # type: ignore[assignment]

_MAX_BYTES = 1_000
_OWNER_ONLY = 0o600


def default_path(url: str, caller: str, app: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the file for a bridge's URL and an app, in `$XDG_STATE_HOME/amux-bridge/`, and makes the folder.

    `caller` is the owner of the token, such as `app shop`; `app` is the app that an operator selected. Raises
    CommandFailed.
    """
    state = Path(environ.get("XDG_STATE_HOME", ""))
    try:
        # The specification ignores a relative path.
        folder = (state if state.is_absolute() else Path.home() / ".local/state") / "amux-bridge"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CommandFailed(f"there is no folder for the cursor: {reason}; use --cursor-file") from None
    key = f"{url}\n{caller}\n{app or ''}"
    readable = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{urlsplit(url).netloc}-{app or caller}").strip("-")
    return folder / f"{readable[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.cursor"


class CursorFile:
    """A cursor in a file with the mode 0600. One process at a time uses it. `open_cursor_file` creates the object."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> str | None:
        """Returns the cursor; None for a missing or empty file. None means the oldest event that is kept.

        Raises CommandFailed for a file that cannot be read or has other content.
        """
        try:
            with self.path.open("rb") as file:
                cursor = file.read(_MAX_BYTES).decode("ascii", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CommandFailed(f"{self.path} cannot be read: {error.strerror}") from None
        if not cursor:
            return None  # made by `touch` or `mktemp`: a file that `write` has replaced is never empty
        try:
            position_of(cursor)
        except ValueError:
            raise CommandFailed(
                f"{self.path} contains no cursor; remove it to begin with the oldest event that is kept"
            ) from None
        return cursor

    def write(self, cursor: str) -> None:
        """Replaces the whole file. After a power failure it has this cursor or the previous one.

        Raises CommandFailed if the file cannot be written.
        """
        new = self.path.with_name(self.path.name + ".new")
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY), "w") as file:
                file.write(cursor + "\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise CommandFailed(f"{self.path} cannot be written: {error.strerror}") from None


@contextmanager
def open_cursor_file(path: Path) -> Iterator[CursorFile]:
    """Locks a cursor's file for the block. Raises CommandFailed if another process uses it, or if it cannot be used."""
    if not path.name or path.is_dir():
        raise CommandFailed(f"{path} is a folder; use another --cursor-file")
    lock = path.with_name(path.name + ".lock")
    try:
        opened = os.open(lock, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
    except OSError as error:
        raise CommandFailed(f"{path} cannot be used: {error.strerror}; use another --cursor-file") from None
    try:
        if fcntl is not None:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise CommandFailed(
                    f"another `listen --pull` uses {path}; stop it first, or use another --cursor-file"
                ) from None
        yield CursorFile(path)
    finally:
        os.close(opened)
