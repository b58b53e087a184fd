"""migrate() on a database that has the old numbering of 0.1.0."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import asyncpg
import pytest

from seckill.adapters import migrations, postgres, schema
from seckill.errors import SeckillError
from seckill.orders import orders
from seckill.orders.orders import LIVE, Placement

HERE = Path(__file__).parent
OLD_FILES = sorted((HERE / "schema_of_0_1_0").glob("*.sql"))
LATER_FILES = [file.name for file in schema.numbered_files() if file.name > schema.LAST_OF_0_1_0]
CROWD = (HERE / "crowd_of_0_1_0.sql").read_text()

#: What makes up a schema: every object by name, with all that PostgreSQL knows of it. The order of
#: columns is left out: a column that was added later is the last one.
CATALOGUE = {
    "relations": """
        SELECT relname, relkind, reloptions::text, relacl::text, relrowsecurity FROM pg_class
         WHERE relnamespace = 'public'::regnamespace""",
    "columns": """
        SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
               attidentity, attgenerated, attstorage, attcollation,
               pg_get_expr(adbin, adrelid) AS preset
          FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
          LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
           AND NOT attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, convalidated, pg_get_constraintdef(oid)
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": """
        SELECT sequencename, data_type::text, start_value, max_value, increment_by, cycle
          FROM pg_sequences WHERE schemaname = 'public'""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid), proacl::text FROM pg_proc
         WHERE pronamespace = 'public'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid)
          FROM pg_trigger WHERE NOT tgisinternal""",
    "migrations": "SELECT name, checksum FROM migrations",
}


async def catalogue(connection) -> dict[str, set[tuple]]:
    return {
        kind: {tuple(row) for row in await connection.fetch(query)}
        for kind, query in CATALOGUE.items()
    }


async def tables(connection) -> list[str]:
    rows = await connection.fetch(
        "SELECT tablename FROM pg_tables"
        " WHERE schemaname = 'public' AND tablename <> 'migrations' ORDER BY tablename"
    )
    return [row[0] for row in rows]


#: No column of 0.1.0 has a name that a later file gives one.
ADDED_COLUMNS = [
    name for file in schema.numbered_files() for name in re.findall(r"ADD COLUMN (\w+)", file.text)
]


async def rows_of(connection) -> dict[str, list[str]]:
    """Return all rows of all tables, each as JSON, without columns that later files add."""
    return {
        table: [
            row[0]
            for row in await connection.fetch(
                f"SELECT (to_jsonb({table}) - $1::text[])::text FROM {table} ORDER BY 1",  # noqa: S608 - a table of ours
                ADDED_COLUMNS,
            )
        ]
        for table in await tables(connection)
    }


async def make_old_database(connection) -> None:
    """Do what migrate() of 0.1.0 did."""
    await connection.execute(
        "CREATE TABLE migrations (name text PRIMARY KEY, checksum text NOT NULL)"
    )
    for file in OLD_FILES:
        await connection.execute(file.read_text())
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        await connection.execute("INSERT INTO migrations VALUES ($1, $2)", file.name, checksum)


@pytest.fixture
async def old(connection):
    """A connection to a database of the old numbering, with a crowd in it."""
    await make_old_database(connection)
    await connection.execute(CROWD)
    return connection


async def test_the_crowd_has_orders_in_every_state_and_rows_in_every_table(old):
    states = {row[0] for row in await old.fetch("SELECT state FROM orders")}
    assert states == {*LIVE, "cancelled", "rejected", "refunding", "refunded"}
    assert [table for table, rows in (await rows_of(old)).items() if not rows] == []


async def test_an_upgraded_schema_is_that_of_a_new_database(dsn, old, empty_database):
    assert await migrations.migrate(dsn) == [schema.UPGRADE_FILE, *LATER_FILES]

    async with empty_database() as other:
        await migrations.migrate(other)
        new = await asyncpg.connect(other)
        expected = await catalogue(new)
        await new.close()
    upgraded = await catalogue(old)
    for kind in CATALOGUE:
        assert upgraded[kind] == expected[kind], kind
        assert expected[kind]
    assert await migrations.migrate(dsn) == []


async def test_an_upgrade_leaves_every_row_as_it_was(dsn, old):
    before = await rows_of(old)

    await migrations.migrate(dsn)

    after = await rows_of(old)
    assert {table: after[table] for table in before} == before


async def test_orders_are_placed_released_and_paid_after_an_upgrade(dsn, old):
    # Given a session that has the old functions in its cache, as a process that runs has.
    waiting = "SELECT order_id::text FROM orders WHERE state = 'pending' ORDER BY 1"
    first, second, *_ = [row[0] for row in await old.fetch(waiting)]
    new = "99999999-0000-0000-0000-000000000000"
    async with postgres.connect(dsn, size=1, timeout_s=5) as pool:
        assert await orders.place(pool, [Placement(first, "sneakers", "buyer", 1, 1)])
        await old.execute("DELETE FROM events")

        await migrations.migrate(dsn)

        assert await orders.place(pool, [Placement(new, "sneakers", "buyer-new", 1, 1, 9)]) == []
        assert await orders.release(pool, [first], to_state="cancelled", reason="buyer") == [first]
        buyer = await pool.fetchval("SELECT buyer_id FROM orders WHERE order_id = $1", second)
        await pool.execute(
            "SELECT begin_card_payments($1, $2, $3, '{null}', 30)", ["last"], [second], [buyer]
        )
        assert await pool.fetch("SELECT confirm_card_payments($1)", ["last"])
    found = await old.fetch("SELECT topic, order_ids[1]::text FROM events ORDER BY id")
    assert [tuple(row) for row in found] == [
        ("order.placed", new),
        ("order.cancelled", first),
        ("order.paid", second),
    ]


async def test_a_database_made_by_other_texts_is_refused_and_left_alone(dsn, old):
    await old.execute("UPDATE migrations SET checksum = 'other' WHERE name = '0011_money.sql'")
    before = await catalogue(old)

    with pytest.raises(SeckillError, match="does not know") as refused:
        await migrations.migrate(dsn)

    assert "\n" not in str(refused.value)
    assert await catalogue(old) == before


async def test_a_database_that_has_only_some_of_the_old_files_is_refused(dsn, old):
    await old.execute("DELETE FROM migrations WHERE name = '0014_events.sql'")

    with pytest.raises(SeckillError, match="does not know"):
        await migrations.migrate(dsn)
