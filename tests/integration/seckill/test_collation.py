"""A database that sorts as people do: ids are equal only byte by byte."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from seckill.adapters import migrations, postgres, schema
from seckill.consistency import diff

DATABASE = "sorts_as_people"
#: Ids that differ in case or punctuation alone, which such a database sorts side by side.
ALIKE = ["ann", "Ann", "ANN", "an-n", "an_n", "a.nn", "_ann", "-ann", "ann1", "Ann1", "zoe", "Zoe"]


@pytest.fixture(scope="module")
async def people_dsn(services):
    """A database in which "ann" < "Ann" < "zoe"; by bytes that is "Ann" < "ann"."""
    server = await asyncpg.connect(services.postgres_dsn)
    try:
        try:
            await server.execute(
                f"CREATE DATABASE {DATABASE} TEMPLATE template0 LOCALE_PROVIDER icu"
                " ICU_LOCALE 'en-US'"
            )
        except (asyncpg.PostgresSyntaxError, asyncpg.FeatureNotSupportedError):
            pytest.skip("this PostgreSQL has no databases with ICU collations")
        dsn = services.postgres_dsn.rpartition("/")[0] + f"/{DATABASE}"
        await migrations.migrate(dsn)
        yield dsn
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        await server.close()


@pytest.fixture
async def db(people_dsn):
    async with postgres.connect(people_dsn, size=8, timeout_s=10) as pool:
        assert await pool.fetchval("SELECT 'ann' < 'Ann' AND 'Ann' < 'zoe'")
        yield pool


async def collations_of_text_keys(connection):
    """Return the names of the collations of all text in indexes."""
    keys = await connection.fetch(
        """
        SELECT indexrelid::regclass::text, attname, collname
          FROM pg_index i CROSS JOIN unnest(i.indkey, i.indcollation) AS k (attnum, collation_id)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
          JOIN pg_class c ON c.oid = i.indrelid JOIN pg_collation l ON l.oid = k.collation_id
         WHERE c.relnamespace = 'public'::regnamespace AND a.atttypid = 'text'::regtype
        """
    )
    assert len(keys) > 10
    return {row["collname"] for row in keys}


async def test_every_text_key_is_sorted_by_bytes(db):
    assert await collations_of_text_keys(db) == {"C"}


async def test_text_keys_have_one_collation_where_the_database_sorts_by_bytes(services):
    """An index does not serve a comparison by another collation, even by one that sorts alike."""
    name = "sorted_by_bytes"
    dsn = services.postgres_dsn.rpartition("/")[0] + f"/{name}"
    server = await asyncpg.connect(services.postgres_dsn)
    try:
        await server.execute(f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C'")
        await migrations.migrate(dsn)
        connection = await asyncpg.connect(dsn)
        assert await collations_of_text_keys(connection) == {"default"}
        await connection.close()
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


async def test_the_migration_writes_no_table_anew(services, people_dsn, monkeypatch):
    """It makes indexes anew, and in a database that sorts by bytes nothing at all."""
    name = "sorted_like_that"
    dsn = services.postgres_dsn.rpartition("/")[0] + f"/{name}"
    files = schema.numbered_files()
    by_bytes = next(n for n, file in enumerate(files) if "text_by_bytes" in file.name)
    server = await asyncpg.connect(services.postgres_dsn)
    query = """SELECT relname, relfilenode FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind = $1"""
    try:
        for template, is_changed in (
            ("LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", True),
            ("LOCALE 'C'", False),
        ):
            await server.execute(f"CREATE DATABASE {name} TEMPLATE template0 {template}")
            monkeypatch.setattr(schema, "numbered_files", lambda: files[:by_bytes])
            await migrations.migrate(dsn)
            monkeypatch.setattr(schema, "numbered_files", lambda: files)
            connection = await asyncpg.connect(dsn)
            before = [dict(await connection.fetch(query, kind)) for kind in (b"r", b"i")]
            assert files[by_bytes].name in await migrations.migrate(dsn)
            after = [dict(await connection.fetch(query, kind)) for kind in (b"r", b"i")]
            await connection.close()
            tables, indexes = (
                dict(b.items() & a.items()) for b, a in zip(before, after, strict=True)
            )
            assert before[0].keys() - tables.keys() == set()
            assert ("orders_live" not in indexes) is is_changed
            await server.execute(f"DROP DATABASE {name}")
    finally:
        await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await server.close()


async def test_buyers_whose_ids_differ_by_one_byte_each_have_an_order(
    shop, open_sale, checkout, assert_balanced
):
    sale = await open_sale(stock=len(ALIKE))
    placed = await shop.order(sale, *ALIKE)
    for order in placed[::2]:
        await checkout.give(order.buyer_id, 1999)
        assert (await checkout.pay(order)).confirmed
    await shop.release(*placed[1::2])
    await shop.return_all(sale)
    states = await shop.states(sale, placed)
    assert states == ["paid", "cancelled buyer"] * (len(ALIKE) // 2)
    await assert_balanced(sale)


async def test_batches_over_the_same_sales_take_their_locks_in_one_order(
    shop, open_sale, assert_balanced
):
    """A deadlock would be an error of one of the batches."""
    several = [await open_sale(stock=500) for _ in range(4)]
    chance = random.Random(5)  # noqa: S311 - no secret

    async def one(number: int) -> None:
        orders = [
            order
            for sale in chance.sample(several, len(several))
            for order in await shop.grab(sale, *(f"{name}{number}" for name in ALIKE))
        ]
        assert await shop.place(*orders) == []
        assert len(await shop.release(*chance.sample(orders, len(orders)))) == len(orders)

    await asyncio.gather(*map(one, range(6)))
    for sale in several:
        await shop.return_all(sale)
        await assert_balanced(sale)


async def test_a_comparison_in_pages_meets_every_order_once(
    shop, open_sale, store, db, monkeypatch
):
    monkeypatch.setattr(diff, "CALL_MAX", 5)
    sale = await open_sale(stock=len(ALIKE))
    for buyer in ALIKE:
        await shop.place_unseen(sale, buyer)
    pages = [page async for page in diff.orders_without_holder(store, db, sale.sale_id)]
    found = [order.buyer_id for page in pages for order in page]
    assert len(pages) == 3
    assert sorted(found) == sorted(ALIKE)
