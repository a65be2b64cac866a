"""Opening the store: one sentence for each error, nothing left open after it, and no new key for encrypted data."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from bridge.core.errors import BadSetting, StoreUnavailable
from bridge.core.signing import parse_secret
from bridge.store.encryption import Cipher
from bridge.store.open import open_database, open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import PostgresServer, empty_file
from tests.store.builders import claimed_delivery, execute, one_row, register_watch
from tests.waiting import SAFETY_SECONDS

FOREIGN_GROUP = 4_242  # no process here is in this group
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other groups and start other users")


@pytest.fixture
def path(migrated_sqlite: Path, tmp_path: Path) -> Path:
    """A database file with today's schema and no secrets in it."""
    file = tmp_path / "bridge.db"
    file.write_bytes(migrated_sqlite.read_bytes())
    return file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def opened(path: Path, *keys: str) -> Store:
    return await open_store(f"sqlite:///{path}", keys, Metrics())


# --- files --------------------------------------------------------------------------------------------------------


async def test_a_first_start_makes_all_files_private_to_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    store = await opened(path)
    await register_watch(store)
    files = {file.name for file in tmp_path.iterdir()}
    assert {"bridge.db", "bridge.db-wal", "bridge.db-shm", "bridge.key"} <= files
    assert {file.name: mode(file) for file in tmp_path.iterdir()} == dict.fromkeys(files, 0o600)
    Fernet((tmp_path / "bridge.key").read_text().strip())
    await store.close()


async def test_a_file_that_others_can_read_is_made_private(path: Path, encryption_key: str) -> None:
    path.chmod(0o644)
    store = await opened(path, encryption_key)
    assert mode(path) == 0o600
    await store.close()


async def test_a_path_with_special_characters_is_used_unchanged(tmp_path: Path, encryption_key: str) -> None:
    folder = tmp_path / "a b%20#c&d=é"
    folder.mkdir()
    path = folder / "bridge.db"
    store = await opened(path, encryption_key)
    await register_watch(store)
    await store.close()
    assert path.stat().st_size > 0
    assert [file.name for file in tmp_path.iterdir()] == [folder.name]


async def test_a_second_service_on_one_file_is_refused_until_the_first_ends(path: Path, encryption_key: str) -> None:
    first = await opened(path, encryption_key)
    with pytest.raises(BadSetting, match=r"^BRIDGE_DATABASE_URL: another bridge uses .*; stop it first$"):
        await opened(path, encryption_key)
    await first.probe()
    await first.close()
    second = await opened(path, encryption_key)
    await second.close()


async def test_commands_work_beside_a_service(path: Path, encryption_key: str) -> None:
    store = await opened(path, encryption_key)
    await register_watch(store)
    database, cipher = open_database(f"sqlite:///{path}", [encryption_key])
    assert cipher.fingerprint("test", b"data") == store.cipher.fingerprint("test", b"data")
    database.close()
    await store.probe()
    await store.close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere/bridge.db", "the folder .*nowhere does not exist"),
        ("folder", "folder cannot be written: Is a directory"),
    ],
)
async def test_a_path_where_no_file_can_be_made_is_reported(
    tmp_path: Path, encryption_key: str, place: str, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadSetting, match=f"^BRIDGE_DATABASE_URL: .*{message}$"):
        await opened(tmp_path / place, encryption_key)


async def test_a_file_that_is_no_database_is_reported(tmp_path: Path, encryption_key: str) -> None:
    path = tmp_path / "bridge.db"
    path.write_text("Dear diary, " * 100)
    with pytest.raises(StoreUnavailable, match="^the database does not open: file is not a database$"):
        await opened(path, encryption_key)
    assert path.read_text().startswith("Dear diary")


async def test_a_store_can_be_closed_twice(path: Path, encryption_key: str) -> None:
    store = await opened(path, encryption_key)
    await store.close()
    await store.close()


# --- the key ------------------------------------------------------------------------------------------------------


async def test_a_wrong_key_stops_the_start(database_url: str, encryption_key: str) -> None:
    store = await open_store(database_url, [encryption_key], Metrics())
    await store.close()
    with pytest.raises(BadSetting, match="^BRIDGE_ENCRYPTION_KEYS: the key does not decrypt"):
        await open_store(database_url, [Fernet.generate_key().decode()], Metrics())
    store = await open_store(database_url, [encryption_key], Metrics())
    await store.close()


async def test_a_second_start_decrypts_with_the_same_key_file(path: Path) -> None:
    first = await opened(path)
    one = await claimed_delivery(first, secret="whsec_own")
    await first.close()
    second = await opened(path)
    assert (await second.terminal_event(one.watch_id, None)).secret == "whsec_own"
    await second.close()


async def test_no_key_is_made_for_a_database_with_encrypted_data(path: Path) -> None:
    await (await opened(path)).close()
    key = path.with_name("bridge.key")
    text = key.read_text()
    key.unlink()
    with pytest.raises(BadSetting, match=r"the key file .*bridge\.key is missing or empty"):
        await opened(path)
    assert not key.exists()
    await (await opened(path, text.strip())).close()


@pytest.mark.parametrize("loose", [0o604, 0o664, 0o601])
async def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_helps(path: Path, loose: int) -> None:
    await (await opened(path)).close()
    path.with_name("bridge.key").chmod(loose)
    with pytest.raises(BadSetting, match=rf"open to others \(mode 0{loose:o}\); make it private with `chmod 600"):
        await opened(path)


@as_root
@pytest.mark.parametrize("loose", [0o640, 0o660])
async def test_a_key_file_that_a_foreign_group_can_read_is_refused(path: Path, loose: int) -> None:
    await (await opened(path)).close()
    key = path.with_name("bridge.key")
    os.chown(key, -1, FOREIGN_GROUP)
    key.chmod(loose)
    with pytest.raises(BadSetting, match=rf"open to others \(mode 0{loose:o}\)"):
        await opened(path)


async def test_group_bits_that_a_mounter_adds_to_all_files_are_accepted_and_kept(tmp_path: Path) -> None:
    """Kubernetes' fsGroup adds g+rw to every file of a volume at each mount."""
    path = tmp_path / "bridge.db"
    await (await opened(path)).close()
    for file in tmp_path.iterdir():
        file.chmod(mode(file) | 0o060)
    store = await opened(path)
    await register_watch(store)
    assert {file.name: mode(file) for file in tmp_path.iterdir()} == {file.name: 0o660 for file in tmp_path.iterdir()}
    await store.close()


@as_root
async def test_group_bits_of_a_foreign_group_are_taken_from_the_database(path: Path, encryption_key: str) -> None:
    os.chown(path, -1, FOREIGN_GROUP)
    path.chmod(0o664)
    store = await opened(path, encryption_key)
    assert mode(path) == 0o600
    await store.close()


async def test_bits_for_others_are_taken_and_those_of_a_mounter_are_kept(path: Path, encryption_key: str) -> None:
    path.chmod(0o666)
    store = await opened(path, encryption_key)
    assert mode(path) == 0o660
    await store.close()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.ENOTSUP])
async def test_a_chmod_that_is_not_permitted_is_no_error(
    path: Path, encryption_key: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The call fails, as on a mount whose modes cannot be changed."""

    def refuse(self: Path, mode: int) -> None:
        raise OSError(number, os.strerror(number), str(self))

    path.chmod(0o666)
    monkeypatch.setattr(Path, "chmod", refuse)
    store = await opened(path, encryption_key)
    await register_watch(store)
    await store.close()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that members of group 0 can use. They cannot use `tmp_path`, because only root may enter its parents."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o770)
        yield Path(name)


@as_root
def test_an_arbitrary_user_in_group_0_starts_on_another_users_files(shared_folder: Path) -> None:
    """OpenShift starts a process with any user id, with group 0 and no home. The files belong to another user."""
    folder = shared_folder
    # Root starts first, in another folder. This imports every module, also modules that only root may read.
    program = (
        "import asyncio, os, sys, tempfile\n"
        "from bridge.store.open import open_store\n"
        "from bridge.telemetry import Metrics\n"
        "async def start():\n"
        "    await (await open_store('sqlite:///bridge.db', [], Metrics())).close()\n"
        "here = os.getcwd()\n"
        "with tempfile.TemporaryDirectory() as warm:\n"
        "    os.chdir(warm)\n"
        "    asyncio.run(start())\n"
        "    os.chdir(here)\n"
        "os.setgroups([]); os.setgid(0); os.setuid(int(sys.argv[1]))\n"
        "asyncio.run(start())\n"
    )

    def start(user: int) -> tuple[int, str]:
        command = [sys.executable, "-c", program, str(user)]
        env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert start(165_000) == (0, "")
    for file in folder.iterdir():
        file.chmod(mode(file) | 0o060)
    assert start(165_001) == (0, "")
    for file in folder.iterdir():
        file.chmod(0o600)
    code, errors = start(165_001)
    assert code == 1
    assert "Permission denied (this process has user id 165001 and group ids 0)" in errors


async def test_a_key_file_without_a_key_is_reported(path: Path) -> None:
    key = path.with_name("bridge.key")
    key.touch(0o600)
    key.write_text("secret\n")
    with pytest.raises(BadSetting, match="has no Fernet key"):
        await opened(path)


@pytest.mark.parametrize("content", [b"\xff\x00\x80key", bytes(range(256)) * 100, b"\0" * 44])
async def test_a_binary_key_file_is_reported_in_a_sentence(path: Path, content: bytes) -> None:
    key = path.with_name("bridge.key")
    key.touch(0o600)
    key.write_bytes(content)
    with pytest.raises(BadSetting, match="has no Fernet key"):
        await opened(path)


async def test_a_folder_in_place_of_the_key_file_is_reported_in_a_sentence(path: Path) -> None:
    path.with_name("bridge.key").mkdir()
    with pytest.raises(BadSetting, match="it is a folder"):
        await opened(path)


async def test_an_empty_key_file_of_an_interrupted_start_gets_a_key(path: Path) -> None:
    """The power failed after the file was made and before the key was written, so nothing is encrypted yet."""
    path.with_name("bridge.key").touch(0o600)
    await (await opened(path)).close()
    Fernet(path.with_name("bridge.key").read_text().strip())


async def test_an_empty_key_file_gets_no_key_when_data_is_encrypted(path: Path) -> None:
    await (await opened(path)).close()
    path.with_name("bridge.key").write_text("")
    with pytest.raises(BadSetting, match="is missing or empty"):
        await opened(path)


async def test_several_processes_that_make_the_key_file_at_once_get_one_key(path: Path) -> None:
    url = f"sqlite:///{path}"
    found = await asyncio.gather(*(asyncio.to_thread(open_database, url, []) for _ in range(4)))
    assert len({cipher.fingerprint("test", b"data") for _, cipher in found}) == 1
    for database, _ in found:
        database.close()


async def test_the_newest_key_encrypts_and_older_ones_decrypt(path: Path, encryption_key: str) -> None:
    first = await opened(path, encryption_key)
    one = await claimed_delivery(first, secret="whsec_own")
    await first.close()
    newer = Fernet.generate_key().decode()
    second = await opened(path, newer, encryption_key)
    assert (await second.terminal_event(one.watch_id, None)).secret == "whsec_own"
    ciphertext = second.cipher.encrypt("row", "text")
    assert Cipher([newer]).decrypt("row", ciphertext) == "text"
    await second.close()


def test_a_ciphertext_moved_to_another_row_does_not_decrypt(encryption_key: str) -> None:
    cipher = Cipher([encryption_key])
    ciphertext = cipher.encrypt("wat_1", "secret\nwith a line")
    assert cipher.decrypt("wat_1", ciphertext) == "secret\nwith a line"
    with pytest.raises(BadSetting, match="belongs to another row"):
        cipher.decrypt("wat_2", ciphertext)
    with pytest.raises(BadSetting, match="the key does not decrypt"):
        cipher.decrypt("wat_1", b"noise")
    with pytest.raises(BadSetting, match="the key does not decrypt"):
        Cipher([Fernet.generate_key().decode()]).rotate(ciphertext)


def test_fingerprints_and_keys_differ_by_purpose_and_root(encryption_key: str) -> None:
    one, other = (Cipher([encryption_key]).with_root_key(root) for root in (b"1" * 32, b"2" * 32))
    found = {cipher.fingerprint(purpose, data) for cipher in (one, other) for purpose in "ab" for data in (b"x", b"y")}
    assert len(found) == 8
    assert {len(fingerprint) for fingerprint in found} == {16}
    assert one.key("a") == one.key("a") != one.key("b")
    assert len(one.key("a")) == 32


# --- secrets of the database's own --------------------------------------------------------------------------------


async def test_the_databases_own_signing_secret_is_made_once_and_kept(database_url: str, encryption_key: str) -> None:
    first = await open_store(database_url, [encryption_key], Metrics())
    secret = await first.own_signing_secret()
    link_key = first.cipher.key("content link")
    await first.close()
    second = await open_store(database_url, [encryption_key], Metrics())
    assert await second.own_signing_secret() == secret
    assert second.cipher.key("content link") == link_key
    parse_secret(secret)
    assert secret.encode() not in one_row(second, "SELECT sealed FROM secrets WHERE name = 'signing'")
    await second.close()


async def test_replicas_that_ask_at_once_get_one_signing_secret(four_replicas: list[Store]) -> None:
    execute(four_replicas[0], "DELETE FROM secrets WHERE name = 'signing'")
    assert len(set(await asyncio.gather(*(store.own_signing_secret() for store in four_replicas)))) == 1
    assert len({store.cipher.fingerprint("options", b"x") for store in four_replicas}) == 1


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


async def test_an_unreachable_server_is_reported_without_the_password(encryption_key: str) -> None:
    with pytest.raises(StoreUnavailable, match="^the database does not open: ") as caught:
        await open_store("postgresql://bridge:hushhush@127.0.0.1:1/bridge", [encryption_key], Metrics())
    assert "hushhush" not in str(caught.value)


async def test_a_failed_start_leaves_no_connection_open(postgres_server: PostgresServer, encryption_key: str) -> None:
    url = postgres_server.migrated()
    await (await open_store(url, [encryption_key], Metrics())).close()
    with pytest.raises(BadSetting):
        await open_store(url, [Fernet.generate_key().decode()], Metrics())
    name = url.rpartition("/")[2]
    query = f"SELECT pid FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608
    async with asyncio.timeout(SAFETY_SECONDS):  # the server needs a moment to end the process of a closed connection
        while postgres_server.execute(query):
            await asyncio.sleep(0)


async def test_a_failed_start_leaves_no_file_open(path: Path, encryption_key: str) -> None:
    await (await opened(path, encryption_key)).close()
    with pytest.raises(BadSetting):
        await opened(path, Fernet.generate_key().decode())
    own = Path("/proc/self/fd")
    if own.exists():
        names = {str(link.readlink()) for link in own.iterdir() if link.is_symlink()}
        assert not [name for name in names if name.startswith(str(path))]


def test_the_tests_empty_file_has_the_mode_of_a_real_one(tmp_path: Path) -> None:
    assert mode(empty_file(tmp_path / "bridge.db")) == 0o600
