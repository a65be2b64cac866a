"""The secrets that sign callbacks, as the settings or the database have them."""

from collections.abc import Sequence

from bridge.cli.errors import CommandFailed
from bridge.core.signing import Secret, parse_secret
from bridge.settings.settings import Settings


def secrets_that_sign(settings: Settings) -> Sequence[Secret]:
    """The configured secrets, the current one first; with none, the database's own, made now if there is none yet.

    Raises BadSetting or StoreUnavailable as opening the store does.
    """
    if settings.signing_secrets:
        return settings.signing_secrets
    from bridge.store.database import closing  # only here: the store is two thirds of what starting takes
    from bridge.store.encryption import signing_secret
    from bridge.store.open import open_database

    database, cipher = open_database(settings.database_url, settings.encryption_keys)
    with closing(database):
        found = database.transaction(lambda connection: signing_secret(connection, cipher))
    return [parse_secret(found)]


def secrets_known_here(settings: Settings) -> Sequence[Secret]:
    """As `secrets_that_sign`, but no database is made: raises CommandFailed when there is none yet."""
    if not settings.signing_secrets and settings.database_url.startswith("sqlite:"):
        from bridge.store.database import sqlite_path

        if not (path := sqlite_path(settings.database_url)).exists():
            raise CommandFailed(
                f"no signing secret is known here, for there is no database at {path}: give --secret, "
                "or start the bridge in this folder first"
            )
    return secrets_that_sign(settings)
