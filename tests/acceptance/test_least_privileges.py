"""A sale with the rights of docs/least-privileges.md and no others, in all three stores."""

from __future__ import annotations

import re
from types import SimpleNamespace
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from aiohttp import ClientSession

from config.settings import PROJECT_ROOT
from seckill.adapters import migrations
from seckill.payments import wallets
from tests.acceptance.admin_api import bearer
from tests.pools import rabbitmqctl
from tests.processes import Processes, eventually

PASSWORD = "x"
NAMESPACE = "narrow"
SALE = SimpleNamespace(sale_id="demo")
DOCS = PROJECT_ROOT / "docs"


def statements(heading: str) -> list[list[str]]:
    """Return the blocks of SQL below a heading, as lists of statements."""
    text = (DOCS / "least-privileges.md").read_text().partition(f"## {heading}\n")[2]
    blocks = re.findall(r"(?s)\n```\n(.*?)```", text.partition("\n## ")[0])
    ours = {"'PASSWORD'": f"'{PASSWORD}'", "DATABASE shop": "DATABASE narrow"}
    for theirs, own in ours.items():
        blocks = [block.replace(theirs, own) for block in blocks]
    return [block.splitlines() for block in blocks]


def login(url: str, user: str, path: str | None = None) -> str:
    parts = urlsplit(url)
    netloc = f"{user}:{PASSWORD}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, path=path or parts.path))


@pytest.fixture
async def postgresql(services):
    """Make the roles and the database; return the addresses of the owner and of the application."""
    of_server, of_database = statements("PostgreSQL")
    administrator = await asyncpg.connect(services.postgres_dsn)
    for line in of_server:
        await administrator.execute(line)
    parts = urlsplit(services.postgres_dsn)
    there = await asyncpg.connect(urlunsplit(parts._replace(path="/narrow")))
    for line in of_database:
        await there.execute(line)
    await there.close()
    yield [login(services.postgres_dsn, f"shop_{who}", "/narrow") for who in ("owner", "app")]
    await administrator.execute("DROP DATABASE narrow WITH (FORCE)")
    await administrator.execute("DROP ROLE shop_app")
    await administrator.execute("DROP ROLE shop_owner")
    await administrator.close()


@pytest.fixture
async def rabbitmq(services, settings):
    """Make a user with the patterns of names, in a namespace; return its address."""
    pattern = re.search(r"`(\^shop1[^`]*)`", (DOCS / "least-privileges.md").read_text())[1]
    pattern = pattern.replace("shop1", NAMESPACE).replace("\\", "\\\\")
    erlang = (
        'rabbit_auth_backend_internal:add_user(<<"narrow">>, <<"x">>, <<"test">>),'
        'rabbit_auth_backend_internal:set_permissions(<<"narrow">>, <<"/">>,'
        f'<<"{pattern}">>, <<"{pattern}">>, <<"{pattern}">>, <<"test">>).'
    )
    await rabbitmqctl(services, "eval", erlang)
    return login(settings.amqp_url, "narrow")


@pytest.fixture
async def redis_address(store, settings):
    rules = re.search(r"ACL SETUSER \S+ (.*)", (DOCS / "operating.md").read_text())[1]
    words = rules.replace("PASSWORD", PASSWORD).replace("~sk:", f"~{NAMESPACE}:sk:").split()
    await store.execute_command("ACL", "SETUSER", "narrow", "reset", *words)
    yield login(settings.redis_url, "narrow")
    await store.execute_command("ACL", "DELUSER", "narrow")


@pytest.mark.timeout(240)  # migrations and two processes, on a machine that may be busy
async def test_a_sale_goes_from_its_making_to_its_ledger(
    settings, tmp_path, postgresql, rabbitmq, redis_address, ticket_for, login_for
):
    owner, application = postgresql
    await migrations.migrate(owner)
    async with asyncpg.create_pool(application, min_size=1, max_size=1) as pool:
        await wallets.top_up(pool, [wallets.TopUp("a-gift", "alice", 100)])
    narrow = {
        "SECKILL_NAMESPACE": NAMESPACE,
        "SECKILL_POSTGRES_DSN": application,
        "SECKILL_AMQP_URL": rabbitmq,
        "SECKILL_REDIS_URL": redis_address,
    }
    token = bearer(settings.admin_token.get_secret_value())
    async with (
        Processes(settings, tmp_path, **narrow) as processes,
        ClientSession() as http,
    ):
        gateway = await processes.run("gateway")
        await processes.run("consumers")
        admin = f"{gateway.admin_url}/admin/sales"
        new = {"sale_id": SALE.sale_id, "stock": 2, "price_cents": 100}
        async with http.post(admin, json=new, headers=token) as answer:
            assert answer.status == 201, await answer.text()
        async with http.post(f"{admin}/{SALE.sale_id}/open", headers=token) as answer:
            assert answer.status == 200, await answer.text()

        async def placed(buyer: str) -> str:
            grab = f"{gateway.url}/v1/sales/{SALE.sale_id}/grabs"
            headers = {"Seckill-Ticket": ticket_for(SALE, buyer)}
            async with http.post(grab, json={"quantity": 1}, headers=headers) as answer:
                assert answer.status == 202
                url = f"{gateway.url}/v1/orders/{(await answer.json())['order_id']}"

            async def pending() -> bool:
                async with http.get(url, headers=login_for(buyer)) as answer:
                    return (await answer.json()).get("status") == "pending"

            await eventually(pending, "the order is placed", within_s=60)
            return url

        paid, headers = f"{await placed('alice')}/payments", login_for("alice")
        async with http.post(paid, json={"method": "wallet"}, headers=headers) as answer:
            assert answer.status in (200, 202)
        async with http.delete(await placed("bob"), headers=login_for("bob")) as answer:
            assert answer.status == 200
        ledger = f"{admin}/{SALE.sale_id}/ledger?wait=60"
        async with http.get(ledger, headers=token) as answer:
            assert (await answer.json())["balanced"], await answer.text()
        logs = "".join(file.read_text() for file in (tmp_path / "logs").glob("*.log"))
    assert not re.search("(?i)permission denied|access_refused|noperm", logs)
