"""`secret`: make, show and rotate secrets."""

import base64
import sys
from argparse import Namespace
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any


def run(given: Namespace) -> int:
    """Do what `secret new`, `secret show` or `secret rotate` asks."""
    match given.action:
        case "new":
            _tell(given, *_new(given.kind))
        case "show":
            _tell(given, *_show())
        case _:
            _tell(given, *_rotate())
    return 0


def _new(kind: str) -> tuple[Mapping[str, Any], list[str]]:
    """A fresh secret; nothing is stored."""
    if kind == "encryption-key":
        made = base64.urlsafe_b64encode(token_bytes(32)).decode()  # what Fernet.generate_key does
        return {"encryption_key": made}, [made]
    from bridge.core.signing import SigningKey, new_secret

    if kind == "signing-key":
        key = SigningKey(token_bytes(32))
        return {"signing_key": key.text, "public_key": key.public_text}, [key.text, key.public_text]
    text = new_secret(token_bytes(32)).text
    return {"secret": text}, [text]


def _show() -> tuple[Mapping[str, Any], list[str]]:
    """The secrets that sign, the current one first, and the public key when there is a key pair."""
    from bridge.cli.signing_secrets import secrets_that_sign
    from bridge.settings.settings import load

    settings = load()
    texts = [secret.text for secret in secrets_that_sign(settings)]
    public = None if settings.signing_key is None else settings.signing_key.public_text
    return {"secrets": texts, "public_key": public}, [*texts, *([public] if public else [])]


def _rotate() -> tuple[Mapping[str, Any], list[str]]:
    """Seal what is stored under the newest encryption key."""
    from bridge.settings.settings import load
    from bridge.store.database import closing
    from bridge.store.encryption import reencrypt
    from bridge.store.open import open_database

    settings = load()
    database, cipher = open_database(settings.database_url, settings.encryption_keys)
    with closing(database):
        done = reencrypt(database, cipher)
    older = max(0, len(settings.encryption_keys) - 1)
    told = f"sealed anew under the newest key: {_number(done.watches, 'watch', 'watches')} with secrets of their own, "
    told += f"{_number(done.secrets, 'secret', 'secrets')} of the database's"
    after = "the older keys can be taken out of BRIDGE_ENCRYPTION_KEYS now" if older else "there is one key only"
    return {"watches": done.watches, "secrets": done.secrets, "older_keys": older}, [f"{told}; {after}"]


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _tell(given: Namespace, answer: Mapping[str, Any], lines: list[str]) -> None:
    if given.json:
        import json

        lines = [json.dumps(answer)]
    sys.stdout.write("\n".join(lines) + "\n")
