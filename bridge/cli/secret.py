"""`secret`: makes, shows and rotates secrets."""

import base64
import sys
from argparse import Namespace
from collections.abc import Mapping
from secrets import token_bytes
from typing import Any


def run(args: Namespace) -> int:
    """Runs `secret new`, `secret show` or `secret rotate`, prints the result and returns 0."""
    match args.action:
        case "new":
            _print(args, *_new(args.kind))
        case "show":
            _print(args, *_show())
        case _:
            _print(args, *_rotate())
    return 0


def _new(kind: str) -> tuple[Mapping[str, Any], list[str]]:
    """Returns a new secret as JSON and as lines. Nothing is stored."""
    if kind == "encryption-key":
        key_text = base64.urlsafe_b64encode(token_bytes(32)).decode()  # as Fernet.generate_key does
        return {"encryption_key": key_text}, [key_text]
    from bridge.core.signing import SigningKey, new_secret

    if kind == "signing-key":
        key = SigningKey(token_bytes(32))
        return {"signing_key": key.text, "public_key": key.public_text}, [key.text, key.public_text]
    text = new_secret(token_bytes(32)).text
    return {"secret": text}, [text]


def _show() -> tuple[Mapping[str, Any], list[str]]:
    """Returns the signing secrets, the current one first, and the public key if a signing key is configured."""
    from bridge.cli.signing_secrets import load_existing_signing_secrets
    from bridge.settings.settings import load

    settings = load()
    texts = [secret.text for secret in load_existing_signing_secrets(settings)]
    public = None if settings.signing_key is None else settings.signing_key.public_text
    return {"secrets": texts, "public_key": public}, [*texts, *([public] if public else [])]


def _rotate() -> tuple[Mapping[str, Any], list[str]]:
    """Encrypts the stored values again, with the newest encryption key. Returns how many, as JSON and as lines."""
    from bridge.cli.errors import CommandFailed
    from bridge.cli.signing_secrets import missing_database
    from bridge.settings.settings import load
    from bridge.store.database import closing
    from bridge.store.encryption import reencrypt
    from bridge.store.open import open_database

    settings = load()
    if (path := missing_database(settings)) is not None:
        raise CommandFailed(f"there is nothing to encrypt, because there is no database at {path}")
    database, cipher = open_database(settings.database_url, settings.encryption_keys)
    with closing(database):
        done = reencrypt(database, cipher)
    older = max(0, len(settings.encryption_keys) - 1)
    sentence = (
        f"encrypted with the newest key: the values of {_counted(done.watches, 'watch', 'watches')} and "
        f"{_counted(done.secrets, 'secret', 'secrets')} of the database"
    )
    advice = "you can now remove the older keys from BRIDGE_ENCRYPTION_KEYS" if older else "there is only one key"
    return {"watches": done.watches, "secrets": done.secrets, "older_keys": older}, [f"{sentence}; {advice}"]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _print(args: Namespace, answer: Mapping[str, Any], lines: list[str]) -> None:
    if args.json:
        import json

        lines = [json.dumps(answer)]
    sys.stdout.write("\n".join(lines) + "\n")
