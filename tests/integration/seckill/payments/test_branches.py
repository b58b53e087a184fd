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
from tests.till import BRANCHES, Till, payer


async def coupon_states(till: Till, buyer_id: str) -> list[str]:
    return [coupon.state for coupon in await wallets.coupons_of(till.db, buyer_id)]


async def entries_of(till: Till, work: BranchCall) -> dict[tuple[str, str], int]:
    """Return (kind, account) -> cents of a transaction."""
    rows = await till.db.fetch("SELECT kind, account, cents FROM entries WHERE tx = $1", work.tx_id)
    return {(row[0], row[1]): row[2] for row in rows}


async def payment_of(till: Till, work: BranchCall) -> tuple[str, int, int] | None:
    """Return (state, amount, discount)."""
    row = await till.db.fetchrow(
        "SELECT state, amount_cents, discount_cents FROM payments WHERE tx_id = $1", work.tx_id
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


async def test_an_order_is_tried_then_confirmed_and_its_units_are_sold(till, shop, order):
    sale, placement = order
    work = till.work(placement)
    assert await till.run("order", BranchOp.TRY, work) == {}
    assert await states(shop, sale, placement) == ["paying"]
    assert await shop.inventory(sale) == (3, 2, 0)
    assert await payment_of(till, work) == ("trying", 3998, 0)
    for _ in range(2):
        assert await till.run("order", BranchOp.CONFIRM, work) == {}
        assert await states(shop, sale, placement) == ["paid"]
        assert await shop.inventory(sale) == (3, 0, 2)
        assert await payment_of(till, work) == ("paid", 3998, 0)


async def test_a_cancelled_try_lets_the_order_be_paid_by_another(till, shop, order):
    sale, placement = order
    first, second = till.work(placement), till.work(placement)
    await till.run("order", BranchOp.TRY, first)
    for _ in range(2):
        await till.run("order", BranchOp.CANCEL, first)
        assert await states(shop, sale, placement) == ["pending"]
    assert await payment_of(till, first) == ("cancelled", 3998, 0)
    assert await till.run("order", BranchOp.TRY, second) == {}
    # A cancel that comes late again does not touch the second.
    await till.run("order", BranchOp.CANCEL, first)
    assert await states(shop, sale, placement) == ["paying"]


async def test_F09_a_cancel_after_the_window_releases_the_order_with_its_units(
    till, shop, order, assert_balanced
):
    sale, placement = order
    work = till.work(placement)
    await till.run("order", BranchOp.TRY, work)
    await shop.let_expire(placement)
    # The timer came while the order was being paid, and will not come again.
    assert await shop.release(placement) == []
    await till.run("order", BranchOp.CANCEL, work)
    assert await states(shop, sale, placement) == ["cancelled expired"]
    assert await shop.inventory(sale) == (5, 0, 0)
    assert await shop.returns(sale) == {placement.order_id: 2}
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_a_try_says_why_it_is_refused(till, shop, open_sale):
    sale = await open_sale(stock=9)
    names = [payer() for _ in range(6)]
    mine, late, gone, ended, paying, paid = await shop.order(sale, *names)
    await shop.let_expire(late, ended)
    await shop.release(gone)
    await till.run("order", BranchOp.TRY, till.work(paying), bought := till.work(paid))
    await till.run("order", BranchOp.CONFIRM, bought)
    await till.db.execute("SELECT release($1, 'cancelled', 'expired', true)", [ended.order_id])
    unplaced = shop.wish(sale, payer())
    works = {
        "no_order": [till.work(mine, buyer_id="somebody"), till.work(unplaced)],
        "expired": [till.work(late), till.work(ended)],
        "not_payable": [till.work(gone)],
        "payment_in_progress": [till.work(paying)],
        "paid": [till.work(paid)],
    }
    refused = await till.run("order", BranchOp.TRY, *itertools.chain(*works.values()))
    assert refused == {work.tx_id: why for why, group in works.items() for work in group}
    # Nothing was written for them, and nothing is there to cancel.
    for work in itertools.chain(*works.values()):
        assert await payment_of(till, work) is None
    await till.run("order", BranchOp.CANCEL, *itertools.chain(*works.values()))
    assert await states(shop, sale, mine, paying, paid) == ["pending", "paying", "paid"]
    assert await shop.inventory(sale) == (5, 3, 1)


async def test_of_two_payments_in_one_call_the_first_has_the_order(till, order):
    first, second = till.work(order[1]), till.work(order[1])
    assert await till.run("order", BranchOp.TRY, first, second) == {
        second.tx_id: "payment_in_progress"
    }


async def test_an_empty_cancel_does_nothing_and_the_try_after_it_is_late(till, shop, order):
    sale, placement = order
    work = till.work(placement)
    await till.run("order", BranchOp.CANCEL, work)
    assert await till.run("order", BranchOp.TRY, work) == {work.tx_id: "late"}
    assert await states(shop, sale, placement) == ["pending"]


async def test_what_was_not_tried_cannot_be_confirmed(till, shop, order):
    sale, placement = order
    mine, other = till.work(placement), till.work(placement, coupon="c")
    await till.run("order", BranchOp.TRY, mine)
    whys = [(await till.run(b, BranchOp.CONFIRM, other))[other.tx_id] for b in BRANCHES]
    assert whys == ["not_paying", "not_locked", "not_frozen"]
    assert await states(shop, sale, placement) == ["paying"]


async def test_a_payment_touches_only_what_is_its_own(till, shop, order):
    """Also without the barrier before it: the functions themselves compare the transaction."""
    sale, placement = order
    await till.give(placement.buyer_id, 5000)
    coupon = await till.coupon(placement.buyer_id, 500)
    mine, other = (till.work(placement, coupon=coupon) for _ in range(2))
    for branch in BRANCHES:
        await till.run(branch, BranchOp.TRY, mine)
    await till.db.execute("SELECT cancel_payments($1, $2)", [other.tx_id], [placement.order_id])
    for function in ("unfreeze_funds", "unlock_coupons"):
        await till.db.execute(f"SELECT {function}($1)", [other.tx_id])
    assert await states(shop, sale, placement) == ["paying"]
    assert await coupon_states(till, placement.buyer_id) == ["locked"]
    assert (await wallets.find_wallet(till.db, placement.buyer_id)).frozen_cents == 3498


async def test_orders_of_many_sales_are_paid_in_one_call(till, shop, open_sale):
    sales = [await open_sale(stock=3) for _ in range(3)]
    placements = [p for sale in sales for p in await shop.order(sale, payer(), payer())]
    works = [till.work(placement) for placement in placements]
    assert await till.run("order", BranchOp.TRY, *works) == {}
    await till.run("order", BranchOp.CONFIRM, *works[::2])
    await till.run("order", BranchOp.CANCEL, *works[1::2])
    assert [await shop.inventory(sale) for sale in sales] == [(1, 1, 1)] * 3


# The wallet.


async def test_a_wallet_freezes_then_pays_into_revenue(till, order):
    _, placement = order
    await till.give(placement.buyer_id, 5000)
    work = till.work(placement)
    await till.run("order", BranchOp.TRY, work)
    for _ in range(2):
        assert await till.run("wallet", BranchOp.TRY, work) == {}
        assert await wallets.find_wallet(till.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 1002, 3998
        )
    assert await entries_of(till, work) == {}
    for _ in range(2):
        assert await till.run("wallet", BranchOp.CONFIRM, work) == {}
        assert await wallets.find_wallet(till.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 1002, 0
        )
        assert await entries_of(till, work) == {
            ("payment", f"wallet:{placement.buyer_id}"): -3998,
            ("payment", "revenue"): 3998,
        }


async def test_a_cancelled_wallet_has_everything_back(till, order):
    _, placement = order
    await till.give(placement.buyer_id, 5000)
    work = till.work(placement)
    await till.run("order", BranchOp.TRY, work)
    await till.run("wallet", BranchOp.TRY, work)
    for _ in range(2):
        await till.run("wallet", BranchOp.CANCEL, work)
        assert await wallets.find_wallet(till.db, placement.buyer_id) == Wallet(
            placement.buyer_id, 5000, 0
        )
    assert await entries_of(till, work) == {}
    assert await till.run("wallet", BranchOp.TRY, work) == {work.tx_id: "late"}


@pytest.mark.parametrize("cents", [0, 3997])
async def test_a_wallet_with_too_little_is_refused_and_untouched(till, order, cents):
    _, placement = order
    if cents:
        await till.give(placement.buyer_id, cents)
    work = till.work(placement)
    await till.run("order", BranchOp.TRY, work)
    assert await till.run("wallet", BranchOp.TRY, work) == {work.tx_id: "insufficient_funds"}
    await till.run("wallet", BranchOp.CANCEL, work)
    assert await wallets.find_wallet(till.db, placement.buyer_id) == Wallet(
        placement.buyer_id, cents
    )


async def test_a_wallet_pays_what_it_can_of_several_orders_at_once(till, shop, open_sale):
    """The dear order is refused, whatever its place, and does not take the others along."""
    name = payer()
    cheap = [await open_sale(stock=1) for _ in range(2)]
    dear = await open_sale(stock=5, per_order_max=5)
    works = [till.work((await shop.order(dear, name, quantity=5))[0])]
    works += [till.work((await shop.order(sale, name))[0]) for sale in cheap]
    await till.give(name, 2 * 1999 + 1)
    await till.run("order", BranchOp.TRY, *works)
    assert await till.run("wallet", BranchOp.TRY, *works) == {works[0].tx_id: "insufficient_funds"}
    assert await wallets.find_wallet(till.db, name) == Wallet(name, 1, 3998)


async def test_a_wallet_freezes_only_for_a_payment_being_tried(till, order):
    _, placement = order
    await till.give(placement.buyer_id, 5000)
    untried, cancelled = till.work(placement), till.work(placement)
    await till.run("order", BranchOp.TRY, cancelled)
    await till.run("order", BranchOp.CANCEL, cancelled)
    refused = await till.run("wallet", BranchOp.TRY, untried, cancelled)
    assert refused == {untried.tx_id: "no_payment", cancelled.tx_id: "no_payment"}


async def test_no_wallet_goes_below_zero_whoever_tries(db):
    await db.execute("INSERT INTO wallets (buyer_id) VALUES ($1)", name := payer())
    with pytest.raises(asyncpg.CheckViolationError):
        await db.execute("UPDATE wallets SET available_cents = -1 WHERE buyer_id = $1", name)


# The coupon.


async def test_a_coupon_is_locked_then_used_and_lowers_the_price(till, order):
    _, placement = order
    coupon = await till.coupon(placement.buyer_id, 1000)
    await till.give(placement.buyer_id, 2998)
    work = till.work(placement, coupon=coupon)
    for branch in BRANCHES:
        assert await till.run(branch, BranchOp.TRY, work) == {}
    assert await coupon_states(till, placement.buyer_id) == ["locked"]
    assert await payment_of(till, work) == ("trying", 2998, 1000)
    for branch in ("order", "coupon", "wallet", "coupon"):
        assert await till.run(branch, BranchOp.CONFIRM, work) == {}
    assert await coupon_states(till, placement.buyer_id) == ["used"]
    assert await entries_of(till, work) == {
        ("payment", f"wallet:{placement.buyer_id}"): -2998,
        ("payment", "revenue"): 2998,
        ("discount", "discount"): -1000,
        ("discount", "revenue"): 1000,
    }


async def test_a_cancelled_coupon_is_good_again(till, order):
    _, placement = order
    coupon = await till.coupon(placement.buyer_id, 1000)
    work = till.work(placement, coupon=coupon)
    await till.run("order", BranchOp.TRY, work)
    await till.run("coupon", BranchOp.TRY, work)
    for _ in range(2):
        await till.run("coupon", BranchOp.CANCEL, work)
        assert await coupon_states(till, placement.buyer_id) == ["available"]


async def test_a_coupon_worth_more_than_the_order_leaves_nothing_to_charge(till, order):
    _, placement = order
    coupon = await till.coupon(placement.buyer_id, 10_000)
    work = till.work(placement, coupon=coupon)
    for op in (BranchOp.TRY, BranchOp.CONFIRM):
        for branch in BRANCHES:
            assert await till.run(branch, op, work) == {}
    assert await payment_of(till, work) == ("paid", 0, 3998)
    assert await entries_of(till, work) == {
        ("discount", "discount"): -3998,
        ("discount", "revenue"): 3998,
    }


async def test_a_coupon_is_refused_when_unknown_or_not_his_or_used_or_locked(till, shop, open_sale):
    names = [payer() for _ in range(2)]
    orders = [p for _ in range(2) for p in await shop.order(await open_sale(stock=2), *names)]
    his, other = await till.coupon(names[0], 5), await till.coupon(names[1], 5)
    unknown, not_his = till.work(orders[0], coupon="nowhere"), till.work(orders[2], coupon=other)
    for work in (unknown, not_his):
        await till.run("order", BranchOp.TRY, work)
        assert await till.run("coupon", BranchOp.TRY, work) == {work.tx_id: "coupon_unknown"}
        await till.run("coupon", BranchOp.CANCEL, work)
        await till.run("order", BranchOp.CANCEL, work)
    first, second = till.work(orders[0], coupon=his), till.work(orders[2], coupon=his)
    await till.run("order", BranchOp.TRY, first, second)
    assert await till.run("coupon", BranchOp.TRY, first, second) == {second.tx_id: "coupon_used"}
    await till.run("coupon", BranchOp.CONFIRM, first)
    assert await till.run("coupon", BranchOp.TRY, second) == {second.tx_id: "coupon_used"}
    await till.run("coupon", BranchOp.CANCEL, second)
    assert await coupon_states(till, names[0]) == ["used"]


# The books.


async def test_money_from_outside_is_booked_once(till):
    name = payer()
    top_ups = [TopUp(new_tx_id(), name, cents) for cents in (70, 30)]
    assert await wallets.top_up(till.db, top_ups) == [top_up.tx_id for top_up in top_ups]
    assert await wallets.top_up(till.db, top_ups) == []
    assert await wallets.find_wallet(till.db, name) == Wallet(name, 100)


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
async def test_the_books_are_only_added_to(db, change):
    with pytest.raises(asyncpg.RestrictViolationError, match="only ever added"):
        await db.execute(change)
