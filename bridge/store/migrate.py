"""Brings the schema up to date. If several bridges start at the same time, only one of them does it.

A new database gets the tables of `schema.py` directly. An older database gets the revisions that it lacks. Both then
have the same schema. Alembic is imported only for an older database: the import takes 300 ms and 9 MB.
"""

from importlib.resources import files

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, text
from sqlalchemy.schema import CreateTable

from bridge.core.errors import BadSetting
from bridge.store.advisory_locks import MIGRATION
from bridge.store.database import Database
from bridge.store.schema import metadata

PACKAGE = "bridge.store.migrations"
_VERSION = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))  # as Alembic's


def head() -> str:
    """Returns the newest revision of the package. The names of its files begin with their numbers."""
    names = [file.name for file in files(PACKAGE).joinpath("versions").iterdir() if file.name[:4].isdigit()]
    return max(names)[:4]


def is_migrated(database: Database) -> bool:
    """Whether the database has the schema of this version."""
    return database.read(_revision) == head()


def migrate(database: Database) -> None:
    """Make the tables or run the missing revisions, in one transaction.

    Raises BadSetting for a schema that is newer than this bridge.
    """
    if not is_migrated(database):
        database.large_transaction(_bring_up_to_date)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _bring_up_to_date(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = 0"))  # an index on a large table takes minutes
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION})
    found = _revision(connection)
    if found is not None and found > head():
        raise BadSetting(f"BRIDGE_DATABASE_URL: the database was made by a newer bridge (schema {found})")
    if inspect(connection).get_table_names():
        upgrade(connection)
    else:
        metadata.create_all(connection, checkfirst=False)
        connection.execute(CreateTable(_VERSION))
        connection.execute(insert(_VERSION), {"version_num": head()})


def upgrade(connection: Connection) -> None:
    """Run the revisions that the database lacks; in an empty database all of them."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", PACKAGE.replace(".", ":", 1).replace(".", "/"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
