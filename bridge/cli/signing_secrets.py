"""Loads the secrets that sign callbacks, from the settings or from the database."""

from collections.abc import Sequence
from pathlib import Path

from bridge.cli.errors import CommandFailed
from bridge.core.signing import Secret, parse_secret
from bridge.settings.settings import Settings


def load_signing_secrets(settings: Settings) -> Sequence[Secret]:
    """Returns the configured secrets, the current one first, or else the secret that is stored in the database.

    A database without a secret gets one. Raises BadSetting or StoreUnavailable as opening the store does.
    """
    if settings.signing_secrets:
        return settings.signing_secrets
    from bridge.store.database import closing  # imported here: the store takes two thirds of the start-up time
    from bridge.store.encryption import signing_secret
    from bridge.store.open import open_database

    database, cipher = open_database(settings.database_url, settings.encryption_keys)
    with closing(database):
        new = database.system.token_bytes(32)
        found = database.transaction(lambda connection: signing_secret(connection, cipher, new))
    return [parse_secret(found)]


def load_existing_signing_secrets(settings: Settings, remedy: str = "") -> Sequence[Secret]:
    """Does the same as `load_signing_secrets`, but creates no database: raises CommandFailed if there is none yet.

    `remedy` is another way to solve this, such as `use --secret, `. The error names it first.
    """
    if not settings.signing_secrets and (path := missing_database(settings)) is not None:
        raise CommandFailed(
            f"there is no signing secret, because there is no database at {path}: {remedy}"
            "start the bridge in this folder first, or set BRIDGE_SIGNING_SECRETS"
        )
    return load_signing_secrets(settings)


def missing_database(settings: Settings) -> Path | None:
    """Returns the path of the SQLite file if there is none yet."""
    if not settings.database_url.startswith("sqlite:"):
        return None
    from bridge.store.database import sqlite_path

    path = sqlite_path(settings.database_url)
    return None if path.exists() else path
