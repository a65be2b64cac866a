"""The folder of the content cache: locks, modes, names, and the files that a start finds."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bridge.amux.content_folder import HEADER_BYTES, ContentFolder, ContentHead, read_piece

WATCH, OTHER = "wat_" + "1" * 26, "wat_" + "2" * 26
HEAD = ContentHead('"a"', 5, "video/mp4")
OWN = "0123456789abcdef"


def folder(base: Path, *, private: bool = True) -> ContentFolder:
    return ContentFolder(base, OWN, private=private)


def prepared(base: Path, *, private: bool = True) -> ContentFolder:
    made = folder(base, private=private)
    made.prepare()
    return made


def write(into: ContentFolder, watch_id: str = WATCH, head: ContentHead = HEAD, video: bytes = b"video") -> None:
    part = into.create(watch_id, head)
    part.write(0, video)
    part.complete(head)
    os.close(part.fd)


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {"lock"}


def test_a_file_that_was_written_is_read(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    write(own)
    fd, head = own.open(WATCH)
    assert (head, read_piece(fd, 0, 100), read_piece(fd, 2, 2), read_piece(fd, 5, 1)) == (HEAD, b"video", b"de", b"")
    own.remove(WATCH)
    own.remove(WATCH)
    assert read_piece(fd, 0, 100) == b"video"  # an open file stays readable to its end
    os.close(fd)
    own.close()


def test_a_name_that_is_no_watch_id_never_reaches_the_disk(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    for name in (
        "../x",
        "/etc/passwd",
        "",
        ".",
        "lock",
        "wat_" + "1" * 25 + "/",
        "wat_" + "1" * 26 + "\n",
        WATCH.upper(),
    ):
        for use in (own.open, own.remove, lambda bad: own.create(bad, HEAD)):
            with pytest.raises(ValueError, match="not a watch id"):
                use(name)
    own.close()


def test_bridges_of_one_database_have_folders_of_their_own(tmp_path: Path) -> None:
    first, second = prepared(tmp_path / "content"), folder(tmp_path / "content")
    growing = first.create(OTHER, HEAD)
    write(first)
    assert second.prepare() == []
    assert first.path != second.path
    write(second)
    first.close()
    again = folder(tmp_path / "content")
    assert [found.watch_id for found in again.prepare()] == [WATCH]
    assert again.path == first.path
    assert names(again.path) == {WATCH}  # the incomplete file is gone
    os.close(growing.fd)
    for each in (second, again):
        each.close()


def test_bridges_of_several_databases_share_a_folder(tmp_path: Path) -> None:
    one, other = ContentFolder(tmp_path, "one"), ContentFolder(tmp_path, "other")
    for each in (one, other):
        each.prepare()
        write(each)
        each.close()
    assert [len(ContentFolder(tmp_path, name).prepare()) for name in ("one", "other")] == [1, 1]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}".ljust(HEADER_BYTES),
        b"\xff" * HEADER_BYTES,
        b"[]".ljust(HEADER_BYTES),
        json.dumps({"version": 2, "entity_tag": '"a"', "length": 0, "media_type": ""}).encode().ljust(HEADER_BYTES),
        json.dumps({"version": 1, "entity_tag": '"a"', "length": 1, "media_type": ""}).encode().ljust(HEADER_BYTES),
        json.dumps({"version": 1, "entity_tag": '"a"', "length": None, "media_type": ""}).encode().ljust(HEADER_BYTES),
        json.dumps({"version": 1, "entity_tag": '"a"', "more": 0}).encode().ljust(HEADER_BYTES),
    ],
)
def test_a_damaged_file_is_not_opened_and_is_removed_at_a_start(tmp_path: Path, damage: bytes) -> None:
    own = prepared(tmp_path / "content")
    (own.path / WATCH).write_bytes(damage)
    with pytest.raises(OSError, match=r"damaged|version|incomplete"):
        own.open(WATCH)
    own.close()
    assert folder(tmp_path / "content").prepare() == []
    assert names(own.path) == set()


def test_a_folder_that_was_deleted_while_the_bridge_runs_is_made_again(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    shutil.rmtree(tmp_path / "content")
    write(own)
    fd, _ = own.open(WATCH)
    os.close(fd)
    own.close()
    assert own.path.stat().st_mode & 0o777 == 0o700


def test_headers_that_are_too_long_are_not_kept(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    with pytest.raises(OSError, match="too long"):
        own.create(WATCH, ContentHead('"a"', 5, "x" * HEADER_BYTES))
    assert names(own.path) == set()
    own.close()


def test_files_are_found_in_the_order_of_their_last_use(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    for watch_id in (WATCH, OTHER):
        write(own, watch_id)
        os.utime(own.path / watch_id, (1, 1 if watch_id == WATCH else 2))
    fd, _ = own.open(WATCH)  # opening counts as a use
    os.close(fd)
    own.close()
    assert [found.watch_id for found in folder(tmp_path / "content").prepare()] == [OTHER, WATCH]


# --- modes and owners ---------------------------------------------------------------------------------------------


def test_group_bits_that_a_volume_s_mounter_added_are_taken_off(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    write(own)
    own.close()
    for path in (tmp_path / "content", *(tmp_path / "content").rglob("*")):
        path.chmod(path.stat().st_mode | (0o2070 if path.is_dir() else 0o060))
    assert len(folder(tmp_path / "content").prepare()) == 1
    assert own.path.stat().st_mode & 0o777 == 0o700
    assert (own.path / WATCH).stat().st_mode & 0o777 == 0o600


def test_a_configured_folder_with_other_files_keeps_its_mode_and_its_files(tmp_path: Path) -> None:
    base = tmp_path / "shared"
    base.mkdir(mode=0o755)
    base.chmod(0o755)
    (base / "notes.txt").write_text("x")
    own = prepared(base)
    assert base.stat().st_mode & 0o777 == 0o755
    assert own.path.stat().st_mode & 0o777 == 0o700
    assert (base / "notes.txt").exists()
    own.close()
    empty = tmp_path / "empty"
    empty.mkdir()
    empty.chmod(0o755)
    prepared(empty).close()
    assert empty.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_somebody_put_in_the_way_is_not_used(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    base = tmp_path / "temporary"
    base.mkdir()
    (base / OWN).symlink_to(elsewhere)
    with pytest.raises(OSError, match="not a folder"):
        folder(base, private=False).prepare()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_in_the_temporary_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / OWN).mkdir(mode=0o700)
    os.chown(tmp_path / OWN, 12345, 12345)
    with pytest.raises(PermissionError, match="another user"):
        folder(tmp_path, private=False).prepare()


def test_the_disk_of_the_folder_is_looked_at(tmp_path: Path) -> None:
    own = prepared(tmp_path / "content")
    disk = own.disk()
    assert 0 < disk.free <= disk.total
    own.close()
