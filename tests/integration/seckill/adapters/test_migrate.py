"""migrate(): numbered files, each applied once and whole."""

from __future__ import annotations

import asyncio
import itertools

import asyncpg
import pytest

from seckill.adapters import postgres
from seckill.errors import SeckillError

ALL = ["0001_schema.sql", "0002_orders.sql"]
_names = (f"migrate_{n}" for n in itertools.count())


@pytest.fixture
async def dsn(settings, db):
    """An empty database."""
    name = next(_names)
    await db.execute(f"CREATE DATABASE {name}")
    yield settings.postgres_dsn.rpartition("/")[0] + f"/{name}"
    await db.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def connection(dsn):
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of the test's own in place of the project's."""
    monkeypatch.setattr(postgres, "files", lambda _: tmp_path)
    return tmp_path


async def test_first_run_applies_all_in_order_and_second_nothing(dsn):
    first = await postgres.migrate(dsn)

    assert first[: len(ALL)] == ALL
    assert first == sorted(first)
    assert await postgres.migrate(dsn) == []


async def test_two_runners_at_once_apply_each_file_once(dsn):
    results = await asyncio.gather(*(postgres.migrate(dsn) for _ in range(4)))

    assert [len(r) for r in results].count(0) == 3
    assert await postgres.migrate(dsn) == []


@pytest.mark.parametrize("name", ALL)
async def test_changed_file_is_an_error_that_names_it(dsn, connection, name):
    await postgres.migrate(dsn)
    await connection.execute("UPDATE migrations SET checksum = 'other' WHERE name = $1", name)

    with pytest.raises(SeckillError, match=name):
        await postgres.migrate(dsn)


async def test_new_file_is_applied_to_a_database_in_use(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await postgres.migrate(dsn)
    (files / "0002_two.sql").write_text("CREATE TABLE two ()")
    (files / "notes.txt").write_text("not SQL")

    assert await postgres.migrate(dsn) == ["0002_two.sql"]

    assert await connection.fetch("SELECT FROM one, two") == []


async def test_nothing_is_applied_behind_a_changed_file(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await postgres.migrate(dsn)
    (files / "0001_one.sql").write_text("CREATE TABLE one (more integer)")
    (files / "0002_two.sql").write_text("CREATE TABLE two ()")

    with pytest.raises(SeckillError, match=r"0001_one\.sql"):
        await postgres.migrate(dsn)

    assert await connection.fetchval("SELECT to_regclass('two')") is None


async def test_file_that_fails_leaves_nothing_and_can_be_mended(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    (files / "0002_two.sql").write_text("CREATE TABLE two (); SELECT 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await postgres.migrate(dsn)
    assert await connection.fetchval("SELECT to_regclass('two')") is None

    (files / "0002_two.sql").write_text("CREATE TABLE two ()")

    assert await postgres.migrate(dsn) == ["0002_two.sql"]
