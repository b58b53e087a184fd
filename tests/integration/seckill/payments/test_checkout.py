"""Whole payments: who wins when two meet, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest

from seckill.orders import orders
from seckill.payments import wallets
from seckill.payments.wallets import Wallet
from seckill.transactions.states import BranchOp, TransactionOutcome, TransactionState
from tests.checkout import BRANCHES, payer
from tests.transactions import Killed

#: Correctness never hangs on the lock.
with_and_without_lock = pytest.mark.parametrize("locking", [True, False], ids=["lock", "no-lock"])


@pytest.fixture
async def order(shop, open_sale, checkout):
    """An order of 1999 cents by a buyer who has twice that."""
    sale = await open_sale(stock=3)
    (placement,) = await shop.order(sale, payer())
    await checkout.give(placement.buyer_id, 2 * 1999)
    return sale, placement


async def test_a_payment_is_confirmed(checkout, shop, order, assert_balanced):
    sale, placement = order
    assert await checkout.pay(placement) == TransactionOutcome(TransactionState.CONFIRMED)
    assert await shop.states(sale, [placement]) == ["paid"]
    await assert_balanced(sale)


async def test_a_refused_payment_leaves_everything_as_it_was(
    checkout, shop, open_sale, assert_balanced
):
    sale = await open_sale(stock=3)
    (placement,) = await shop.order(sale, payer())
    coupon = await checkout.coupon(placement.buyer_id, 500)
    outcome = await checkout.pay(placement, coupon=coupon)
    assert outcome == TransactionOutcome(TransactionState.CANCELED, "insufficient_funds")
    assert await shop.states(sale, [placement]) == ["pending"]
    (held,) = await wallets.coupons_of(checkout.db, placement.buyer_id)
    assert held.state == "available"
    await assert_balanced(sale)
    await checkout.give(placement.buyer_id, 1499)
    assert (await checkout.pay(placement, coupon=coupon)).confirmed


@with_and_without_lock
async def test_F20_an_order_is_paid_once_however_many_gateways_try(
    checkout, shop, order, assert_balanced, locking
):
    sale, placement = order
    processes = [checkout.another(locking=locking) for _ in range(6)]
    outcomes = Counter(await asyncio.gather(*(t.pay(placement) for t in processes)))
    assert outcomes[TransactionOutcome(TransactionState.CONFIRMED)] == 1
    assert {outcome.reason for outcome in outcomes} <= {None, "payment_in_progress", "paid"}
    assert await wallets.find_wallet(checkout.db, placement.buyer_id) == Wallet(
        placement.buyer_id, 1999
    )
    await assert_balanced(sale)


@with_and_without_lock
async def test_a_coupon_is_used_once_however_many_orders_want_it(
    checkout, shop, open_sale, assert_balanced, locking
):
    name = payer()
    sales = [await open_sale(stock=1) for _ in range(4)]
    wanted = [(await shop.order(sale, name))[0] for sale in sales]
    await checkout.give(name, 4 * 1999)
    coupon = await checkout.coupon(name, 1999)
    processes = [checkout.another(locking=locking) for _ in wanted]
    outcomes = await asyncio.gather(
        *(t.pay(order, coupon=coupon) for t, order in zip(processes, wanted, strict=True))
    )
    assert sorted(outcomes) == [
        *[TransactionOutcome(TransactionState.CANCELED, "coupon_used")] * 3,
        TransactionOutcome(TransactionState.CONFIRMED),
    ]
    assert (await wallets.find_wallet(checkout.db, name)).available_cents == 4 * 1999
    for sale in sales:
        await assert_balanced(sale)


async def test_a_wallet_pays_for_as_much_as_it_holds_and_no_more(
    checkout, shop, open_sale, assert_balanced
):
    name = payer()
    sales = [await open_sale(stock=1) for _ in range(6)]
    wanted = [(await shop.order(sale, name))[0] for sale in sales]
    await checkout.give(name, 2 * 1999 + 500)
    outcomes = Counter(
        await asyncio.gather(*(checkout.another().pay(placement) for placement in wanted))
    )
    assert outcomes == {
        TransactionOutcome(TransactionState.CONFIRMED): 2,
        TransactionOutcome(TransactionState.CANCELED, "insufficient_funds"): 4,
    }
    assert await wallets.find_wallet(checkout.db, name) == Wallet(name, 500)
    for sale in sales:
        await assert_balanced(sale)


async def test_F09_payment_and_cancellation_at_once_have_one_winner(
    checkout, shop, open_sale, assert_balanced
):
    """I7: an order is paid, or its unit is back, and the buyer keeps the money: never both."""
    sale = await open_sale(stock=30)
    placements = await shop.order(sale, *(payer() for _ in range(30)))
    for placement in placements:
        await checkout.give(placement.buyer_id, 1999)

    outcomes, released = await asyncio.gather(
        asyncio.gather(*(checkout.pay(placement) for placement in placements)),
        asyncio.gather(*(shop.release(placement) for placement in placements)),
    )

    states = await shop.states(sale, placements)
    for outcome, ended, state in zip(outcomes, released, states, strict=True):
        assert outcome.confirmed is (ended == [])
        assert state == ("paid" if outcome.confirmed else "cancelled buyer")
    await shop.return_all(sale)
    ledger = await assert_balanced(sale)
    assert ledger.lines["charged, cents"] == 1999 * states.count("paid")


@pytest.mark.parametrize("first", ["payment", "timeout"])
async def test_F09_who_has_the_row_first_wins(
    checkout, shop, order, blocked, eventually, assert_balanced, first
):
    """Both wait for the row of an order; the compare-and-set decides."""
    sale, placement = order
    if first == "timeout":
        await shop.let_expire(placement)

    def release():
        return orders.release(
            checkout.db,
            [placement.order_id],
            to_state="cancelled",
            reason="expired",
            overdue_only=True,
        )

    async with checkout.db.acquire() as connection, connection.transaction():
        await connection.execute(
            "SELECT FROM orders WHERE order_id = $1 FOR UPDATE", placement.order_id
        )
        started = [checkout.pay(placement), release()]
        started = started if first == "payment" else started[::-1]
        tasks = [asyncio.create_task(started[0])]
        await eventually(blocked, "the first waits")
        tasks.append(asyncio.create_task(started[1]))
    results = await asyncio.gather(*tasks)
    paid, released = results if first == "payment" else results[::-1]
    if first == "payment":
        assert (paid, released) == (TransactionOutcome(TransactionState.CONFIRMED), [])
    else:
        assert (paid, released) == (
            TransactionOutcome(TransactionState.CANCELED, "expired"),
            [placement.order_id],
        )
        await shop.return_all(sale)
    await assert_balanced(sale)


async def test_F12_a_kill_between_any_two_statements_is_recovered(
    checkout, shop, open_sale, assert_balanced
):
    """Of two payments in one batch one can be afforded; recovery ends both, at whatever point."""
    ends = []
    for point in itertools.count():
        sale = await open_sale(stock=3)
        rich, poor = await shop.order(sale, payer(), payer())
        await checkout.give(rich.buyer_id, 1999)
        calls = [
            checkout.call(o, coupon=await checkout.coupon(o.buyer_id, 9)) for o in (rich, poor)
        ]
        try:
            await checkout.mortal(point).coordinator.run(calls)
        except Killed:
            begun = await checkout.db.fetchval(
                "SELECT count(*) FROM transactions WHERE tx_id = $1", calls[0].tx_id
            )
        else:
            break

        await checkout.another().recover(sale.sale_id)

        ends.append(await shop.states(sale, [rich, poor]))
        is_paid = ends[-1][0] == "paid"
        if begun:  # what the dead process had sent may still come
            for branch in BRANCHES:
                refused = await checkout.run(branch, BranchOp.TRY, *calls)
                assert refused == {call.tx_id: "late" for call in calls[is_paid:]}
        ledger = await assert_balanced(sale)
        assert ledger.lines["charged, cents"] == (1990 if is_paid else 0)
    # Nothing is paid up to some point, and everything from there on.
    assert ends == sorted(ends, reverse=True)
    assert sorted(map(list, set(map(tuple, ends))), reverse=True) == [
        ["pending", "pending"],
        ["paid", "pending"],
    ]
