"""`secret`: new secrets are valid settings, `show` prints the signing secrets, `rotate` re-encrypts everything."""

import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from bridge.core.signing import SigningKey, parse_secret, parse_signing_key
from bridge.store.database import Database, closing
from bridge.store.encryption import BATCH, Cipher, Reencrypted, reencrypt
from bridge.store.open import open_database
from bridge.store.schema import watches
from tests.cli.harness import SECRET, Command

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def test_new_secrets_are_valid_settings(command: Command) -> None:
    made = [command("secret", "new").out.strip() for _ in range(2)]
    assert made[0] != made[1]
    assert parse_secret(made[0])
    key, public = command("secret", "new", "--kind", "signing-key").out.split()
    assert parse_signing_key(key).public_text == public
    Fernet(json.loads(command("secret", "new", "--kind", "encryption-key", "--json").out)["encryption_key"])


def test_show_prints_the_configured_secrets_and_the_public_key(command: Command, tmp_path: Path) -> None:
    key = SigningKey(b"k" * 32)
    result = command("secret", "show", BRIDGE_SIGNING_SECRETS=SECRET.text, BRIDGE_SIGNING_KEY=key.text)
    assert result.out.split() == [SECRET.text, key.public_text]
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_databases_secret_and_keeps_it(command: Command, sqlite_url: str) -> None:
    first = json.loads(command("secret", "show", "--json", BRIDGE_DATABASE_URL=sqlite_url).out)
    assert first["public_key"] is None
    assert parse_secret(first["secrets"][0])
    assert command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url).out.split() == first["secrets"]


@pytest.mark.parametrize(
    ("action", "sentence"), [("show", "there is no signing secret"), ("rotate", "there is nothing to encrypt")]
)
def test_in_an_empty_folder_there_is_one_sentence_and_no_file(
    command: Command, tmp_path: Path, action: str, sentence: str
) -> None:
    result = command("secret", action)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"amux-bridge: {sentence}, because there is no database at ")
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_is_one_sentence_and_exit_code_2(command: Command, sqlite_url: str) -> None:
    assert command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=OLD).code == 0
    result = command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=NEW)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("amux-bridge: BRIDGE_ENCRYPTION_KEYS: the key does not decrypt")


def test_rotate_says_that_the_old_key_can_be_removed(command: Command, sqlite_url: str) -> None:
    command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=OLD)
    result = command("secret", "rotate", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=f"{NEW},{OLD}")
    assert result.out == (
        "encrypted with the newest key: the values of 0 watches and 2 secrets of the database; "
        "you can now remove the older keys from BRIDGE_ENCRYPTION_KEYS\n"
    )
    assert command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=NEW).code == 0


# --- re-encryption in the store, on both databases ----------------------------------------------------------------


def write_watches(database: Database, cipher: Cipher, count: int) -> None:
    """Writes watches with every combination of encrypted values, including none."""
    rows = [
        {
            "id": f"wat_{number:06d}",
            **dict.fromkeys(("app", "task", "task_id", "callback_url", "host", "events"), f"text {number}"),
            "endpoint": f"endpoint {number}",
            "context": b"null",
            "options": b"",
            "state": "active",
            "created_at": 0.0,
            "deadline_at": 1.0,
            "timeout_seconds": 1.0,
            "header_names": "",
            **{
                name: cipher.encrypt(f"wat_{number:06d}", f"{name} {number}") if number >> bit & 1 else None
                for bit, name in enumerate(("headers", "secret", "api_key"))
            },
        }
        for number in range(count)
    ]
    database.transaction(lambda connection: connection.execute(watches.insert(), rows))


def decrypted_values(database: Database, cipher: Cipher) -> dict[str, dict[str, str]]:
    rows = database.read(lambda connection: connection.execute(watches.select()).all())
    return {
        row.id: {
            name: cipher.decrypt(row.id, getattr(row, name))
            for name in ("headers", "secret", "api_key")
            if getattr(row, name) is not None
        }
        for row in rows
    }


def test_every_value_is_encrypted_again_in_batches_and_stays_the_same(database_url: str) -> None:
    count = 2 * BATCH + 17
    database, both = _open_with_watches(database_url, [NEW, OLD], write_under=OLD, count=count)
    with closing(database):
        before = decrypted_values(database, both)
        assert reencrypt(database, both) == Reencrypted(count - (count + 7) // 8, 1)
        assert decrypted_values(database, Cipher([NEW])) == before
        assert reencrypt(database, both).watches == count - (count + 7) // 8


def test_a_value_that_no_key_decrypts_is_an_error_and_its_batch_is_not_written(database_url: str) -> None:
    database, both = _open_with_watches(database_url, [NEW, OLD], write_under=OLD, count=3)
    with closing(database):
        unknown_key = Cipher([Fernet.generate_key().decode()])
        database.transaction(
            lambda connection: connection.execute(
                watches.update()
                .where(watches.c.id == "wat_000002")
                .values(secret=unknown_key.encrypt("wat_000002", "x"))
            )
        )
        before = _encrypted_value(database, "wat_000001", "headers")
        with pytest.raises(Exception, match="does not decrypt"):
            reencrypt(database, both)
        assert _encrypted_value(database, "wat_000001", "headers") == before


def test_rotating_a_locked_file_is_one_sentence(command: Command, sqlite_url: str, real_store_limits: None) -> None:
    command("secret", "show", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=OLD)
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        result = command("secret", "rotate", BRIDGE_DATABASE_URL=sqlite_url, BRIDGE_ENCRYPTION_KEYS=f"{NEW},{OLD}")
        writer.execute("ROLLBACK")
    writer.close()
    assert result.code == 1
    assert result.err == "amux-bridge: the database does not open: database is locked\n"


def _open_with_watches(database_url: str, keys: list[str], *, write_under: str, count: int) -> tuple[Database, Cipher]:
    database, cipher = open_database(database_url, [write_under])
    with closing(database):
        write_watches(database, cipher, count)
    return open_database(database_url, keys)


def _encrypted_value(database: Database, watch_id: str, name: str) -> bytes:
    query = watches.select().where(watches.c.id == watch_id)
    return bytes(getattr(database.read(lambda connection: connection.execute(query).one()), name))
