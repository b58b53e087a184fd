"""Databases of a test's own."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager

import asyncpg
import pytest

_names = (f"migrate_{n}" for n in itertools.count())


@pytest.fixture
def empty_database(settings, db):
    """Make an empty database: `async with empty_database() as dsn`."""

    @asynccontextmanager
    async def make():
        name = next(_names)
        await db.execute(f"CREATE DATABASE {name}")
        try:
            yield settings.postgres_dsn.rpartition("/")[0] + f"/{name}"
        finally:
            await db.execute(f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture
async def dsn(empty_database):
    async with empty_database() as dsn:
        yield dsn


@pytest.fixture
async def connection(dsn):
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()
