"""`seckill migrate`, and what commands and processes say of a schema that is not theirs."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from seckill.adapters import features, migrations, schema
from seckill.errors import NotReady, Unavailable
from tests.processes import Processes

NO_TABLES = "the database has no tables yet; type: seckill migrate"


@pytest.fixture
async def dsn(settings, db):
    """An empty database."""
    await db.execute("CREATE DATABASE to_migrate")
    yield settings.postgres_dsn.rpartition("/")[0] + "/to_migrate"
    await db.execute("DROP DATABASE to_migrate WITH (FORCE)")


@pytest.fixture
async def connection(dsn):
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "nightly report"})
    yield connection
    await connection.close()


@pytest.fixture
async def seckill(settings, dsn, tmp_path):
    """Run a command on that database: `code, out, line = await seckill("migrate")`."""
    # Apart from the other tests, to whose database the stores belong.
    async with Processes(
        settings, tmp_path, SECKILL_POSTGRES_DSN=dsn, SECKILL_NAMESPACE="to_migrate"
    ) as processes:

        async def run(*words: str, **overrides: str) -> tuple[int, str, str]:
            code, out, errors = await processes.ask(*words, **overrides)
            assert len(errors.splitlines()) <= 1, errors
            return code, out, errors.removeprefix("seckill: ").strip()

        yield run


async def test_a_database_is_made_once_and_known_to_be_up_to_date(seckill):
    only = dict.fromkeys(("SECKILL_REDIS_URL", "SECKILL_AMQP_URL", "SECKILL_TICKET_KEYS"), "")
    names = [file.name for file in schema.numbered_files()]

    code, out, line = await seckill("migrate", "--check", "--json", **only)
    assert (code, line) == (1, NO_TABLES)
    assert json.loads(out)["missing"] == names

    code, out, line = await seckill("migrate", "--json", **only)
    assert (code, json.loads(out), line) == (0, {"applied": names}, "")

    again = await asyncio.gather(seckill("migrate", **only), seckill("migrate", "--check", **only))
    assert again == [(0, "up to date\n", "")] * 2


async def test_without_a_schema_nothing_starts_and_the_line_says_what_to_type(seckill):
    sale = ("sale", "create", "x", "--stock", "1", "--price-cents", "1")
    made, *started = await asyncio.gather(
        seckill(*sale),
        seckill("gateway", "--workers", "2"),
        seckill("consumers", "sweep"),
        seckill("pool", "start"),
    )
    assert made == (1, "", NO_TABLES)
    for code, _, line in started:
        assert code == 1
        assert line.startswith("PostgreSQL at ")
        assert line.endswith(f": {NO_TABLES}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "DELETE FROM migrations WHERE name LIKE '0008%'",
            "the database lacks 0008_events.sql; type: seckill migrate",
        ),
        (
            "INSERT INTO migrations VALUES ('9999_later.sql', 'x')",
            "the database has 9999_later.sql, which this version does not know; run the version",
        ),
        (
            "UPDATE migrations SET checksum = 'x' WHERE name LIKE '0003%'",
            "0003_audit_and_dead_letters.sql has changed since it was applied to this database;",
        ),
        (
            "ALTER FUNCTION place RENAME TO place_; ALTER TABLE sales DROP COLUMN proof_bits;"
            "DROP INDEX orders_live; ALTER TABLE entries DISABLE TRIGGER entries_balance",
            "the database has lost column sales.proof_bits, index orders_live, function place,"
            " trigger entries_balance; restore it",
        ),
    ],
    ids=["behind", "ahead", "changed", "lost"],
)
async def test_another_schema_is_refused_in_one_line(dsn, connection, change, says):
    await migrations.migrate(dsn)
    assert await features.postgresql_faults(connection) == []
    await connection.execute(change)

    (line,) = await features.postgresql_faults(connection)

    assert line.startswith(f"PostgreSQL: {says}")
    assert (await migrations.look(dsn)).fault == line.removeprefix("PostgreSQL: ")
    assert "\n" not in line


async def test_commands_and_processes_refuse_a_newer_schema(seckill, dsn, connection):
    await migrations.migrate(dsn)
    await connection.execute("INSERT INTO migrations VALUES ('9999_later.sql', 'x')")
    ended = await asyncio.gather(
        seckill("migrate"), seckill("sale", "list"), seckill("consumers", "sweep")
    )
    for code, _, line in ended:
        assert code == 1
        assert "9999_later.sql, which this version does not know" in line


async def test_a_table_of_another_program_is_left_alone(dsn, connection):
    await connection.execute("CREATE TABLE migrations (id integer)")
    with pytest.raises(NotReady, match="belongs to another program"):
        await migrations.migrate(dsn)
    assert await connection.fetchval("SELECT to_regclass('sales')") is None


async def test_an_idle_transaction_in_the_way_is_named(seckill, dsn, connection):
    await migrations.migrate(dsn)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE migrations")

    for code, out, line in await asyncio.gather(seckill("migrate"), seckill("migrate", "--check")):
        assert (code, out) == (1, "")
        assert line.startswith("the migration gives up")
        assert f"pid {connection.get_server_pid()} (nightly report, idle in transaction" in line

    await transaction.rollback()
    assert await migrations.migrate(dsn) == []


async def test_a_role_that_may_make_no_tables_is_one_line_and_may_check(dsn, connection):
    await connection.execute("CREATE ROLE guest LOGIN PASSWORD 'x'")
    await connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    guest = dsn.replace(dsn.partition("//")[2].partition("@")[0], "guest:x")
    try:
        with pytest.raises(Unavailable, match="refuses: permission denied for schema") as refused:
            await migrations.migrate(guest)
        assert str(refused.value).startswith("PostgreSQL at ")
        assert str(refused.value).endswith(
            "; type there: GRANT USAGE, CREATE ON SCHEMA public TO guest"
        )
        await migrations.migrate(dsn)
        await connection.execute("GRANT SELECT ON migrations TO guest")
        assert await migrations.migrate(guest) == []
    finally:
        await connection.execute("DROP OWNED BY guest; DROP ROLE guest")
