"""`backup`: writes a consistent copy of a SQLite database, which a bridge may be using, and of its key."""

import json
import sys
from argparse import Namespace
from pathlib import Path

from bridge.cli.errors import CommandFailed
from bridge.cli.signing_secrets import missing_database
from bridge.settings.settings import ENV_FILE, Settings, load
from bridge.settings.variables import find, read_variables


def run(args: Namespace) -> int:
    """Writes the copy, prints where the key is, and returns 0. Raises CommandFailed, also for PostgreSQL."""
    if _is_postgres():
        raise CommandFailed(
            "backup is for SQLite; for PostgreSQL use pg_dump --format=custom, and keep BRIDGE_ENCRYPTION_KEYS with "
            "your other secrets"
        )
    settings = load()
    if (path := missing_database(settings)) is not None:
        raise CommandFailed(f"there is nothing to back up, because there is no database at {path}")
    target = Path(args.file)
    key_file = _back_up(settings, target, overwrite=args.overwrite)
    if args.json:
        answer = {
            "database": str(target),
            "bytes": target.stat().st_size,
            "key_file": None if key_file is None else str(key_file),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.write(f"the copy is {target} ({target.stat().st_size} bytes)\n{_where_the_key_is(key_file)}\n")
    return 0


def _is_postgres() -> bool:
    """Returns whether the database is PostgreSQL. It reads only this setting, because others may be missing."""
    name = "BRIDGE_DATABASE_URL"
    return find(read_variables(ENV_FILE), {name}).values.get(name, "").startswith("postgres")


def _back_up(settings: Settings, target: Path, *, overwrite: bool) -> Path | None:
    from bridge.store.backup import back_up
    from bridge.store.database import sqlite_path

    path = sqlite_path(settings.database_url)
    return back_up(path, target, with_key=not settings.encryption_keys, overwrite=overwrite)


def _where_the_key_is(key_file: Path | None) -> str:
    if key_file is None:
        return "its key is not in a file: a bridge on this copy needs the same BRIDGE_ENCRYPTION_KEYS"
    return f"its key is {key_file}: a bridge on this copy needs it in the same folder; both together reveal the secrets"
