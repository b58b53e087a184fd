"""What a payment needs breaks meanwhile: no buyer pays for nothing, and the buyer can go on."""

from __future__ import annotations

import signal

from aiohttp import ClientSession

from tests.processes import eventually


async def test_F12_killed_in_mid_payment_the_order_can_be_paid_at_another_gateway(
    processes, open_sale, placed_order, pay, db, assert_balanced
):
    # Given a payment that has won the order, and waits for its wallet
    doomed, other = await processes.run("gateway"), await processes.run("gateway")
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(doomed.url) as at_doomed, ClientSession(other.url) as at_other:
        order = await placed_order(at_doomed, sale)
        async with db.acquire() as connection, connection.transaction():
            await connection.execute(
                "SELECT FROM wallets WHERE buyer_id = $1 FOR UPDATE", order.buyer_id
            )
            status, body = await pay(at_doomed, order)
            assert (status, body["status"]) == (202, "paying")
            # When its gateway is killed
            doomed.child.send(signal.SIGKILL)
            await doomed.child.wait()
            status, body = await pay(at_other, order)
            assert (status, body["code"]) == (409, "payment_in_progress")

        # Then its lease runs out, recover takes it back, and the buyer pays
        async def paid():
            return (await pay(at_other, order))[0] == 200

        await eventually(paid, "the buyer can pay", within_s=60)
    ledger = await assert_balanced(sale)
    assert (ledger.lines["orders paid"], ledger.lines["charged, cents"]) == (1, 1999)


async def test_payments_do_without_redis(
    processes, open_sale, placed_order, pay, redis_proxy, db, assert_balanced
):
    """Its limits let pass and its lock is only there to save work."""
    proxy, url = redis_proxy
    gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http:
        order = await placed_order(http, sale)
        proxy.freeze()
        status, _ = await pay(http, order)
        assert status in (200, 202)

        async def paid():
            query = "SELECT state = 'paid' FROM orders WHERE order_id = $1"
            return await db.fetchval(query, order.order_id)

        await eventually(paid, "it is paid")
    await assert_balanced(sale)


async def test_without_postgresql_nothing_is_paid_and_a_retry_is_safe(
    processes, open_sale, placed_order, pay, postgres_proxy, assert_balanced
):
    proxy, dsn = postgres_proxy
    gateway = await processes.run("gateway", SECKILL_POSTGRES_DSN=dsn)
    await processes.run("consumers")
    sale = await open_sale(stock=2)
    async with ClientSession(gateway.url) as http:
        order = await placed_order(http, sale)
        proxy.freeze()
        status, body = await pay(http, order)
        # A buyer who has just grabbed is answered "queued", as by GET; others 503.
        assert (status, body["code"]) in ((409, "queued"), (503, "unavailable"))
        proxy.thaw()

        async def paid():
            return (await pay(http, order))[0] == 200

        await eventually(paid, "the retry pays")
    ledger = await assert_balanced(sale)
    assert ledger.lines["charged, cents"] == 1999
