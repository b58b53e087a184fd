"""F8: Redis loses its data in mid-sale. No sold unit is sold again, and the sale goes on."""

from __future__ import annotations

import asyncio
import json

import aio_pika
import pytest
from aiohttp import ClientSession

from ops.buyers import flash_crowd, grab
from seckill.adapters import redis_keys, topology
from tests.processes import eventually, limits_profile

STOCK = 150
UNAVAILABLE = (503, "unavailable")


@pytest.fixture
async def gateway(processes):
    return await processes.run("gateway", **limits_profile(processes.home))


@pytest.fixture
def crowd_of(gateway, ticket_for):
    """Let these buyers press, each `presses` times."""

    async def press(sale, buyers, *, presses=1, on_answer=lambda _: None):
        tickets = {buyer: ticket_for(sale, buyer) for buyer in buyers}
        return await flash_crowd(
            gateway.url, sale.sale_id, tickets, connections=20, presses=presses, on_answer=on_answer
        )

    return press


@pytest.fixture
def rows_of(db):
    async def read(sale):
        return dict(
            await db.fetch(
                "SELECT order_id::text, concat_ws(' ', state, reason) FROM orders"
                " WHERE sale_id = $1",
                sale.sale_id,
            )
        )

    return read


def names(start, count):
    return [f"b{number:03}" for number in range(start, start + count)]


async def test_F3_F8_flushall_in_mid_sale_then_rebuild_sells_exactly_the_rest(
    processes, gateway, crowd_of, open_sale, ticket_for, store, rows_of, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=STOCK)
    flushed, told_202 = asyncio.Event(), 0

    def count(answer):
        nonlocal told_202
        told_202 += answer.status == 202
        if told_202 == 60:
            flushed.set()

    crowd = asyncio.create_task(crowd_of(sale, names(0, 120), on_answer=count))
    await flushed.wait()
    await store.flushall()
    first = await crowd
    assert {(a.status, a.code) for a in first} <= {(202, None), UNAVAILABLE}

    between = await crowd_of(sale, names(0, 140))
    assert {(a.status, a.code) for a in between} == {UNAVAILABLE}
    async with ClientSession(gateway.url) as http, http.get(f"/v1/sales/{sale.sale_id}") as shown:
        view = await shown.json()
        assert (view["remaining"], view["sold_out"]) == (None, False)

    code, said, _ = await processes.ask("sale", "show", sale.sale_id)
    assert (code, f"seckill sale rebuild {sale.sale_id}" in said) == (0, True), said
    code, said, _ = await processes.ask("sale", "rebuild", sale.sale_id, "--wait", "30", "--json")
    assert code == 0, said
    (rebuilt,) = json.loads(said)["rebuilt"]

    last = await crowd_of(sale, names(0, 300), presses=2)
    assert {(a.status, a.code) for a in last} == {(202, None), (200, None), (409, "sold_out")}
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == STOCK
    assert sum(a.status == 202 for a in last) == rebuilt["stock"]

    rows = await rows_of(sale)
    promised = [a.order_id for a in first + last if a.status in (200, 202)]
    assert {rows.get(order_id) for order_id in promised} <= {"pending", "rejected epoch"}
    # Who holds an order hears of it, whatever the stock says (I9).
    repeats = {a.buyer_id for a in last if a.status == 200}
    assert repeats >= {a.buyer_id for a in first if rows.get(a.order_id) == "pending"}


async def test_F8_messages_that_come_after_the_rebuild_become_rejected_rows(
    processes, crowd_of, open_sale, store, rows_of, assert_balanced
):
    """The consumers were down; the operator did not wait for them."""
    sale = await open_sale(stock=20)
    early = await crowd_of(sale, names(0, 10))
    assert {a.status for a in early} == {202}
    await store.flushall()
    code, said, _ = await processes.ask("sale", "rebuild", "--wait", "0", sale.sale_id)
    assert (code, "20 units left" in said) == (0, True), said

    again = await crowd_of(sale, names(0, 30))
    await processes.run("consumers")

    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 20 == sum(a.status == 202 for a in again)
    rows = await rows_of(sale)
    assert {rows[a.order_id] for a in early} == {"rejected epoch"}
    assert {rows[a.order_id] for a in again if a.status == 202} == {"pending"}


async def test_F8_a_redis_that_went_back_in_time_is_fenced_by_the_consumers(
    processes, gateway, crowd_of, open_sale, ticket_for, store, assert_balanced
):
    await processes.run("consumers")
    sale = await open_sale(stock=20)
    every = [
        key(sale.sale_id)
        for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
    ]
    await crowd_of(sale, names(0, 5))
    await assert_balanced(sale)
    old = {key: await store.dump(key) for key in every}
    await crowd_of(sale, names(5, 5))
    await assert_balanced(sale)
    async with store.pipeline(transaction=True) as pipe:
        for key, value in old.items():
            pipe.restore(key, 0, value, replace=True)
        await pipe.execute()

    async def is_fenced():
        return await store.hget(redis_keys.sale(sale.sale_id), "state") == b"fenced"

    await eventually(is_fenced, "the role has seen it")
    async with ClientSession(gateway.url) as http:
        answer = await grab(http, sale.sale_id, "new", ticket_for(sale, "new"))
        assert (answer.status, answer.code) == UNAVAILABLE
    code, said, _ = await processes.ask("verify", sale.sale_id)
    assert (code, "is fenced" in said) == (1, True), said
    code, said, _ = await processes.ask("sale", "rebuild", sale.sale_id)
    assert code == 0, said

    last = await crowd_of(sale, names(0, 30))
    assert sum(a.status == 202 for a in last) == 10
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 20


async def test_F13_an_emptied_broker_loses_no_grab(
    processes, crowd_of, open_sale, shop_queue, rows_of, assert_balanced
):
    sale = await open_sale(stock=30)
    answers = await crowd_of(sale, names(0, 30))
    assert {a.status for a in answers} == {202}
    await shop_queue.purge()
    consumers = await processes.run("consumers", SECKILL_RECONCILE_AGE_S="1")
    ledger = await assert_balanced(sale, wait_s=60)
    assert ledger.lines["orders pending"] == 30
    assert (await rows_of(sale)).keys() == {a.order_id for a in answers}
    async with ClientSession(consumers.admin_url) as http, http.get("/metrics") as metrics:
        assert 'seckill_reconciled_total{action="republish"} 30.0' in await metrics.text()


@pytest.fixture
async def shop_queue(settings):
    async with await aio_pika.connect(settings.amqp_url) as connection:
        channel = await connection.channel()
        yield await channel.get_queue(topology.ORDERS_PLACE, ensure=False)


async def test_the_commands_refuse_and_report_in_one_line(processes, open_sale, store):
    sale = await open_sale()
    sale_id = sale.sale_id
    code, _, said = await processes.ask("sale", "rebuild", sale_id)
    assert (code, len(said.splitlines()), "whole" in said) == (2, 1, True), said
    assert (await processes.ask("sale", "rebuild"))[0] == 2
    assert (await processes.ask("sale", "rebuild", "no-such"))[0] == 2
    assert (await processes.ask("reconcile", "no-such"))[0] == 2
    code, said, _ = await processes.ask("reconcile", sale_id)
    assert (code, said) == (0, "the stores agree\n")
    await store.delete(redis_keys.sale(sale_id))
    code, said, _ = await processes.ask("reconcile", sale_id, "--apply", "--json")
    assert (code, json.loads(said)[sale_id]["needs_rebuild"]) == (1, "lost")


async def test_F5_a_dry_run_names_what_apply_repairs(
    processes, open_sale, stock, db, store, assert_balanced
):
    """A live order of which Redis knows nothing."""
    sale = await open_sale(stock=3)
    order_id = f"01234567-89ab-8000-8000-{sale.number:012x}"
    await db.execute(
        "SELECT place($1, $2, $3, $4, $5)", [order_id], [sale.sale_id], ["ann"], [1], [1]
    )
    code, said, _ = await processes.ask("reconcile", sale.sale_id, "--json")
    assert code == 1, said
    (found,) = json.loads(said)[sale.sale_id]["differences"]
    assert found == {"action": "adopt", "order_id": order_id, "buyer_id": "ann", "quantity": 1}
    assert await store.hlen(redis_keys.holders(sale.sale_id)) == 0

    code, said, _ = await processes.ask("reconcile", sale.sale_id, "--apply")
    assert (code, "repaired 1, left 0" in said) == (0, True), said
    await assert_balanced(sale)
