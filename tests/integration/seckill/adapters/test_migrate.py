"""migrate(): numbered files, each applied once and whole."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import asyncpg
import pytest

from config.settings import PROJECT_ROOT
from seckill.adapters import migrations, schema
from seckill.adapters.migrations import FUNCTION
from seckill.errors import SeckillError

ALL = ["0001_schema.sql", "0002_place_and_release.sql"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files of the test's own in place of the project's."""
    monkeypatch.setattr(schema, "files", lambda _: tmp_path)
    return tmp_path


@pytest.fixture
async def blocker(dsn):
    """A session of some other program."""
    connection = await asyncpg.connect(dsn, server_settings={"application_name": "nightly report"})
    yield connection
    await connection.close()


async def test_first_run_applies_all_in_order_and_second_nothing(dsn):
    first = await migrations.migrate(dsn)

    assert first[: len(ALL)] == ALL
    assert first == sorted(first)
    assert await migrations.migrate(dsn) == []


def test_each_function_stands_once():
    text = "".join(
        file.text
        for file in schema.numbered_files()
        if file.name <= schema.LAST_OF_0_1_0  # later files replace functions of earlier ones
    )
    functions = [re.match(r".*?FUNCTION (\w+)", found)[1] for found in FUNCTION.findall(text)]

    assert len(functions) == len(re.findall("^CREATE .*FUNCTION", text, re.MULTILINE))
    assert len(functions) == len(set(functions))


async def test_runners_at_once_apply_each_file_once(dsn):
    results = await asyncio.gather(*(migrations.migrate(dsn) for _ in range(4)))

    names = [file.name for file in schema.numbered_files()]
    assert sorted(name for result in results for name in result) == names
    assert await migrations.migrate(dsn) == []


@pytest.mark.parametrize("name", ALL)
async def test_changed_file_is_an_error_that_names_it(dsn, connection, name):
    await migrations.migrate(dsn)
    await connection.execute("UPDATE migrations SET checksum = 'other' WHERE name = $1", name)

    with pytest.raises(SeckillError, match=name):
        await migrations.migrate(dsn)


async def test_new_file_is_applied_to_a_database_in_use(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await migrations.migrate(dsn)
    (files / "0002_two.sql").write_text("CREATE TABLE two ()")
    (files / "notes.txt").write_text("not SQL")
    (files / "unnumbered.sql").write_text("not SQL")

    assert await migrations.migrate(dsn) == ["0002_two.sql"]

    assert await connection.fetch("SELECT FROM one, two") == []


async def test_nothing_is_applied_behind_a_changed_file(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await migrations.migrate(dsn)
    (files / "0001_one.sql").write_text("CREATE TABLE one (more integer)")
    (files / "0002_two.sql").write_text("CREATE TABLE two ()")

    with pytest.raises(SeckillError, match=r"0001_one\.sql"):
        await migrations.migrate(dsn)

    assert await connection.fetchval("SELECT to_regclass('two')") is None


async def test_file_that_fails_leaves_nothing_and_can_be_corrected(dsn, connection, files):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    (files / "0002_two.sql").write_text("CREATE TABLE two (); SELECT 1 / 0")
    with pytest.raises(SeckillError, match=r"0002_two\.sql cannot be applied .* division by zero"):
        await migrations.migrate(dsn)
    assert await connection.fetchval("SELECT to_regclass('two')") is None

    (files / "0002_two.sql").write_text("CREATE TABLE two ()")

    assert await migrations.migrate(dsn) == ["0002_two.sql"]


async def given_up(dsn) -> str:
    """Return the line of a migration that gives up, while what is in its way stays there."""
    with pytest.raises(SeckillError, match="gives up") as raised:
        await migrations.migrate(dsn)
    line = str(raised.value)
    assert "\n" not in line
    return line


async def test_an_idle_transaction_in_the_way_is_named_and_not_waited_for(
    dsn, connection, files, blocker
):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await migrations.migrate(dsn)
    (files / "0002_two.sql").write_text("CREATE TABLE two (); ALTER TABLE one ADD COLUMN n integer")
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT\n count(*)\n FROM one")

    line = await given_up(dsn)

    assert f"pid {blocker.get_server_pid()} (nightly report, idle in transaction, " in line
    assert '"SELECT count(*) FROM one"' in line
    assert await connection.fetchval("SELECT to_regclass('two')") is None
    assert blocker.is_in_transaction()

    await transaction.rollback()
    assert await migrations.migrate(dsn) == ["0002_two.sql"]


async def test_a_runner_that_takes_too_long_is_named_and_not_waited_for(dsn, files, blocker):
    (files / "0001_slow.sql").write_text("SELECT pg_sleep(60)")
    slow = asyncio.create_task(migrations.migrate(dsn))
    while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"):
        assert not slow.done()
        await asyncio.sleep(0.05)

    line = await given_up(dsn)

    assert re.search(r'pid \d+ \(seckill migrate, active, "SELECT pg_sleep\(60\)"\)', line)
    assert not slow.done()
    slow.cancel()
    await asyncio.wait({slow})


async def test_a_lock_that_comes_free_in_time_is_waited_for(dsn, files, blocker):
    (files / "0001_one.sql").write_text("CREATE TABLE one ()")
    await migrations.migrate(dsn)
    (files / "0002_two.sql").write_text("ALTER TABLE one ADD COLUMN n integer")
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE one")
    waiting = asyncio.create_task(migrations.migrate(dsn))
    while not await blocker.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert not waiting.done()
        await asyncio.sleep(0.05)

    await transaction.rollback()

    assert await waiting == ["0002_two.sql"]


async def test_up_that_has_to_give_up_is_one_line_and_exit_code_1(dsn, settings, blocker, tmp_path):
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT pg_advisory_xact_lock($1)", migrations.MIGRATION_LOCK)
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ops.cli", "up"),
        cwd=PROJECT_ROOT,
        env={
            **os.environ,
            "SECKILL_HOME": str(tmp_path),
            "SECKILL_REDIS_URL": settings.redis_url,
            "SECKILL_AMQP_URL": settings.amqp_url,
            "SECKILL_POSTGRES_DSN": dsn,
        },
        stderr=subprocess.PIPE,
    )
    _, errors = await up.communicate()
    await transaction.rollback()

    assert up.returncode == 1
    (line,) = errors.decode().splitlines()
    assert line.startswith("seckill: the migration gives up")
    assert f"pid {blocker.get_server_pid()} (nightly report" in line
