"""From given, empty stores to a sale, with environment variables alone (docs/deploying.md).

Each mistake that is made on the way is answered in one line, which says what to do.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from urllib.parse import urlsplit, urlunsplit

import pytest
from aiohttp import ClientSession

from ops.buyers import PATIENCE, grab
from seckill.sales.sales import Sale
from tests.processes import Processes

STORES = ("SECKILL_REDIS_URL", "SECKILL_AMQP_URL", "SECKILL_POSTGRES_DSN")
KEYS = ("SECKILL_TICKET_KEYS", "SECKILL_JWT_KEYS")
CREATE = ("sale", "create", "demo", "--stock", "3", "--price-cents", "1999")


@pytest.fixture
async def processes(settings, db, tmp_path):
    """Processes whose stores are empty: a new database, and a namespace for the other two."""
    await db.execute("CREATE DATABASE new_user")
    dsn = settings.postgres_dsn.rpartition("/")[0] + "/new_user"
    empty = {"SECKILL_POSTGRES_DSN": dsn, "SECKILL_NAMESPACE": "new-user"}
    async with Processes(settings, tmp_path, **empty) as processes:
        yield processes
    await db.execute("DROP DATABASE new_user WITH (FORCE)")


@pytest.fixture
def mistake(processes):
    """Run a command that has to fail, and return its one line: `await mistake("gateway")`."""

    async def run(*words: str, code: int = 1, **overrides: str) -> str:
        ended, out, errors = await processes.ask(*words, **overrides)
        assert (ended, out) == (code, ""), errors
        (line,) = errors.splitlines()
        return line.removeprefix("seckill: ")

    return run


@pytest.fixture
def command(processes):
    """Run a command that has to work, and return what it printed."""

    async def run(*words: str) -> str:
        code, out, errors = await processes.ask(*words)
        assert (code, errors) == (0, "")
        return out

    return run


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(netloc=f"{parts.username}:{password}@{parts.hostname}:{parts.port}")
    )


async def test_what_is_missing_or_wrong_is_named_at_once(processes, mistake, settings):
    unset = dict.fromkeys((*STORES, *KEYS), "")
    wrong = {
        "SECKILL_POSTGRES_DSN": with_password(processes.environment["SECKILL_POSTGRES_DSN"], "bad"),
        "SECKILL_REDIS_URL": with_password(settings.redis_url, "bad"),
        "SECKILL_AMQP_URL": f"{settings.amqp_url}nowhere",
    }
    gateway, migrate, password, all_three = await asyncio.gather(
        mistake("gateway", **unset),
        mistake("migrate", **unset),
        mistake("migrate", **wrong),
        mistake("consumers", **wrong),
    )
    assert gateway.startswith(f"{', '.join((*STORES, *KEYS))} not set")
    assert migrate.startswith("SECKILL_POSTGRES_DSN not set")
    assert "refuses: password authentication failed" in password
    assert password.endswith("(SECKILL_POSTGRES_DSN from the environment; correct or unset it)")
    for store in ("Redis at", "WRONGPASS", "PostgreSQL at", "authentication failed", "vhost"):
        assert store in all_three
    for name in STORES:
        assert f"({name})" in all_three


async def test_from_empty_stores_to_a_sale(
    processes, mistake, command, ticket_for, login_for, eventually
):
    assert "0001_schema.sql" in await command("migrate")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        gateway, consumers, unknown = await asyncio.gather(
            mistake("gateway", SECKILL_GATEWAY_PORT=port, SECKILL_ADMIN_PORT="0"),
            mistake("consumers", "sweep", SECKILL_ADMIN_PORT=port),
            mistake("sale", "open", "demo", code=2),
        )
    assert gateway == f"cannot listen on 127.0.0.1:{port} (SECKILL_GATEWAY_PORT): it is in use"
    assert consumers == f"cannot listen on 127.0.0.1:{port} (SECKILL_ADMIN_PORT): it is in use"
    assert unknown == "there is no sale demo; `seckill sale list` shows them"

    serving, _, _ = await asyncio.gather(
        processes.run("gateway"), processes.run("consumers"), command(*CREATE)
    )
    sale = Sale(**json.loads(await command("sale", "open", "demo", "--json")))
    async with ClientSession(serving.url, timeout=PATIENCE) as http:
        answer = await grab(http, "demo", "alice", ticket_for(sale, "alice"))
        assert answer.status == 202

        async def placed() -> bool:
            path = f"/v1/orders/{answer.order_id}"
            async with http.get(path, headers=login_for("alice")) as response:
                return (await response.json())["status"] == "pending"

        await eventually(placed, "the order is placed")
    ledger = json.loads(await command("verify", "demo", "--wait", "20", "--json"))
    assert ledger["balanced"]

    wrong = with_password(processes.environment["SECKILL_REDIS_URL"], "bad")
    code, out, errors = await processes.ask("sale", "list", SECKILL_REDIS_URL=wrong)
    assert code == 0
    assert "demo" in out
    assert re.fullmatch(r"seckill: Redis refuses: WRONGPASS .*\w; so whether .*\n", errors)
