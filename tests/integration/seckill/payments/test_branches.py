"""The branches of a payment, one operation at a time: done, refused, repeated, late, not theirs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import asyncpg
import pytest

from seckill.orders.orders import Placement
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp, Wallet
from seckill.transactions.states import BranchCall, BranchOp
from tests.checkout import BRANCHES, CheckoutBench, payer


async def coupon_states(checkout: CheckoutBench, buyer_id: str) -> list[str]:
    return [coupon.state for coupon in await wallets.coupons_of(checkout.db, buyer_id)]


async def entries_of(checkout: CheckoutBench, call: BranchCall) -> dict[tuple[str, str], int]:
    """Return (kind, account) -> cents of a transaction."""
    rows = await checkout.db.fetch(
        "SELECT kind, account, cents FROM entries WHERE tx = $1", call.tx_id
    )
    return {(row[0], row[1]): row[2] for row in rows}


async def payment_of(checkout: CheckoutBench, call: BranchCall) -> tuple[str, int, int] | None:
    """Return (state, amount, discount)."""
    row = await checkout.db.fetchrow(
        "SELECT state, amount_cents, discount_cents FROM payments WHERE tx_id = $1", call.tx_id
    )
    return row and tuple(row)


@pytest.fixture
async def order(shop, open_sale):
    """An order of two units at 1999 cents each, in a sale of five."""
    sale = await open_sale(stock=5, per_order_max=2)
    (placement,) = await shop.order(sale, payer(), quantity=2)
    return sale, placement


async def states(shop, sale, *placements: Placement) -> Sequence[str | None]:
    return await shop.states(sale, placements)


# The order with its units.


async def test_an_order_is_tried_then_confirmed_and_its_units_are_sold(checkout, shop, order):
    sale, placement = order
    call = checkout.call(placement)
    assert await checkout.run("order", BranchOp.TRY, call) == {}
    assert await states(shop, sale, placement) == ["paying"]
    assert await shop.inventory(sale) == (3, 2, 0)
    assert await payment_of(checkout, call) == ("trying", 3998, 0)
    for _ in range(2):
        assert await checkout.run("order", BranchOp.CONFIRM, call) == {}
        assert await states(shop, sale, placement) == ["paid"]
        assert await shop.inventory(sale) == (3, 0, 2)
        assert await payment_of(checkout, call) == ("paid", 3998, 0)


async def test_a_cancelled_try_lets_the_order_be_paid_by_another(checkout, shop, order):
    sale, placement = order
    first, second = checkout.call(placement), checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, first)
    for _ in range(2):
        await checkout.run("order", BranchOp.CANCEL, first)
        assert await states(shop, sale, placement) == ["pending"]
    assert await payment_of(checkout, first) == ("cancelled", 3998, 0)
    assert await checkout.run("order", BranchOp.TRY, second) == {}
    # A cancel that comes late again does not touch the second.
    await checkout.run("order", BranchOp.CANCEL, first)
    assert await states(shop, sale, placement) == ["paying"]


async def test_F09_a_cancel_after_the_window_releases_the_order_with_its_units(
    checkout, shop, order, assert_balanced
):
    sale, placement = order
    call = checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, call)
    await shop.let_expire(placement)
    # The timer came while the order was being paid, and will not come again.
    assert await shop.release(placement) == []
    await checkout.run("order", BranchOp.CANCEL, call)
    assert await states(shop, sale, placement) == ["cancelled expired"]
    assert await shop.inventory(sale) == (5, 0, 0)
    assert await shop.returns(sale) == {placement.order_id: 2}
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_try_says_why_it_is_refused(checkout, shop, open_sale):
    sale = await open_sale(stock=9)
    names = [payer() for _ in range(6)]
    mine, late, gone, ended, paying, paid = await shop.order(sale, *names)
    await shop.let_expire(late, ended)
    await shop.release(gone)
    await checkout.run("order", BranchOp.TRY, checkout.call(paying), bought := checkout.call(paid))
    await checkout.run("order", BranchOp.CONFIRM, bought)
    await checkout.db.execute("SELECT release($1, 'cancelled', 'expired', true)", [ended.order_id])
    unplaced = shop.wish(sale, payer())
    calls = {
        "no_order": [checkout.call(mine, buyer_id="stranger"), checkout.call(unplaced)],
        "expired": [checkout.call(late), checkout.call(ended)],
        "not_payable": [checkout.call(gone)],
        "payment_in_progress": [checkout.call(paying)],
        "paid": [checkout.call(paid)],
    }
    refused = await checkout.run("order", BranchOp.TRY, *itertools.chain(*calls.values()))
    assert refused == {call.tx_id: why for why, group in calls.items() for call in group}
    # Nothing was written for them, and nothing is there to cancel.
    for call in itertools.chain(*calls.values()):
        assert await payment_of(checkout, call) is None
    await checkout.run("order", BranchOp.CANCEL, *itertools.chain(*calls.values()))
    assert await states(shop, sale, mine, paying, paid) == ["pending", "paying", "paid"]
    assert await shop.inventory(sale) == (5, 3, 1)


async def test_of_two_payments_in_one_call_the_first_has_the_order(checkout, order):
    first, second = checkout.call(order[1]), checkout.call(order[1])
    assert await checkout.run("order", BranchOp.TRY, first, second) == {
        second.tx_id: "payment_in_progress"
    }


async def test_an_empty_cancel_does_nothing_and_the_try_after_it_is_late(checkout, shop, order):
    sale, placement = order
    call = checkout.call(placement)
    await checkout.run("order", BranchOp.CANCEL, call)
    assert await checkout.run("order", BranchOp.TRY, call) == {call.tx_id: "late"}
    assert await states(shop, sale, placement) == ["pending"]


async def test_what_was_not_tried_cannot_be_confirmed(checkout, shop, order):
    sale, placement = order
    mine, other = checkout.call(placement), checkout.call(placement, coupon="c")
    await checkout.run("order", BranchOp.TRY, mine)
    whys = [(await checkout.run(b, BranchOp.CONFIRM, other))[other.tx_id] for b in BRANCHES]
    assert whys == ["not_paying", "not_locked", "not_frozen"]
    assert await states(shop, sale, placement) == ["paying"]


async def test_a_payment_touches_only_what_is_its_own(checkout, shop, order):
    """Also without the barrier before it: the functions themselves compare the transaction."""
    sale, placement = order
    await checkout.give(placement.buyer_id, 5000)
    coupon = await checkout.coupon(placement.buyer_id, 500)
    mine, other = (checkout.call(placement, coupon=coupon) for _ in range(2))
    for branch in BRANCHES:
        await checkout.run(branch, BranchOp.TRY, mine)
    await checkout.db.execute("SELECT cancel_payments($1, $2)", [other.tx_id], [placement.order_id])
    for function in ("unfreeze_funds", "unlock_coupons"):
        await checkout.db.execute(f"SELECT {function}($1)", [other.tx_id])
    assert await states(shop, sale, placement) == ["paying"]
    assert await coupon_states(checkout, placement.buyer_id) == ["locked"]
    assert (await wallets.find_wallet(checkout.db, placement.buyer_id)).frozen_cents == 3498


async def test_orders_of_many_sales_are_paid_in_one_call(checkout, shop, open_sale):
    sales = [await open_sale(stock=3) for _ in range(3)]
    placements = [p for sale in sales for p in await shop.order(sale, payer(), payer())]
    calls = [checkout.call(placement) for placement in placements]
    assert await checkout.run("order", BranchOp.TRY, *calls) == {}
    await checkout.run("order", BranchOp.CONFIRM, *calls[::2])
    await checkout.run("order", BranchOp.CANCEL, *calls[1::2])
    assert [await shop.inventory(sale) for sale in sales] == [(1, 1, 1)] * 3


# The wallet.


async def test_a_wallet_freezes_then_pays_into_revenue(checkout, order):
    _, placement = order
    await checkout.give(placement.buyer_id, 5000)
    call = checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, call)
    for _ in range(2):
        assert await checkout.run("wallet", BranchOp.TRY, call) == {}
        assert await wallets.find_wallet(checkout.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 1002, 3998
        )
    assert await entries_of(checkout, call) == {}
    for _ in range(2):
        assert await checkout.run("wallet", BranchOp.CONFIRM, call) == {}
        assert await wallets.find_wallet(checkout.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 1002, 0
        )
        assert await entries_of(checkout, call) == {
            ("payment", f"wallet:{placement.buyer_id}"): -3998,
            ("payment", "revenue"): 3998,
        }


async def test_a_cancelled_wallet_has_everything_back(checkout, order):
    _, placement = order
    await checkout.give(placement.buyer_id, 5000)
    call = checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, call)
    await checkout.run("wallet", BranchOp.TRY, call)
    for _ in range(2):
        await checkout.run("wallet", BranchOp.CANCEL, call)
        assert await wallets.find_wallet(checkout.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 5000, 0
        )
    assert await entries_of(checkout, call) == {}
    assert await checkout.run("wallet", BranchOp.TRY, call) == {call.tx_id: "late"}


@pytest.mark.parametrize("cents", [0, 3997])
async def test_a_wallet_with_too_little_is_refused_and_untouched(checkout, order, cents):
    _, placement = order
    if cents:
        await checkout.give(placement.buyer_id, cents)
    call = checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, call)
    assert await checkout.run("wallet", BranchOp.TRY, call) == {call.tx_id: "insufficient_funds"}
    await checkout.run("wallet", BranchOp.CANCEL, call)
    assert await wallets.find_wallet(checkout.db, placement.buyer_id) == Wallet(
        placement.buyer_id, cents
    )


async def test_a_wallet_pays_what_it_can_of_several_orders_at_once(checkout, shop, open_sale):
    """The dear order is refused, whatever its place, and does not take the others along."""
    name = payer()
    cheap = [await open_sale(stock=1) for _ in range(2)]
    dear = await open_sale(stock=5, per_order_max=5)
    calls = [checkout.call((await shop.order(dear, name, quantity=5))[0])]
    calls += [checkout.call((await shop.order(sale, name))[0]) for sale in cheap]
    await checkout.give(name, 2 * 1999 + 1)
    await checkout.run("order", BranchOp.TRY, *calls)
    assert await checkout.run("wallet", BranchOp.TRY, *calls) == {
        calls[0].tx_id: "insufficient_funds"
    }
    assert await wallets.find_wallet(checkout.db, name) == Wallet(name, 1, 3998)


async def test_a_wallet_freezes_only_for_a_payment_being_tried(checkout, order):
    _, placement = order
    await checkout.give(placement.buyer_id, 5000)
    untried, cancelled = checkout.call(placement), checkout.call(placement)
    await checkout.run("order", BranchOp.TRY, cancelled)
    await checkout.run("order", BranchOp.CANCEL, cancelled)
    refused = await checkout.run("wallet", BranchOp.TRY, untried, cancelled)
    assert refused == {untried.tx_id: "no_payment", cancelled.tx_id: "no_payment"}


async def test_no_wallet_goes_below_zero_whoever_tries(db):
    await db.execute("INSERT INTO wallets (buyer_id) VALUES ($1)", name := payer())
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("UPDATE wallets SET available_cents = -1 WHERE buyer_id = $1", name)


# The coupon.


async def test_a_coupon_is_locked_then_used_and_lowers_the_price(checkout, order):
    _, placement = order
    coupon = await checkout.coupon(placement.buyer_id, 1000)
    await checkout.give(placement.buyer_id, 2998)
    call = checkout.call(placement, coupon=coupon)
    for branch in BRANCHES:
        assert await checkout.run(branch, BranchOp.TRY, call) == {}
    assert await coupon_states(checkout, placement.buyer_id) == ["locked"]
    assert await payment_of(checkout, call) == ("trying", 2998, 1000)
    for branch in ("order", "coupon", "wallet", "coupon"):
        assert await checkout.run(branch, BranchOp.CONFIRM, call) == {}
    assert await coupon_states(checkout, placement.buyer_id) == ["used"]
    assert await entries_of(checkout, call) == {
        ("payment", f"wallet:{placement.buyer_id}"): -2998,
        ("payment", "revenue"): 2998,
        ("discount", "discount"): -1000,
        ("discount", "revenue"): 1000,
    }


async def test_a_cancelled_coupon_is_good_again(checkout, order):
    _, placement = order
    coupon = await checkout.coupon(placement.buyer_id, 1000)
    call = checkout.call(placement, coupon=coupon)
    await checkout.run("order", BranchOp.TRY, call)
    await checkout.run("coupon", BranchOp.TRY, call)
    for _ in range(2):
        await checkout.run("coupon", BranchOp.CANCEL, call)
        assert await coupon_states(checkout, placement.buyer_id) == ["available"]


async def test_a_coupon_worth_more_than_the_order_leaves_nothing_to_charge(checkout, order):
    _, placement = order
    coupon = await checkout.coupon(placement.buyer_id, 10_000)
    call = checkout.call(placement, coupon=coupon)
    for op in (BranchOp.TRY, BranchOp.CONFIRM):
        for branch in BRANCHES:
            assert await checkout.run(branch, op, call) == {}
    assert await payment_of(checkout, call) == ("paid", 0, 3998)
    assert await entries_of(checkout, call) == {
        ("discount", "discount"): -3998,
        ("discount", "revenue"): 3998,
    }


async def test_a_coupon_is_refused_when_unknown_or_foreign_or_used_or_locked(
    checkout, shop, open_sale
):
    names = [payer() for _ in range(2)]
    orders = [p for _ in range(2) for p in await shop.order(await open_sale(stock=2), *names)]
    own, other = [await checkout.coupon(name, 5) for name in names]
    unknown, foreign = (
        checkout.call(orders[0], coupon="nowhere"),
        checkout.call(orders[2], coupon=other),
    )
    for call in (unknown, foreign):
        await checkout.run("order", BranchOp.TRY, call)
        assert await checkout.run("coupon", BranchOp.TRY, call) == {call.tx_id: "coupon_unknown"}
        await checkout.run("coupon", BranchOp.CANCEL, call)
        await checkout.run("order", BranchOp.CANCEL, call)
    first, second = checkout.call(orders[0], coupon=own), checkout.call(orders[2], coupon=own)
    await checkout.run("order", BranchOp.TRY, first, second)
    assert await checkout.run("coupon", BranchOp.TRY, first, second) == {
        second.tx_id: "coupon_used"
    }
    await checkout.run("coupon", BranchOp.CONFIRM, first)
    assert await checkout.run("coupon", BranchOp.TRY, second) == {second.tx_id: "coupon_used"}
    await checkout.run("coupon", BranchOp.CANCEL, second)
    assert await coupon_states(checkout, names[0]) == ["used"]


# Postings.


async def test_money_from_outside_is_booked_once(checkout):
    name = payer()
    top_ups = [TopUp(new_tx_id(), name, cents) for cents in (70, 30)]
    assert await wallets.top_up(checkout.db, top_ups) == [top_up.tx_id for top_up in top_ups]
    assert await wallets.top_up(checkout.db, top_ups) == []
    assert await wallets.find_wallet(checkout.db, name) == Wallet(name, 100)


async def test_a_posting_that_does_not_sum_to_zero_is_refused(db):
    with pytest.raises(asyncpg.CheckViolationError, match="sum to 0"):
        await db.execute(
            "INSERT INTO entries VALUES ('t', 'payment', 'revenue', 2), ('t', 'payment', 'x', -1)"
        )
    with pytest.raises(asyncpg.CheckViolationError, match="sum to 0"):
        await db.execute(
            "INSERT INTO entries VALUES ('t', 'top_up', 'a', 2), ('t', 'refund', 'b', -2)"
        )


@pytest.mark.parametrize(
    "change", ["UPDATE entries SET cents = 1", "DELETE FROM entries", "TRUNCATE entries"]
)
async def test_postings_are_never_changed_or_removed(db, change):
    with pytest.raises(asyncpg.RestrictViolationError, match="only ever added"):
        await db.execute(change)
