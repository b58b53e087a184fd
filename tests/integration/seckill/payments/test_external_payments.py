"""Payments of the shop's own checkout: one pays the order, all other money is due back."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from consumers.roles.sweep import GRACE_S, Sweep
from seckill.errors import Missing, WrongState
from seckill.orders import event_outbox, orders
from seckill.payments import refunds
from seckill.payments.external_payments import ReportOutcome
from seckill.transactions.states import BranchOp
from tests.checkout import payer
from tests.external_payments import PAID_AT, external_payments, new_reference, report_of
from tests.fulfilment import FulfilmentWorker, saga_of

HOLD_S = 900


@pytest.fixture
def external(db):
    return external_payments(db)


@pytest.fixture
def place(shop, open_sale):
    """Open a sale and place orders in it: `sale, [order] = await place()`."""

    async def make(count: int = 1, **terms):
        sale = await open_sale(stock=count, **terms)
        return sale, await shop.order(sale, *(payer() for _ in range(count)))

    return make


@pytest.fixture
def due_of(external):
    """Return reference -> why, of the money of a sale that must go back."""

    async def read(sale):
        return {
            each.reference: each.reason
            for each in await external.page(after=0, due_only=True, limit=1_000)
            if each.sale_id == sale.sale_id
        }

    return read


def money_of(ledger):
    names = ("taken", "earned", "due back", "sent back")
    return tuple(ledger.lines[f"external {name}, cents"] for name in names)


async def topics(db, topic):
    """Return what the events under a topic say, oldest first."""
    async with db.acquire() as connection:
        events, _ = await event_outbox.oldest(connection, 10_000, 10_000)
    return [event.body for event in events if event.topic == topic]


async def test_a_reported_payment_pays_its_order_and_begins_what_follows(
    external, place, shop, db, assert_balanced
):
    sale, [order] = await place()
    report = report_of(order)
    outcome, payment = await external.take(report)
    assert (outcome, payment.state, payment.reason) == (ReportOutcome.NEW, "paid", None)
    assert await shop.states(sale, [order]) == ["paid"]
    ledger = await assert_balanced(sale)
    assert (await saga_of(db, order.order_id))[0] == "COMPLETED"
    assert (ledger.lines["sold"], ledger.lines["charged, cents"]) == (1, 1999)
    assert money_of(ledger) == (1999, 1999, 0, 0)

    # The same report again, days later, books nothing.
    assert (await external.take(report))[0] is ReportOutcome.KNOWN
    assert money_of(await assert_balanced(sale)) == (1999, 1999, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"amount_cents": 1998},
        {"currency": "USD"},
        {"order_id": "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"},
        {"paid_at": PAID_AT + timedelta(microseconds=1)},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_reference_means_one_report(external, place, change, verify):
    sale, [order] = await place()
    report = report_of(order)
    await external.take(report)
    other = report._replace(**change)
    outcome, payment = await external.take(other, is_unknown=True)
    assert (outcome, payment.amount_cents) == (ReportOutcome.REFERENCE_USED, 1999)
    assert money_of(await verify(sale)) == (1999, 1999, 0, 0)


async def test_money_that_cannot_pay_is_due_until_the_shop_sent_it_back(
    external, place, shop, db, due_of, assert_balanced
):
    sale, placed = await place(5)
    late, cancelled, cheap, foreign, paid = placed
    await shop.let_expire(late)
    await shop.release(cancelled)
    reports = {
        "too_late": report_of(late),
        "cancelled": report_of(cancelled),
        "wrong_amount": report_of(cheap, cents=1),
        "wrong_currency": report_of(foreign, currency="USD"),
        "paid": report_of(paid),
        "already_paid": report_of(paid),
    }
    for report in reports.values():
        await external.take(report)
    whys = {word: word for word in reports if word != "paid"} | {"cancelled": "too_late"}
    assert await due_of(sale) == {reports[word].reference: why for word, why in whys.items()}
    assert await shop.states(sale, [cheap, foreign, paid]) == ["pending", "pending", "paid"]
    await shop.return_all(sale)
    ledger = await assert_balanced(sale)
    assert money_of(ledger) == (3 * 1999 + 1 + 1999, 1999, 3 * 1999 + 1, 0)
    # No sum adds two currencies.
    assert ledger.lines["external due back, USD"] == 1999

    for report in reports.values():
        if report is not reports["paid"]:
            for _ in range(2):
                payment = await external.send_back(report.reference, actor="shop")
                assert payment.state == "refunded"
    assert await due_of(sale) == {}
    ledger = await assert_balanced(sale)
    assert money_of(ledger) == (4 * 1999 + 1, 1999, 0, 3 * 1999 + 1)
    audited = await db.fetchval(
        "SELECT count(*) FROM audit WHERE sale_id = $1 AND action = 'external_payment.refunded'",
        sale.sale_id,
    )
    assert audited == 5
    with pytest.raises(WrongState, match="refund the order first"):
        await external.send_back(reports["paid"].reference, actor="shop")
    with pytest.raises(Missing, match="no external payment nothing"):
        await external.send_back("nothing", actor="shop")
    with pytest.raises(Missing):
        await external.send_back(
            reports["too_late"].reference, actor="shop", order_id=paid.order_id
        )


async def test_each_change_of_money_that_must_go_back_is_an_event(external, place, shop, db):
    sale, [order] = await place()
    await shop.release(order)
    report = report_of(order)
    await external.take(report)
    await external.send_back(report.reference, actor="shop")
    for topic in ("payment.refund_due", "payment.refunded"):
        (body,) = [each for each in await topics(db, topic) if sale.sale_id.encode() in each]
        assert f'"reference":"{report.reference}"'.encode() in body
        assert b'"amount_cents":1999' in body
        assert b'"reason":"too_late"' in body


async def test_an_order_that_is_nowhere_is_money_that_must_go_back(external, shop, open_sale, db):
    sale = await open_sale()
    report = report_of(shop.wish(sale, payer()))
    assert await external.take(report) == (ReportOutcome.NO_ORDER, None)
    outcome, payment = await external.take(report, is_unknown=True)
    assert (outcome, payment.state, payment.reason) == (
        ReportOutcome.NEW,
        "refund_due",
        "unknown_order",
    )
    of_no_sale = report._replace(
        reference=new_reference(), order_id="aaaaaaaa-0000-4000-8000-000000000000", sale_id=None
    )
    _, payment = await external.take(of_no_sale, is_unknown=True)
    assert payment.state == "refund_due"
    await external.send_back(of_no_sale.reference, actor="shop")
    assert await db.fetchval("SELECT sum(cents) FROM entries") == 0


async def test_of_two_references_that_race_one_pays(external, place, due_of, assert_balanced):
    sale, placed = await place(10)
    reports = [report_of(order) for order in placed for _ in range(3)]
    taken = await asyncio.gather(*(external.take(report) for report in reports))
    paid = [payment.order_id for _, payment in taken if payment.state == "paid"]
    assert sorted(paid) == sorted(order.order_id for order in placed)
    assert list((await due_of(sale)).values()) == ["already_paid"] * 20
    assert money_of(await assert_balanced(sale)) == (30 * 1999, 10 * 1999, 20 * 1999, 0)


async def test_copies_of_a_report_that_race_book_it_once(external, place, assert_balanced):
    sale, placed = await place(5)
    reports = [report_of(order) for order in placed]
    taken = await asyncio.gather(*(external.take(report) for report in reports * 4))
    assert {payment.state for _, payment in taken} == {"paid"}
    assert [outcome for outcome, _ in taken].count(ReportOutcome.NEW) == 5
    assert money_of(await assert_balanced(sale)) == (5 * 1999, 5 * 1999, 0, 0)


async def test_one_reference_for_two_orders_is_booked_for_one(external, place, assert_balanced):
    sale, placed = await place(6)
    reference = new_reference()
    reports = [report_of(order, reference=reference) for order in placed]
    outcomes = [o for o, _ in await asyncio.gather(*map(external.take, reports))]
    assert sorted(outcomes) == [ReportOutcome.NEW] + [ReportOutcome.REFERENCE_USED] * 5
    assert money_of(await assert_balanced(sale)) == (1999, 1999, 0, 0)


async def test_a_report_that_races_the_end_of_its_order_has_one_outcome(
    external, place, shop, due_of, assert_balanced
):
    sale, placed = await place(20)
    taking = [external.take(report_of(order)) for order in placed]
    ending = [shop.release(order) for order in placed]
    await asyncio.gather(*(call for pair in zip(taking, ending, strict=True) for call in pair))
    states = await shop.states(sale, placed)
    assert set(states) <= {"paid", "cancelled buyer"}
    assert len(await due_of(sale)) == states.count("cancelled buyer")
    await shop.return_all(sale)
    await assert_balanced(sale)


async def test_while_another_payment_is_under_way_nothing_is_booked(
    external, place, checkout, verify
):
    sale, [order] = await place()
    call = checkout.call(order)
    await checkout.run("order", BranchOp.TRY, call)
    report = report_of(order)
    assert await external.take(report) == (ReportOutcome.PAYMENT_IN_PROGRESS, None)
    await checkout.run("order", BranchOp.CANCEL, call)
    assert (await external.take(report))[1].state == "paid"
    assert money_of(await verify(sale)) == (1999, 1999, 0, 0)


async def test_an_order_that_its_wallet_paid_is_not_paid_again(
    external, place, checkout, due_of, assert_balanced
):
    sale, [order] = await place()
    await checkout.give(order.buyer_id, 1999)
    assert (await checkout.pay(order)).confirmed
    report = report_of(order)
    await external.take(report)
    assert await due_of(sale) == {report.reference: "already_paid"}
    await assert_balanced(sale)


@pytest.mark.parametrize("by", ["operator", "saga"])
async def test_the_money_of_a_refunded_order_waits_for_the_shop(
    by, external, place, shop, db, due_of, assert_balanced
):
    sale, [order] = await place()
    report = report_of(order)
    if by == "saga":
        query = "INSERT INTO shipping_capacity (sale_id, units) VALUES ($1, 0)"
        await db.execute(query, sale.sale_id)
    await external.take(report)
    await FulfilmentWorker(db).run(sale.sale_id)
    if by == "operator":
        state = await refunds.refund(db, order.order_id, actor="ann", reason="broken zip")
        assert state == "refunding"
    (state,) = await shop.states(sale, [order])
    assert state.startswith("refunding")
    assert await due_of(sale) == {report.reference: "order_refunded"}
    assert await shop.inventory(sale) == (1, 0, 0)
    await shop.return_all(sale)
    assert money_of(await assert_balanced(sale)) == (1999, 0, 1999, 0)
    # The shop asks again what became of its payment: it has to act.
    assert (await external.take(report))[1].state == "refund_due"

    await external.send_back(report.reference, actor="shop")
    (state,) = await shop.states(sale, [order])
    assert state.startswith("refunded")
    ledger = await assert_balanced(sale)
    assert money_of(ledger) == (1999, 0, 0, 1999)
    assert ledger.lines["orders refunded"] == 1


async def test_a_held_order_outlives_its_window_once(external, place, shop, db, store, eventually):
    sale, [order] = await place(payment_window_s=1)
    first = await external.hold(order.order_id, HOLD_S)
    assert (first.why, first.amount_cents, first.currency) == (None, 1999, "EUR")

    async def is_over():
        query = "SELECT created_at + interval '1 second' < now() FROM orders WHERE order_id = $1"
        return await db.fetchval(query, order.order_id)

    await eventually(is_over, "the window is over")
    # A timer comes, of either kind, and the sweep looks: none of them ends the order.
    ids = [order.order_id]
    ended = await orders.release(db, ids, to_state="cancelled", reason="expired", overdue_only=True)
    assert ended == []
    await Sweep(store, db).run_once()
    assert await shop.states(sale, [order]) == ["pending"]
    # A second hold gives no more time.
    assert (await external.hold(order.order_id, 2 * HOLD_S)).pay_by == first.pay_by
    assert (await external.take(report_of(order)))[1].state == "paid"


@pytest.mark.parametrize("end", ["sweep", "timer", "buyer"])
async def test_a_hold_ends_as_usual(end, external, place, shop, db, store, due_of):
    sale, [order] = await place()
    await external.hold(order.order_id, HOLD_S)
    ids = [order.order_id]
    if end == "buyer":
        await shop.release(order)
    else:
        await db.execute(
            "UPDATE orders SET pay_by = now() - make_interval(secs => $2) WHERE order_id = $1",
            order.order_id,
            GRACE_S + 1,
        )
        assert (await external.hold(order.order_id, HOLD_S)).why == "expired"
        if end == "sweep":
            await Sweep(store, db).run_once()
        else:
            await orders.release(db, ids, to_state="cancelled", reason="expired", overdue_only=True)
    (state,) = await shop.states(sale, [order])
    assert state == ("cancelled buyer" if end == "buyer" else "cancelled expired")
    report = report_of(order)
    await external.take(report)
    assert await due_of(sale) == {report.reference: "too_late"}


async def test_only_what_can_be_paid_is_held(external, place, shop, checkout):
    sale, [paid, paying, gone] = await place(3)
    await external.take(report_of(paid))
    await checkout.run("order", BranchOp.TRY, checkout.call(paying))
    await shop.release(gone)
    held = [await external.hold(o.order_id, HOLD_S) for o in (paid, paying, gone)]
    assert [each.why for each in held] == ["paid", "payment_in_progress", "not_payable"]
    assert await external.hold(shop.wish(sale, payer()).order_id, HOLD_S) is None


async def test_a_restored_database_takes_the_payments_that_it_forgot(
    external, place, shop, db, assert_balanced
):
    """The shop reports them again; their orders may not have expired meanwhile."""
    sale, [order] = await place()
    await db.execute("INSERT INTO restored_sales (sale_id) VALUES ($1)", sale.sale_id)
    await shop.let_expire(order)
    assert (await external.take(report_of(order)))[1].state == "paid"
    await db.execute("DELETE FROM restored_sales WHERE sale_id = $1", sale.sale_id)
    await assert_balanced(sale)


async def test_pages_go_on_where_the_one_before_ended(external, shop, open_sale):
    sale = await open_sale()
    reports = [report_of(shop.wish(sale, payer())) for _ in range(5)]
    for report in reports:
        await external.take(report, is_unknown=True)
    await external.send_back(reports[1].reference, actor="shop")
    seen, after = [], 0
    while page := await external.page(after=after, due_only=True, limit=2):
        seen += [each.reference for each in page if each.sale_id == sale.sale_id]
        after = page[-1].number
    assert seen == [report.reference for report in reports if report is not reports[1]]


async def test_entries_that_are_not_as_reported_are_found(external, place, db, verify):
    sale, [order] = await place()
    report = report_of(order, cents=5)
    await external.take(report)
    await db.execute(
        "INSERT INTO entries (tx, kind, account, cents)"
        " VALUES ($1, 'sent_back', 'due_back', -5), ($1, 'sent_back', 'external', 5)",
        f"ext-{report.reference}",
    )
    ledger = await verify(sale)
    assert ledger.violations == [f"I8: external payments, not as booked: 1 ({report.reference})"]


@pytest.mark.parametrize("reference", ["", ".", "-x", "a b", "a/b", "é", "x" * 129, "a\n"])
async def test_no_row_has_a_reference_that_no_path_can_hold(external, place, reference):
    _, [order] = await place()
    with pytest.raises(asyncpg.CheckViolationError):
        await external.take(report_of(order)._replace(reference=reference))
