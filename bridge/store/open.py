"""Opens a store: files and their modes, the lock against a second process, the key, migrations, the replica's row."""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cryptography.fernet import Fernet

from bridge.aio.system import SYSTEM, System
from bridge.aio.threads import run_once
from bridge.core.errors import BadSetting
from bridge.store import replicas
from bridge.store.active_limit import ActiveLimit
from bridge.store.database import Database, SqliteDatabase, connect, sqlite_path
from bridge.store.encryption import Cipher, has_encrypted_data, with_root_key
from bridge.store.file_modes import OWNER_ONLY, is_private, make_private, who_may_not
from bridge.store.group_commit import GroupWriter
from bridge.store.migrate import is_migrated, migrate
from bridge.store.opening_wait import MIGRATION_SECONDS, SLOW_SECONDS, OpeningWait, dropping_hung_connections
from bridge.store.store import Store
from bridge.telemetry import Metrics

try:
    import fcntl
except ImportError:  # Windows: the operator must make sure that only one process serves a file
    fcntl = None  # type: ignore[assignment]

_CAN_LOCK = fcntl is not None
KEY_FILE = "bridge.key"
MAX_KEY_FILE_BYTES = 4096  # a key has 44
DELIVERY_LEASE_SECONDS = 60.0  # for tests; the service gives what `claim_seconds` in delivery/claimer.py returns


async def open_store(  # noqa: PLR0913  what a store is made of
    database_url: str,
    encryption_keys: Sequence[str],
    metrics: Metrics,
    *,
    max_active_watches: int = 1_000_000,
    max_active_watches_per_app: int = 0,
    delivery_lease_seconds: float = DELIVERY_LEASE_SECONDS,
    wait_seconds: float = 0.0,
    system: System = SYSTEM,
    connect: Callable[[str, System], Database] = connect,
) -> Store:
    """Open a store for a service, and bring its schema up to date. Waits up to `wait_seconds` for a server.

    Raises BadSetting for a wrong key, a key file that others may read, a missing folder, a file that another process
    serves, and a newer schema; the message is one sentence. Raises StoreUnavailable when the database does not answer.
    A cancellation ends the call at once, even if the database hangs.
    """
    limit = ActiveLimit(max_active_watches, max_active_watches_per_app)
    wait = OpeningWait(0.0 if database_url.startswith("sqlite:") else wait_seconds, clock=system.monotonic)
    slow = asyncio.get_running_loop().call_later(
        SLOW_SECONDS, wait.log_once, "it does not answer yet, or its schema is being upgraded"
    )
    connected = partial(connect, database_url, system)
    opening = partial(_open, database_url, encryption_keys, metrics, limit, delivery_lease_seconds, wait, connected)
    try:
        return await run_once(system.threads(1, "bridge-opening"), opening, _close_unused)
    finally:
        slow.cancel()
        wait.stop()


def _open(  # noqa: PLR0913, PLR0917  what a store is made of
    database_url: str,
    encryption_keys: Sequence[str],
    metrics: Metrics,
    limit: ActiveLimit,
    lease_seconds: float,
    wait: OpeningWait,
    connected: Callable[[], Database],
) -> Store:
    with ExitStack() as opened:  # when a step fails, everything before it is closed
        if database_url.startswith("sqlite:"):
            opened.callback(_unlock, _serve_lock(sqlite_path(database_url)))
        database, cipher, replica = wait.until_open(lambda: _joined_database(database_url, encryption_keys, connected))
        opened.callback(database.close)
        system = database.system
        writer = GroupWriter(database.transaction, metrics, system.threads(1, "bridge-writer"), system.monotonic)
        return Store(database, writer, cipher, replica, limit, lease_seconds, on_close=opened.pop_all().close)


def _close_unused(store: Store) -> None:
    asyncio.run(store.close())


def _joined_database(
    database_url: str, encryption_keys: Sequence[str], connected: Callable[[], Database]
) -> tuple[Database, Cipher, replicas.Replica]:
    database, cipher = _opened_database(database_url, encryption_keys, connected)
    with ExitStack() as opened:
        opened.callback(database.close)
        with dropping_hung_connections(database):
            replica = database.transaction(lambda connection: replicas.join(connection, database))
        opened.pop_all()
        return database, cipher, replica


def open_database(database_url: str, encryption_keys: Sequence[str]) -> tuple[Database, Cipher]:
    """Returns a database and its cipher, for commands beside a service. Raises as `open_store` does. Never waits."""
    connected = partial(connect, database_url)
    return OpeningWait(0.0).until_open(lambda: _opened_database(database_url, encryption_keys, connected))


def _opened_database(
    database_url: str, encryption_keys: Sequence[str], connected: Callable[[], Database]
) -> tuple[Database, Cipher]:
    if database_url.startswith("sqlite:"):
        _prepare(sqlite_path(database_url))
    database = connected()
    with ExitStack() as opened:
        opened.callback(database.close)
        with dropping_hung_connections(database):
            database.synchronize()
            keys = encryption_keys
            if isinstance(database, SqliteDatabase) and not keys:
                keys = [_key_of_file(database.path, is_used=has_encrypted_data(database))]
            is_current = is_migrated(database)
        if not is_current:
            with dropping_hung_connections(database, MIGRATION_SECONDS):
                migrate(database)
        with dropping_hung_connections(database):
            cipher = with_root_key(database, Cipher(keys))
        opened.pop_all()
        return database, cipher


# --- files --------------------------------------------------------------------------------------------------------


def _prepare(path: Path) -> None:
    """Make the database file if there is none, and make it private. SQLite gives its other files the same mode."""
    try:
        if not path.parent.is_dir():
            raise BadSetting(f"BRIDGE_DATABASE_URL: the folder {path.parent} does not exist")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY))
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            with suppress(FileNotFoundError):
                make_private(file)
    except OSError as error:
        raise BadSetting(
            f"BRIDGE_DATABASE_URL: {path} cannot be written: {error.strerror}{who_may_not(error)}"
        ) from None


def _serve_lock(path: Path) -> int | None:
    """Take the lock that means "a service uses this file". It is not one of SQLite's, so SQLite's tools still work."""
    if not _CAN_LOCK:
        return None
    try:
        if not path.parent.is_dir():
            return None
        lock = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise BadSetting(
            f"BRIDGE_DATABASE_URL: {path.parent} cannot be written: {error.strerror}{who_may_not(error)}"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise BadSetting(f"BRIDGE_DATABASE_URL: another bridge uses {path}; stop it first") from None
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _key_of_file(database_path: Path, *, is_used: bool) -> str:
    """Returns the key in the key file. Makes a new key for a new database, but not for one that has encrypted data."""
    path = database_path.with_name(KEY_FILE)
    key = read_key_file(path)
    if not key and not is_used:
        with _locked_folder(path.parent):
            key = read_key_file(path) or _new_key(path)
    if not key:
        raise BadSetting(
            f"BRIDGE_ENCRYPTION_KEYS: the key file {path} is missing or empty, and the database has data that "
            "was encrypted with it; restore the file or set BRIDGE_ENCRYPTION_KEYS"
        )
    try:
        Fernet(key)
    except ValueError:
        raise BadSetting(f"BRIDGE_ENCRYPTION_KEYS: the key file {path} has no Fernet key") from None
    return key


def read_key_file(path: Path) -> str:
    """Returns the text of the key file. It is empty if there is no file, or if the power failed during its creation.

    Raises BadSetting if the file cannot be read, or if others may read it.
    """
    try:
        if path.is_dir():
            raise BadSetting(f"BRIDGE_ENCRYPTION_KEYS: the key file {path} cannot be read: it is a folder")
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadSetting(
            f"BRIDGE_ENCRYPTION_KEYS: the key file {path} cannot be read: {error.strerror}{who_may_not(error)}"
        ) from None
    with os.fdopen(file, "rb") as opened:
        status = os.fstat(opened.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if os.name == "posix" and not is_private(status):
            raise BadSetting(
                f"BRIDGE_ENCRYPTION_KEYS: the key file {path} is open to others (mode {mode:04o}); "
                f"make it private with `chmod 600 {path}`; if the mount has fixed modes, set BRIDGE_ENCRYPTION_KEYS"
            )
        # Text that is not ASCII is no key: the caller raises the error.
        return opened.read(MAX_KEY_FILE_BYTES).decode("ascii", errors="replace").strip()


def _new_key(path: Path) -> str:
    key = Fernet.generate_key().decode()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, OWNER_ONLY), "w") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())  # before anything is encrypted with it
    except OSError as error:
        raise BadSetting(
            f"BRIDGE_ENCRYPTION_KEYS: the key file {path} cannot be written: {error.strerror}{who_may_not(error)}"
        ) from None
    return key


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """During the block, no other process makes a key file here. At its end the folder is written to the disk."""
    if not _CAN_LOCK:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
        os.fsync(opened)
    finally:
        os.close(opened)
