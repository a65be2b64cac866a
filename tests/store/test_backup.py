"""Copies of a SQLite file that is being written to, and of its key."""

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from bridge.core.errors import BadSetting
from bridge.store import backup
from bridge.store.backup import BackupFailed, back_up
from bridge.store.open import KEY_FILE, open_database

KEY = "ZTJlLWUyZS1lMmUtZTJlLWUyZS1lMmUtZTJlLWUyZS0="


@pytest.fixture
def source(migrated_sqlite: Path, tmp_path: Path) -> Path:
    """A bridge's database with its key file."""
    folder = tmp_path / "bridge"
    folder.mkdir()
    file = folder / "bridge.db"
    file.write_bytes(migrated_sqlite.read_bytes())
    open_database(f"sqlite:///{file}", ())[0].close()
    return file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder / "copy ?%.db"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_copy_and_its_key_open_as_a_bridges_database(source: Path, target: Path) -> None:
    key_file = back_up(source, target, with_key=True, overwrite=False)
    assert key_file == target.with_name(KEY_FILE)
    assert key_file.read_text() == source.with_name(KEY_FILE).read_text()
    assert sorted(path.name for path in target.parent.iterdir()) == [KEY_FILE, target.name]
    assert (mode(target), mode(key_file)) == (0o600, 0o600)
    target.rename(target.with_name("copy.db"))
    database, _ = open_database(f"sqlite:///{target.with_name('copy.db')}", ())
    database.close()


def test_a_copy_is_one_moment_of_a_file_that_is_written_to(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", 1)
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE pairs (number INTEGER, first BLOB, second BLOB)")
        writer.executemany("INSERT INTO pairs VALUES (?, zeroblob(3000), ?)", [(each, "0") for each in range(300)])
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(source, isolation_level=None, timeout=10)) as connection:
            for round_ in range(1_000_000):
                if stop.is_set():
                    return
                connection.execute("UPDATE pairs SET second = ?", (str(round_),))
                written.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert written.wait(30)
        back_up(source, target, with_key=True, overwrite=False)
    finally:
        stop.set()
        thread.join()
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert len(copy.execute("SELECT DISTINCT second FROM pairs").fetchall()) == 1
        assert copy.execute("SELECT count(*) FROM pairs").fetchone() == (300,)


def test_a_key_in_the_settings_is_not_copied(source: Path, target: Path) -> None:
    assert back_up(source, target, with_key=False, overwrite=False) is None
    assert not target.with_name(KEY_FILE).exists()


def test_a_copy_beside_its_database_has_the_same_key_file(source: Path) -> None:
    key = source.with_name(KEY_FILE)
    before = key.stat().st_mtime_ns
    assert back_up(source, source.with_name("copy.db"), with_key=True, overwrite=False) == key
    assert key.stat().st_mtime_ns == before


def test_an_existing_file_is_replaced_only_on_request(source: Path, target: Path) -> None:
    target.write_text("kept")
    with pytest.raises(BackupFailed, match="already exists; --overwrite replaces it"):
        back_up(source, target, with_key=True, overwrite=False)
    assert target.read_text() == "kept"
    back_up(source, target, with_key=True, overwrite=True)
    assert target.read_bytes().startswith(b"SQLite format 3")
    assert mode(target) == 0o600


@pytest.mark.parametrize("overwrite", [True, False])
def test_the_key_of_another_database_is_never_replaced(source: Path, target: Path, *, overwrite: bool) -> None:
    other = target.with_name(KEY_FILE)
    other.write_text(KEY + "\n")
    with pytest.raises(BackupFailed, match="is the key of another database"):
        back_up(source, target, with_key=True, overwrite=overwrite)
    assert other.read_text() == KEY + "\n"
    assert not target.exists()


def test_the_database_itself_is_never_replaced(source: Path) -> None:
    link = source.with_name("link.db")
    link.symlink_to(source)
    for target in (source, link):
        with pytest.raises(BackupFailed, match="is the database itself"):
            back_up(source, target, with_key=True, overwrite=True)
    assert source.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("name", [KEY_FILE, "bridge.db-wal", "bridge.db-shm", "bridge.db-journal", "bridge.db-lock"])
def test_a_file_that_belongs_to_the_database_is_never_replaced(source: Path, name: str) -> None:
    key = source.with_name(KEY_FILE).read_text()
    before = sorted(path.name for path in source.parent.iterdir())
    with pytest.raises(BackupFailed, match="belongs to a database; give another name"):
        back_up(source, source.with_name(name), with_key=False, overwrite=True)
    assert source.with_name(KEY_FILE).read_text() == key
    assert sorted(path.name for path in source.parent.iterdir()) == before


def test_a_copy_never_takes_the_name_of_its_key(source: Path, target: Path) -> None:
    with pytest.raises(BackupFailed, match="belongs to a database; give another name"):
        back_up(source, target.with_name(KEY_FILE), with_key=True, overwrite=False)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_log_of_another_database_is_never_applied_to_a_copy(source: Path, target: Path, suffix: str) -> None:
    log = target.with_name(target.name + suffix)
    log.write_bytes(b"pages of the database that was here")
    with pytest.raises(BackupFailed, match="is in use, or was not closed; give another name"):
        back_up(source, target, with_key=True, overwrite=True)
    assert list(target.parent.iterdir()) == [log]


def test_a_dangling_link_is_an_existing_file(source: Path, target: Path) -> None:
    target.symlink_to(target.parent / "nowhere")
    with pytest.raises(BackupFailed, match="already exists"):
        back_up(source, target, with_key=True, overwrite=False)


def test_a_file_that_appears_meanwhile_is_kept(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_pages = backup._copy_pages

    def slow_copy(path: Path, new: Path) -> None:
        copy_pages(path, new)
        target.write_text("another process")

    monkeypatch.setattr(backup, "_copy_pages", slow_copy)
    with pytest.raises(BackupFailed, match="already exists"):
        back_up(source, target, with_key=True, overwrite=False)
    assert target.read_text() == "another process"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing/copy.db", "the folder .* does not exist"), (".", "is a folder; give the name of the file to write")],
)
def test_a_target_that_cannot_be_written_is_one_sentence(
    source: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    with pytest.raises(BackupFailed, match=sentence):
        back_up(source, tmp_path / name, with_key=True, overwrite=True)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_file_that_is_no_bridges_database_leaves_nothing(source: Path, target: Path, content: bytes) -> None:
    source.write_bytes(content)
    with pytest.raises(BackupFailed, match="is not (the database of a bridge|a database)"):
        back_up(source, target, with_key=True, overwrite=False)
    assert list(target.parent.iterdir()) == []


def test_a_key_file_that_is_open_to_others_stops_the_copy(source: Path, target: Path) -> None:
    source.with_name(KEY_FILE).chmod(0o644)
    with pytest.raises(BadSetting, match="is open to others"):
        back_up(source, target, with_key=True, overwrite=False)
    assert list(target.parent.iterdir()) == []


def test_a_copy_has_its_mode_whatever_the_umask_is(source: Path, target: Path) -> None:
    before = os.umask(0)
    try:
        back_up(source, target, with_key=True, overwrite=False)
    finally:
        os.umask(before)
    assert (mode(target), mode(target.with_name(KEY_FILE))) == (0o600, 0o600)
