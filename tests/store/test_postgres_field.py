"""PostgreSQL as people run it: failovers, poolers, sockets, several hosts, TLS, servers that start late or hang."""

import asyncio
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from bridge.core.errors import BadSetting, StoreUnavailable
from bridge.store import opening_wait
from bridge.store.database import PostgresDatabase, closing
from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.certificates import certificate_authority
from tests.databases import SETTINGS, NoServer, PostgresServer, _unprivileged_user, running_server
from tests.poolers import pgbouncer
from tests.ports import free_port
from tests.programs import skip_or_fail
from tests.replicas.harness import PostgresProxy, run_proxy
from tests.store.builders import new_watch, register, register_watch, settle
from tests.waiting import SAFETY_SECONDS
from tests.working_time import working_seconds

DROPPING = ["25006", "25P03", "53300", "57P01", "57P02", "57P03", "08006", "08P01", "08000"]


@asynccontextmanager
async def opened(url: str, key: str, wait_seconds: float = 0.0) -> AsyncIterator[Store]:
    store = await open_store(url, [key], Metrics(), wait_seconds=wait_seconds)
    try:
        yield store
    finally:
        await store.close()


def messages(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.msg == event]


# --- failover -----------------------------------------------------------------------------------------------------


@contextmanager
def open_sessions_read_only(server: PostgresServer, name: str) -> Iterator[None]:
    """Makes every open session read-only, and no new one, as after a failover."""
    # New sessions use the setting of their role in this database. Open sessions get the setting of the system.
    server.execute(f"ALTER ROLE postgres IN DATABASE {name} SET default_transaction_read_only = off")
    server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    server.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")


async def test_a_failover_that_leaves_open_sessions_read_only_causes_no_error(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    url = postgres_server.migrated()
    name = str(make_url(url).database)
    async with opened(url, encryption_key) as store:
        await register_watch(store)
        await store.counts()
        with open_sessions_read_only(postgres_server, name):
            assert (await register_watch(store)).created
            await asyncio.gather(*(store.probe() for _ in range(5)))


@pytest.mark.parametrize("code", DROPPING)
def test_an_error_that_says_the_connection_is_of_no_more_use_drops_it(
    postgres_server: PostgresServer, code: str
) -> None:
    seen: list[int] = []

    def fail_once(connection: Connection) -> str:
        seen.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        if len(seen) == 1:
            connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$"))
        return "done"

    with closing(PostgresDatabase(postgres_server.migrated())) as database:
        assert database.transaction(fail_once) == "done"
        assert len(set(seen)) == 2
        seen.clear()
        assert database.read(fail_once) == "done"
        assert len(set(seen)) == 2


def test_another_error_keeps_the_connection(postgres_server: PostgresServer) -> None:
    def fail(connection: Connection) -> None:
        seen.append(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
        connection.execute(text("DO $$ BEGIN RAISE SQLSTATE '22012'; END $$"))

    seen: list[int] = []
    with closing(PostgresDatabase(postgres_server.migrated())) as database:
        for _ in range(2):
            with pytest.raises(Exception, match="22012"):
                database.transaction(fail)
    assert len(seen) == 2
    assert len(set(seen)) == 1


# --- poolers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "session"])
async def test_a_bridge_works_through_pgbouncer(
    postgres_server: PostgresServer, encryption_key: str, mode: str
) -> None:
    with pgbouncer(postgres_server.empty(), mode) as url:
        async with opened(url, encryption_key) as store, opened(url, encryption_key) as other:
            registered = [await register_watch(store) for _ in range(3)]
            for _ in range(8):  # psycopg would prepare a statement after five executions
                results = await asyncio.gather(*(register(one, new_watch(one)) for one in (store, other, store)))
                assert all(result.created for result in results)
                await asyncio.gather(
                    *(one.counts() for one in (store, other)), *(one.adopt(10) for one in (store, other))
                )
            assert (await settle(store, registered[0])).task_closed
            await store.hand_over()
            taken: list[object] = []
            async with asyncio.timeout(SAFETY_SECONDS):
                while len(taken) < 2:
                    taken += await other.adopt(100)
            await store.synchronize()


def test_a_transaction_has_its_limits_on_any_session_and_leaves_none_behind(
    postgres_server: PostgresServer, real_store_limits: None
) -> None:
    limits = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"

    def read(connection: Connection) -> tuple[str, ...]:
        return tuple(connection.execute(text(limits)).one())

    with pgbouncer(postgres_server.migrated(), "transaction") as url, closing(PostgresDatabase(url)) as database:
        assert database.read(read) == database.transaction(read) == ("3500ms", "2500ms")
        with psycopg.connect(url) as other:
            assert other.execute(limits).fetchone() == ("0", "0")


async def test_statement_pooling_is_refused_in_one_sentence_without_waiting(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    refused = pytest.raises(StoreUnavailable, match="does not open: .*statement pooling")
    with pgbouncer(postgres_server.migrated(), "statement") as url, refused:
        await open_store(url, [encryption_key], Metrics(), wait_seconds=60)


# --- forms of URLs ------------------------------------------------------------------------------------------------


def socket_url(server: PostgresServer, url: str) -> str:
    place = make_url(url)
    folder = str(server.log.parent).replace("/", "%2F")
    return f"postgres://postgres@{folder}:{server.port}/{place.database}"


@pytest.mark.parametrize("form", ["postgres", "driver", "socket", "socket_parameter", "hosts", "sqlalchemy_hosts"])
async def test_a_store_opens_with_every_form_of_a_url(
    postgres_server: PostgresServer, encryption_key: str, form: str
) -> None:
    url, closed = postgres_server.migrated(), free_port()
    rest, name = url.partition("://")[2], make_url(url).database
    port, folder = postgres_server.port, postgres_server.log.parent
    forms = {
        "postgres": f"postgres://{rest}",
        "driver": f"postgresql+psycopg://{rest}",
        "socket": socket_url(postgres_server, url),
        "socket_parameter": f"postgresql://postgres@/{name}?host={folder}&port={port}",
        "hosts": f"postgresql://postgres@127.0.0.1:{closed},127.0.0.1:{port}/{name}?target_session_attrs=read-write",
        "sqlalchemy_hosts": f"postgresql://postgres@/{name}?host=127.0.0.1:{closed}&host=127.0.0.1:{port}",
    }
    async with opened(forms[form], encryption_key) as store:
        assert (await register_watch(store)).created


async def test_of_several_hosts_the_one_that_accepts_writes_is_used(
    postgres_server: PostgresServer, encryption_key: str
) -> None:
    url = postgres_server.migrated()
    name = make_url(url).database
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    place = f"127.0.0.1:{postgres_server.port}"
    with pytest.raises(StoreUnavailable, match="session is read-only"):
        await open_store(f"postgres://postgres@{place},{place}/{name}", [encryption_key], Metrics())


async def test_a_parameter_that_libpq_does_not_know_is_named(encryption_key: str) -> None:
    url = "postgres://u:hidden@127.0.0.1/db?no_such=1"
    with pytest.raises(BadSetting, match='BRIDGE_DATABASE_URL: .*"no_such"') as refused:
        await open_store(url, [encryption_key], Metrics())
    assert "hidden" not in str(refused.value)


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls_server() -> Iterator[tuple[PostgresServer, Path, Path]]:
    """A server with a certificate of a private CA; the CA's file, and the file of another CA."""
    folder = Path(tempfile.mkdtemp(prefix="bridge-tls-"))
    ca, certificate, key = certificate_authority(folder / "used", "used")
    other, _, _ = certificate_authority(folder / "other", "other")
    try:
        if (user := _unprivileged_user()) is not None:
            for path in (folder, folder / "used", certificate, key):
                os.chown(path, user.pw_uid, user.pw_gid)
        tls = ("ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}")
        with running_server((*SETTINGS, *tls)) as server:
            yield server, ca, other
    except NoServer as missing:
        skip_or_fail(str(missing))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
async def test_a_server_with_a_private_ca_is_verified(
    tls_server: tuple[PostgresServer, Path, Path], encryption_key: str
) -> None:
    server, ca, other = tls_server
    url = f"{server.migrated()}?sslmode=verify-full&sslrootcert="
    async with opened(f"{url}{ca}", encryption_key) as store:
        assert (await register_watch(store)).created
        in_use = (
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE application_name = 'amux-bridge'"
        )
        assert server.execute(in_use) == [(True,)]
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await open_store(f"{url}{other}", [encryption_key], Metrics(), wait_seconds=60)
    with pytest.raises(StoreUnavailable, match="root certificate file"):
        await open_store(f"{url}/no/such/file", [encryption_key], Metrics(), wait_seconds=60)
    assert time.monotonic() - began < SAFETY_SECONDS


# --- servers that start late or hang ------------------------------------------------------------------------------


async def test_a_start_waits_for_a_server_that_is_not_up_and_says_so_once(
    postgres_server: PostgresServer, encryption_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = postgres_server.migrated()
    proxy = PostgresProxy(postgres_server.port, free_port())
    with caplog.at_level(logging.INFO):
        opening = asyncio.create_task(open_store(proxy.url(url), [encryption_key], Metrics(), wait_seconds=60))
        async with asyncio.timeout(SAFETY_SECONDS):
            while not messages(caplog, "waiting_for_database"):
                await asyncio.sleep(0.01)
        await proxy.open()
        store = await opening
    assert (await register_watch(store)).created
    await store.close()
    await proxy.cut()
    [line] = messages(caplog, "waiting_for_database")
    assert "refused" in vars(line)["bridge_fields"]["reason"]
    assert len(messages(caplog, "database_opened")) == 1


async def test_a_start_gives_up_in_one_sentence(encryption_key: str) -> None:
    url = f"postgres://u:hidden@127.0.0.1:{free_port()}/db"
    with pytest.raises(StoreUnavailable, match=r"the database did not open within \d s: .*refused") as refused:
        await open_store(url, [encryption_key], Metrics(), wait_seconds=0.1)
    assert "hidden" not in str(refused.value)
    with pytest.raises(StoreUnavailable, match="the database does not open: .*refused"):
        await open_store(url, [encryption_key], Metrics())


@pytest.mark.parametrize("silent_after", [1, 2, 4, 6, 9])
async def test_a_start_whose_connection_goes_silent_tries_again_and_ends(
    postgres_server: PostgresServer, encryption_key: str, monkeypatch: pytest.MonkeyPatch, silent_after: int
) -> None:
    """The server stops answering after some messages, as when a firewall has dropped the connection."""
    monkeypatch.setattr(opening_wait, "HUNG_AFTER_SECONDS", 0.3)
    async with run_proxy(postgres_server.migrated()) as proxy:
        proxy.silent_after = silent_after
        url = proxy.url(postgres_server.migrated())
        began = working_seconds()
        with pytest.raises(StoreUnavailable, match="the database did not open within"):
            await open_store(url, [encryption_key], Metrics(), wait_seconds=0.5)
        assert working_seconds() - began < 12
        proxy.silent_after = None
        proxy.silent = False
        async with opened(url, encryption_key) as store:
            assert (await register_watch(store)).created


async def test_a_start_that_is_cancelled_ends_at_once_while_the_server_is_silent(
    postgres_server: PostgresServer,
    encryption_key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.store.open.SLOW_SECONDS", 0.05)
    url = postgres_server.migrated()
    async with run_proxy(url) as proxy:
        proxy.silent = True
        opening = asyncio.create_task(open_store(proxy.url(url), [encryption_key], Metrics(), wait_seconds=60))
        async with asyncio.timeout(SAFETY_SECONDS):
            while not messages(caplog, "waiting_for_database"):
                await asyncio.sleep(0.01)
        opening.cancel()
        began = working_seconds()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert working_seconds() - began < 5
