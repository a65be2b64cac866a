"""Database URLs as platforms, libpq and SQLAlchemy write them."""

import re

import pytest

from bridge.core.database_url import is_postgres, passwords, postgres_url

FORMS = {
    "postgres://u@h/db": "postgresql://u@h/db",
    "postgresql+psycopg://u@h/db": "postgresql://u@h/db",
    "postgresql+psycopg2://u:p@h:5432/db": "postgresql://u:p@h:5432/db",
    "postgresql://": "postgresql://",
    "postgresql:///db": "postgresql:///db",
    "postgres://u:p@h1:5432,h2:5433/db": "postgresql://u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
    "postgres://h1,h2/db?target_session_attrs=any": "postgresql://h1,h2/db?target_session_attrs=any",
    "postgresql://u@%2Fvar%2Frun%2Fpostgresql:5433/db": "postgresql://u@%2Fvar%2Frun%2Fpostgresql:5433/db",
    "postgresql://u@/db?host=/var/run/postgresql": "postgresql://u@/db?host=/var/run/postgresql",
    "postgresql://u@/db?host=h1:1&host=h2:2": (
        "postgresql://u@/db?host=h1,h2&port=1,2&target_session_attrs=read-write"  # SQLAlchemy writes several hosts so
    ),
    "postgresql://u@[::1]:5432/db": "postgresql://u@[::1]:5432/db",
    "postgresql://u@[fe80::1%25eth0]/db": "postgresql://u@[fe80::1%25eth0]/db",
    "postgresql://u:a%40b@h/db": "postgresql://u:a%40b@h/db",
    "postgresql://u:a@b%zz/#@h/db": "postgresql://u:a%40b%25zz%2F%23@h/db",
    "postgresql://u@h/db?sslmode=verify-full&sslrootcert=/etc/ca%20file.pem": (
        "postgresql://u@h/db?sslmode=verify-full&sslrootcert=/etc/ca%20file.pem"
    ),
    "postgres://u@h/db?sslmode=require&channel_binding=require": (
        "postgresql://u@h/db?sslmode=require&channel_binding=require"
    ),
    "postgres://u@h/db?pgbouncer=true&connection_limit=1&schema=public": "postgresql://u@h/db",
    "postgres://u@h/db?pgbouncer=true&sslmode=require": "postgresql://u@h/db?sslmode=require",
    "postgresql://u@h/db?sslcert=&application_name=a://b?c": (
        "postgresql://u@h/db?sslcert=&application_name=a://b%3Fc"  # an empty value means something to libpq
    ),
    "postgresql://u@h:1/db/x": "postgresql://u@h:1/db/x",
    "postgresql://u@h:65535/db": "postgresql://u@h:65535/db",
    "postgresql://a/b:p:q/r@h/db": "postgresql://a%2Fb:p%3Aq%2Fr@h/db",
    "postgresql://u@h/db?host=h1:1": "postgresql://u@h/db?host=h1:1",
    "postgresql:///db?host=h1": "postgresql:///db?host=h1",
    "postgresql:///db?host=h1:1": "postgresql:///db?host=h1&port=1",
    "postgresql:///db?host=/a:b": "postgresql:///db?host=/a:b",
    "postgresql:///db?host=h1&host=h2": "postgresql:///db?host=h1,h2&target_session_attrs=read-write",
    "postgresql:///db?host=/a&host=h2:2": "postgresql:///db?host=/a,h2&port=,2&target_session_attrs=read-write",
    "postgresql:///db?host=h1:1,h2:2": "postgresql:///db?host=h1,h2&port=1,2&target_session_attrs=read-write",
}


@pytest.mark.parametrize(("url", "expected"), FORMS.items(), ids=FORMS)
def test_a_url_is_given_to_libpq_in_its_own_form(url: str, expected: str) -> None:
    assert is_postgres(url)
    assert postgres_url(url) == expected
    assert postgres_url(expected) == expected


@pytest.mark.parametrize("url", FORMS)
def test_libpq_reads_every_form(url: str) -> None:
    conninfo = pytest.importorskip("psycopg.conninfo")
    assert isinstance(conninfo.conninfo_to_dict(postgres_url(url)), dict)


BAD = {
    "postgres://u:hidden@h:99999/db": (
        "must have a well-formed host and port: host, host:port, [IPv6]:port or %2Fsocket%2Ffolder"
    ),
    "postgres://u:hidden@h:65536/db": "must have a well-formed host and port",
    "postgres://u:hidden@h:0/db": "must have a well-formed host and port",
    "postgres://u:hidden@h:x/db": "must have a well-formed host and port",
    "postgres://u:hidden@h1,h 2/db": "must have a well-formed host and port",
    "postgres://u:hidden@[::1/db": "must have a well-formed host and port",
    "postgres://u:hidden@h/db?schema=mine": "the parameter schema is not known",
    "postgres://u:hidden@h/db#x": "must not contain a fragment",
}


@pytest.mark.parametrize(("url", "rule"), BAD.items(), ids=BAD)
def test_a_url_that_breaks_a_rule_is_refused_without_its_password(url: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(rule)}") as refused:
        postgres_url(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["mysql://u@h/db", "postgresql+asyncpg://u@h/db", "sqlite:///x", "postgres", "pg://h"])
def test_another_scheme_is_not_postgresql(url: str) -> None:
    assert not is_postgres(url)


def test_every_password_of_a_url_is_known_as_a_secret() -> None:
    assert passwords("postgres://u:p%40ss@h1,h2/db?sslpassword=q%20q&password=r") == {"p%40ss", "p@ss", "q q", "r"}
    assert passwords("postgres://u@h/db") == set()
    assert passwords("postgres://u:a@b@h/db?password=c?d&options=x://y") == {"a@b", "c?d"}
    assert passwords("sqlite:///bridge.db") == set()
