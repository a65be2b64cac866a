"""`backup`: another bridge can start on the copy of a running bridge's database."""

import json
import stat
import threading
from pathlib import Path

import pytest

from tests.cli.harness import Command, bridge_in_thread, run_process

URL = "http://127.0.0.1:9/"


def test_a_bridge_starts_on_the_copy_of_one_that_was_being_written_to(command: Command, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with bridge_in_thread(first) as bridge:
        kept = json.loads(command("watch", "sandbox_0_0_never_1", "--callback", URL, "--json", **bridge.client).out)
        stop = threading.Event()
        environ = {"BRIDGE_DATABASE_URL": f"sqlite:///{first / 'served.db'}"}
        writer = threading.Thread(target=_register_until, args=(stop, bridge.url, bridge.client["BRIDGE_TOKEN"]))
        writer.start()
        try:
            result = command("backup", str(second / "served.db"), **environ)
        finally:
            stop.set()
            writer.join()
        lines = result.out.splitlines()
        assert (result.code, result.err) == (0, "")
        assert lines[0].startswith(f"the copy is {second / 'served.db'} (")
        assert lines[1].startswith(f"its key is {second / 'bridge.key'}: a bridge on this copy needs it")
        again = command("backup", str(second / "served.db"), **environ)
        assert (again.code, again.out) == (1, "")
        assert again.err == f"amux-bridge: {second / 'served.db'} already exists; --overwrite replaces it\n"
    for path in second.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with bridge_in_thread(second) as copy:
        assert json.loads(command("show", kept["id"], "--json", **copy.client).out)["state"] == "active"
        assert command("cancel", kept["id"], **copy.client).code == 0


def _register_until(stop: threading.Event, url: str, token: str) -> None:
    import http.client

    number = 0
    while not stop.is_set():
        number += 1
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        body = json.dumps({"task_id": f"sandbox_0_0_never_w{number}", "callback_url": URL})
        connection.request(
            "POST", "/watch", body, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        )
        connection.getresponse().read()
        connection.close()


def test_backup_prints_one_object_for_scripts(command: Command, tmp_path: Path) -> None:
    key = command("secret", "new", "--kind", "encryption-key").out.strip()
    environ = {"BRIDGE_ENCRYPTION_KEYS": key}
    with bridge_in_thread(tmp_path):
        pass
    (tmp_path / "served.db").rename(tmp_path / "bridge.db")
    answer = json.loads(command("backup", "copy.db", "--json").out)
    assert answer == {
        "database": "copy.db",
        "bytes": (tmp_path / "copy.db").stat().st_size,
        "key_file": "bridge.key",
    }
    other = command("backup", "other.db", **environ)
    assert other.out.endswith("a bridge on this copy needs the same BRIDGE_ENCRYPTION_KEYS\n")


@pytest.mark.parametrize("url", ["postgresql://u:very-secret@db.example/bridge", "postgres://u:very-secret@h/d"])
def test_backup_of_postgresql_names_pg_dump_and_no_password(command: Command, url: str, tmp_path: Path) -> None:
    result = command("backup", "copy.dump", BRIDGE_DATABASE_URL=url)
    assert (result.code, result.out) == (1, "")
    assert "use pg_dump --format=custom" in result.err
    assert "very-secret" not in result.err
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_backup_without_a_database_makes_nothing(tmp_path: Path) -> None:
    result = run_process("backup", "copy.db", folder=tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err == "amux-bridge: there is nothing to back up, because there is no database at bridge.db\n"
    assert list(tmp_path.iterdir()) == []
