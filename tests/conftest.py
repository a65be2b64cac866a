"""Fixtures for the tests of several folders: databases of both kinds, and stores on them."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, settings

from bridge.store.open import open_store
from bridge.store.store import Store
from bridge.telemetry import Metrics
from tests.databases import NoServer, PostgresServer, delete_rows, migrated_file, run, running_server
from tests.programs import skip_or_fail
from tests.store_limits import FACTOR, store_limits_times

KINDS = ("sqlite", "postgres")

# Hypothesis limits an example to 200 ms, and limits the time to draw it. On a busy machine both may take longer.
settings.register_profile("bridge", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bridge")


def pytest_configure() -> None:
    """Let Ctrl-C end the programs that tests start. A shell's background jobs would inherit an ignored SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the checks first, because the longest takes a sixth of the whole run, and other tests can run beside it."""
    items.sort(key=lambda item: item.path.name != "test_checks.py")


@pytest.fixture(scope="session", autouse=True)
def _patient_stores() -> Iterator[None]:
    """Multiplies the store's time limits by ten in this process, so that a slow machine fails no other tests."""
    with store_limits_times(FACTOR):
        yield


@pytest.fixture
def real_store_limits() -> Iterator[None]:
    """Restores the real time limits for stores that the test opens. Tests that check the limits use this."""
    with store_limits_times(1):
        yield


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole session. Without PostgreSQL, tests that need it are skipped, and in CI they fail."""
    try:
        with running_server() as server:
            yield server
    except NoServer as missing:
        skip_or_fail(str(missing))


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with today's schema, to be copied."""
    return migrated_file(tmp_path_factory.mktemp("migrated"))


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """A fresh SQLite file with today's schema."""
    shutil.copyfile(migrated_sqlite, tmp_path / "bridge.db")
    return f"sqlite:///{tmp_path / 'bridge.db'}"


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """A PostgreSQL database with today's schema and no rows. A test that changes more than rows makes a database."""
    return postgres_server.cleaned()


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of either kind, with today's schema and no rows."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def either_url(request: pytest.FixtureRequest) -> str:
    """As `database_url`, but PostgreSQL only in the long run. Tests that start whole bridges use this."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def encryption_key() -> str:
    return Fernet.generate_key().decode()


@pytest.fixture(scope="session")
def sqlite_store(migrated_sqlite: Path, encryption_key: str) -> Iterator[Store]:
    """The store that tests use in turn. To open a store and compile its statements takes as long as ten tests."""
    path = shutil.copyfile(migrated_sqlite, migrated_sqlite.with_name("shared.db"))
    opened = run(open_store(f"sqlite:///{path}", [encryption_key], Metrics()))
    yield opened
    _close(opened)


@pytest.fixture(scope="session")
def postgres_stores(postgres_server: PostgresServer, encryption_key: str) -> Iterator[list[Store]]:
    """The four stores on PostgreSQL that tests use in turn, as replicas of one bridge.

    All four get the clock offset of the first. Otherwise they differ, because a busy machine delays their measurement.
    """
    url = postgres_server.migrated()
    opened = [run(open_store(url, [encryption_key], Metrics())) for _ in range(4)]
    clocks: Any = [one._database for one in opened]
    for clock in clocks:
        clock._epoch_offset = clocks[0]._epoch_offset
    yield opened
    for one in opened:
        _close(one)


def _close(store: Store) -> None:
    """Close a store that tests used in turn.

    A call that a test left in a thread never ends here, because it reports its end to the closed loop of the test. This
    function waits only a second for it. With the limits of the session it would wait for 41 s.
    """
    with store_limits_times(0):
        run(store.close())


@pytest.fixture(scope="session")
def postgres_store(postgres_stores: list[Store]) -> Store:
    """The first of the four replicas."""
    return postgres_stores[0]


@pytest.fixture
def replicas(postgres_stores: list[Store]) -> list[Store]:
    """Two replicas that have just joined an empty database."""
    return _joined(postgres_stores[:2])


@pytest.fixture
def four_replicas(postgres_stores: list[Store]) -> list[Store]:
    """Four replicas that have just joined an empty database."""
    return _joined(postgres_stores)


def _joined(stores: list[Store]) -> list[Store]:
    delete_rows(stores[0])
    for one in stores:
        run(one.rejoin())
    return stores


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store on each kind of database. A test that closes or breaks its store opens `database_url` instead."""
    return _joined([request.getfixturevalue(f"{request.param}_store")])[0]
