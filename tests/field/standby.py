"""A PostgreSQL server with a standby that can be promoted."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.databases import SETTINGS, START_SECONDS, _binary, _run, _unprivileged_user
from tests.ports import free_port

_CAUGHT_UP = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"


@dataclass
class Server:
    """One of the two servers."""

    home: Path
    name: str
    port: int

    @property
    def data(self) -> Path:
        return self.home / self.name

    def start(self) -> None:
        # A commit must be in the WAL before its answer, so that the standby gets it. So commits stay synchronous.
        options = " ".join(f"-c {setting}" for setting in SETTINGS if setting != "synchronous_commit=off")
        listening = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.home} {options}"
        self.control("start", "-l", str(self.home / f"{self.name}.log"), "-o", listening)

    def stop(self) -> None:
        """Ends the server at once and without a shutdown, as a power cut does."""
        with suppress(RuntimeError):  # it does not run
            self.control("stop", "-m", "immediate")

    def promote(self) -> None:
        self.control("promote")

    def control(self, *words: str) -> None:
        wait = ["-w", "-t", str(START_SECONDS)]
        _run([_binary("pg_ctl"), words[0], "-D", self.data, *words[1:], *wait], _unprivileged_user(), self.home)

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@dataclass
class Pair:
    """A primary and its standby."""

    primary: Server
    standby: Server

    def fail_over(self) -> None:
        """Waits until the standby has all changes, ends the primary, and promotes the standby."""
        end = time.monotonic() + START_SECONDS
        while self.primary.execute(_CAUGHT_UP) != [(1,)]:
            assert time.monotonic() < end
            time.sleep(0.02)
        self.primary.stop()
        self.standby.promote()


@contextmanager
def primary_and_standby() -> Iterator[Pair]:
    """Starts a primary and its standby. Raises NoServer if PostgreSQL cannot be started."""
    user, home = _unprivileged_user(), Path(tempfile.mkdtemp(prefix="bridge-standby-"))
    primary, standby = Server(home, "primary", free_port()), Server(home, "standby", free_port())
    try:
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
        make = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        _run([_binary("initdb"), "-D", primary.data, *make], user, home)
        primary.start()
        copy: list[str | Path] = [
            "-h",
            "127.0.0.1",
            "-p",
            str(primary.port),
            "-U",
            "postgres",
            "-D",
            standby.data,
            "-R",
            "--no-sync",
        ]
        _run([_binary("pg_basebackup"), "-c", "fast", *copy], user, home)
        standby.start()
        yield Pair(primary, standby)
    finally:
        primary.stop()
        standby.stop()
        shutil.rmtree(home, ignore_errors=True)
