"""What an operator does to a sale that runs: pause it, let it go on, give it more units."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import ClientSession

from config.settings import PROJECT_ROOT, Settings
from ops.buyers import grab
from tests.processes import Process


@pytest.fixture
async def admin(four_gateways: list[Process], settings: Settings) -> AsyncIterator[ClientSession]:
    headers = {"Authorization": f"Bearer {settings.admin_token.get_secret_value()}"}
    async with ClientSession(four_gateways[0].admin_url, headers=headers) as session:
        yield session


async def change(admin: ClientSession, sale, verb: str, **body):
    async with admin.post(f"/admin/sales/{sale.sale_id}/{verb}", json=body or None) as response:
        return response.status, await response.json(content_type=None)


@pytest.fixture
def press(ticket_for):
    async def call(http: ClientSession, sale, buyer: str):
        return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

    return call


@pytest.fixture
def seckill(settings: Settings, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `seckill WORD...` on the stores of the tests."""
    environment = {
        **os.environ,
        "SECKILL_HOME": str(tmp_path),
        "SECKILL_REDIS_URL": settings.redis_url,
        "SECKILL_AMQP_URL": settings.amqp_url,
        "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ops.cli", *words],
            cwd=PROJECT_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


async def test_F15_a_crowd_at_a_paused_sale_waits_and_then_buys(
    each, admin, consumers, open_sale, press, assert_balanced
):
    sale = await open_sale(stock=40)
    first = await press(each[0], sale, "ann")
    assert (await change(admin, sale, "pause"))[0] == 200

    for http in each:  # all four have heard of it
        assert (await press(http, sale, "early")).code == "paused"
    again = await press(each[1], sale, "ann")
    assert (again.status, again.order_id) == (200, first.order_id)
    crowd = await asyncio.gather(*(press(each[n % 4], sale, f"b{n}") for n in range(60)))
    assert Counter((a.status, a.code) for a in crowd) == {(503, "paused"): 60}

    assert (await change(admin, sale, "resume"))[1]["state"] == "open"
    for n, http in enumerate(each):
        assert (await press(http, sale, f"b{n}")).status == 202, "the first press after it"
    crowd = await asyncio.gather(*(press(each[n % 4], sale, f"b{n}") for n in range(60)))
    assert Counter(a.status for a in crowd) == {200: 4, 202: 35, 409: 21}
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 40


async def test_a_paused_answer_says_when_to_come_back(each, admin, open_sale, ticket_for):
    sale = await open_sale(stock=40)
    await change(admin, sale, "pause")
    headers = {"Seckill-Ticket": ticket_for(sale, "ann")}
    path = f"/v1/sales/{sale.sale_id}/grabs"
    for _ in range(2):  # by the script, then by a look-up
        async with each[0].post(path, json={"quantity": 1}, headers=headers) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1


async def test_F15_a_restock_reopens_a_sold_out_sale_at_every_gateway(
    each, admin, consumers, open_sale, press, assert_balanced
):
    sale = await open_sale(stock=2)
    for n, http in enumerate(each[:2]):
        assert (await press(http, sale, f"w{n}")).status == 202
    for http in each:
        for _ in range(2):
            assert (await press(http, sale, "late")).code == "sold_out"

    more = {"units": 4, "from_total": 2, "reason": "a box was found"}
    for _ in range(2):  # a retry is safe
        status, restocked = await change(admin, sale, "restock", **more)
        assert (status, restocked["total"]) == (200, 6)

    answers = [await press(http, sale, f"next{n}") for n, http in enumerate(each)]
    assert [answer.status for answer in answers] == [202] * 4
    assert (await press(each[0], sale, "later")).code == "sold_out"
    ledger = await assert_balanced(sale)
    assert (ledger.lines["total"], ledger.lines["orders pending"]) == (6, 6)


async def test_restocks_while_a_crowd_grabs_keep_the_ledger_balanced(
    each, admin, consumers, open_sale, press, assert_balanced
):
    sale = await open_sale(stock=10)

    async def operator():
        total = 10
        for units in (15, -5, 20, -10, 10):
            asked = {"units": units, "from_total": total, "reason": "crowd"}
            status, _ = await change(admin, sale, "restock", **asked)
            assert status in (200, 409)
            total += units if status == 200 else 0
        return total

    total, *answers = await asyncio.gather(
        operator(), *(press(each[n % 4], sale, f"b{n}") for n in range(120))
    )

    won = sum(answer.status == 202 for answer in answers)
    ledger = await assert_balanced(sale)
    assert ledger.lines["total"] == total
    assert ledger.lines["orders pending"] == won <= total


BAD_RESTOCKS = [
    ({"units": 0, "from_total": 4, "reason": "x"}, 422, None),
    ({"units": "1", "from_total": 4, "reason": "x"}, 422, "units"),
    ({"units": 1, "from_total": 0, "reason": "x"}, 422, "from_total"),
    ({"units": 1, "from_total": 4, "reason": ""}, 422, "reason"),
    ({"units": 1, "from_total": 4, "reason": "a\nb"}, 422, "reason"),
    ({"units": 1, "reason": "x"}, 422, None),
    ({"units": -4, "from_total": 4, "reason": "x"}, 422, None),
    ({"units": 1, "from_total": 5, "reason": "x"}, 409, None),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD_RESTOCKS)
async def test_a_restock_that_cannot_be_is_refused(admin, open_sale, body, status, field):
    sale = await open_sale(stock=4)
    answered, problem = await change(admin, sale, "restock", **body)
    assert (answered, problem.get("field")) == (status, field)
    assert problem["detail"]


async def test_F8_a_lost_sale_is_not_restocked_or_paused(admin, open_sale, store):
    sale = await open_sale(stock=4)
    await store.delete(*[key async for key in store.scan_iter(f"sk:{{{sale.sale_id}}}*")])
    assert (await change(admin, sale, "pause"))[0] == 409
    assert (await change(admin, sale, "resume"))[0] == 409
    assert (await change(admin, sale, "restock", units=1, from_total=4, reason="x"))[0] == 409


async def test_the_command_line_does_it_too(seckill, open_sale, assert_balanced):
    sale = await open_sale(stock=4)

    def run(*words: str):
        return seckill("sale", *words)

    assert json.loads(run("pause", sale.sale_id, "--json").stdout)["state"] == "paused"
    refused = run("open", sale.sale_id)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"seckill: sale {sale.sale_id} is paused; let buyers in again: "
        f"seckill sale resume {sale.sale_id}"
    ]
    assert json.loads(run("resume", sale.sale_id, "--json").stdout)["state"] == "open"
    restock = ("restock", sale.sale_id, "--units", "-3", "--reason", "broken", "--json")
    assert json.loads(run(*restock, "--from-total", "4").stdout)["total"] == 1
    refused = run(*restock)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    await assert_balanced(sale)
