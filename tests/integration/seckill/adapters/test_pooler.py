"""Sessions behind PgBouncer in transaction mode: each transaction has another one of the server."""

from __future__ import annotations

import asyncio
import itertools
from urllib.parse import urlsplit

import asyncpg
import pytest

from loadtest.proxy import Proxy
from seckill.adapters import migrations, postgres, schema
from seckill.adapters.postgres_sessions import SETTINGS
from tests import pgbouncer

SESSIONS = 3
SETTINGS_NOW = "SELECT name, current_setting(name) FROM unnest($1::text[]) AS name"


@pytest.fixture(scope="module")
async def pooled_dsn(pgbouncer_here, services):
    async with pgbouncer.in_front(services.postgres_dsn, sessions=SESSIONS) as dsn:
        yield dsn


@pytest.fixture
async def pooled(pooled_dsn):
    async with postgres.connect(pooled_dsn, size=4, timeout_s=5) as pool:
        yield pool


async def test_every_statement_and_transaction_has_the_settings_and_leaves_none(pooled, pooled_dsn):
    seen = set()
    for _ in range(2 * SESSIONS):
        assert dict(await pooled.fetch(SETTINGS_NOW, list(SETTINGS))) == SETTINGS
        async with postgres.transaction(pooled, snapshot=True) as connection:
            assert dict(await connection.fetch(SETTINGS_NOW, list(SETTINGS))) == SETTINGS
            assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
            seen.add(await connection.fetchval("SELECT pg_backend_pid()"))
    assert len(seen) == SESSIONS, "the transactions did not change sessions"

    # What another client of the pooler finds on those sessions.
    other = await asyncpg.connect(pooled_dsn, statement_cache_size=0)
    for _ in range(SESSIONS):
        async with other.transaction():
            assert dict(await other.fetch(SETTINGS_NOW, list(SETTINGS))) != SETTINGS
            assert await other.fetch("SELECT name FROM pg_prepared_statements") == []
    await other.close()


async def test_statements_of_many_clients_never_get_mixed_up(pooled_dsn, pooled):
    """Each is parsed in one message and run in the next; so alike, the wrong one would run too."""

    async def ask(pool, number):
        assert await pool.fetchval(f"SELECT $1::int + {number}", 1000) == 1000 + number
        rows = f"SELECT {number}, n FROM generate_series(1, $1::int) AS n"  # noqa: S608 - a number
        assert await pool.fetch(rows, 2) == [(number, 1), (number, 2)]
        assert (await pool.fetchrow("SELECT $1::text, $2::int[]", "a", [number])) == ("a", [number])
        await pool.execute("SELECT set_config('seckill.number', $1, true)", str(number))

    async with postgres.connect(pooled_dsn, size=4, timeout_s=5) as another:
        await asyncio.gather(*(ask((pooled, another)[n % 2], n) for n in range(300)))


async def test_an_error_ends_its_transaction_and_the_next_statement_works(pooled):
    for _ in range(2 * SESSIONS):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pooled.fetchval("SELECT 1 / $1::int", 0)
        with pytest.raises(asyncpg.UndefinedTableError):
            await pooled.execute("SELECT FROM no_such_table")
        assert await pooled.fetchval("SELECT $1::int", 7) == 7


async def test_two_migrations_at_once_both_end(pgbouncer_here, empty_database):
    async with empty_database() as dsn, pgbouncer.in_front(dsn, sessions=SESSIONS) as pooled_dsn:
        applied = await asyncio.gather(*(migrations.migrate(pooled_dsn) for _ in range(2)))
        names = [file.name for file in schema.numbered_files()]
        assert sorted(itertools.chain(*applied)) == names
        assert await migrations.migrate(pooled_dsn) == []


async def test_a_direct_connection_keeps_statements_and_settings_in_its_session(db):
    async with db.acquire() as connection:
        for number in range(3):
            assert await connection.fetchval("SELECT $1::int + 4711", number) == 4711 + number
        assert dict(await connection.fetch(SETTINGS_NOW, list(SETTINGS))) == SETTINGS
        kept = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%4711'"
        assert await connection.fetchval(kept) == 1


async def test_a_pooler_that_is_put_in_between_is_noticed_at_the_next_connection(
    pooled_dsn, services
):
    """Behind one address, as by a change of the name's record; and taken away again."""
    direct, pooler = urlsplit(services.postgres_dsn), urlsplit(pooled_dsn)
    async with Proxy(direct.hostname, direct.port) as proxy:
        dsn = pooler._replace(netloc=f"{pooler.username}:{pooler.password}@127.0.0.1:{proxy.port}")
        async with postgres.connect(dsn.geturl(), size=1, timeout_s=5) as pool:
            for server in (direct, pooler, direct):
                proxy.target = (server.hostname, server.port)
                await pool.expire_connections()
                seen = set()
                for _ in range(2 * SESSIONS):
                    assert dict(await pool.fetch(SETTINGS_NOW, list(SETTINGS))) == SETTINGS
                    seen.add(await pool.fetchval("SELECT pg_backend_pid()"))
                assert len(seen) == (1 if server is direct else SESSIONS)
