"""Bringing the schema up to date, once, whoever starts at the same time."""

from importlib.resources import files

from sqlalchemy import Connection, inspect, text

from bridge.core.errors import BadSetting
from bridge.store.database import Database

PACKAGE = "bridge.store.migrations"
_LOCK = 7_351_882_046_311  # any number that nobody else's advisory locks use


def head() -> str:
    """The newest revision of the package: revisions are numbered, and so are their files."""
    names = [file.name for file in files(PACKAGE).joinpath("versions").iterdir() if file.name[:4].isdigit()]
    return max(names)[:4]


def migrate(database: Database) -> None:
    """Run the revisions that are missing, in one transaction. Raises BadSetting for a schema newer than this bridge."""
    if database.read(_revision) != head():
        database.transaction(_upgrade)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection) -> None:
    from alembic import command  # 300 ms, and only a new or an old schema needs it
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = 0"))  # an index on a large table takes minutes
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    found = _revision(connection)
    if found is not None and found > head():
        raise BadSetting(f"BRIDGE_DATABASE_URL: the database was made by a newer bridge (schema {found})")
    config = Config()
    config.set_main_option("script_location", PACKAGE.replace(".", ":", 1).replace(".", "/"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
