"""PgBouncer in front of the tests' PostgreSQL server."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

from tests.databases import _unprivileged_user
from tests.ports import free_port
from tests.programs import program

START_SECONDS = 20.0


@contextmanager
def pgbouncer(server_url: str, mode: str) -> Iterator[str]:
    """Start PgBouncer in a pooling mode, and yield the URL of the same database through PgBouncer."""
    path = program("pgbouncer", "pgbouncer")
    server, port = make_url(server_url), free_port()
    folder = Path(tempfile.mkdtemp(prefix="bridge-pgbouncer-"))  # the user of PgBouncer may not enter pytest's folders
    config, users = folder / "pgbouncer.ini", folder / "users.txt"
    users.write_text('"postgres" ""\n')
    config.write_text(
        "[databases]\n"
        f"* = host={server.host} port={server.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\n"
        # In transaction mode all clients share two connections, so the next transaction may use another connection.
        f"pool_mode = {mode}\ndefault_pool_size = {2 if mode == 'transaction' else 20}\nmax_client_conn = 100\n"
        f"logfile = {folder / 'pgbouncer.log'}\nserver_login_retry = 1\n"
    )
    user = _unprivileged_user()
    as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if user is not None:
        for place in (folder, config, users):
            os.chown(place, user.pw_uid, user.pw_gid)
    running = subprocess.Popen(
        [path, "-q", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **as_user,  # type: ignore[call-overload]
    )
    url = f"postgresql://postgres@127.0.0.1:{port}/{server.database}"
    try:
        wait_until_open(url)
        yield url
    finally:
        running.terminate()
        running.wait(START_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_open(url: str) -> None:
    """Wait until a server accepts a connection."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
