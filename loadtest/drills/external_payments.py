"""`python -m loadtest.drills.external_payments`: payments of the shop's own checkout, and kills.

The shop takes money for orders: some late, some twice, some of the wrong amount, and for some
orders that never were. Its calls are lost and repeated. Meanwhile a gateway and two consumers are
killed (SIGKILL) at random points, and started again. In the end every cent has to be where the
shop's own record says, and the list of what must go back has to be the shop's own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer
from aiohttp import ClientSession, ClientTimeout

from loadtest.drills.buyers import for_each, place_orders
from loadtest.drills.kills import BUYERS_AT_ONCE, CONSUMERS, KillPoints
from loadtest.drills.shop_checkout import ShopCheckout, ShopPayment, chance
from loadtest.findings import (
    AsJson,
    Finding,
    all_of,
    counts_text,
    ledger_finding,
    none_of,
    progress,
    report,
)
from loadtest.stack import NO_SHEDDING, BenchStack, bench_stack
from seckill.consistency.verify import Ledger
from seckill.order_ids import new_order_id
from seckill.sales.sales import Sale

#: Shares of the payments.
LATE, TWICE, WRONG, UNKNOWN = 0.10, 0.05, 0.05, 0.01
#: Shares: of orders that are kept while their buyer is at the bank, and of the money that must go
#: back that the shop sends back at once.
HELD, SENT_BACK = 0.2, 0.5
#: Late orders have this payment window, which is over before the shop reports their payments.
LATE_WINDOW_S = 2
#: The sale is open for longer than any run.
WINDOW_S = 3_600


class PaymentCase(StrEnum):
    """What is odd about a payment."""

    RIGHT = "right"
    LATE = "late"
    TWICE = "twice"
    WRONG = "wrong amount"
    UNKNOWN = "unknown order"


class OrderToPay(NamedTuple):
    """An order, and how the shop is to pay it."""

    order_id: str
    cents: int
    case: PaymentCase


def main(
    payments: Annotated[int, typer.Option(help="Payments of the shop.", min=20)] = 5_000,
    kills: Annotated[int, typer.Option(help="Points at which to kill.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Take payments at the shop's own checkout while processes are killed."""
    if kills > payments:
        raise typer.BadParameter("at most one for each payment", param_hint="--kills")
    with progress(hidden=as_json) as bars:
        task = bars.add_task("payments", total=payments)
        findings = asyncio.run(_drill(payments, kills, lambda: bars.advance(task)))
    report(findings, as_json)


async def _drill(payments: int, kills: int, advance: Callable[[], None]) -> list[Finding]:
    async with bench_stack() as stack:
        return await play(stack, payments, kills, advance)


async def play(
    stack: BenchStack, payments: int, kills: int, advance: Callable[[], None] = lambda: None
) -> list[Finding]:
    """Play the drill on a stack; return what it found."""
    gateway = await stack.run("gateway", **NO_SHEDDING)
    for _ in range(CONSUMERS):
        await stack.run("consumers")
    sales, to_pay = await _orders_to_pay(stack, gateway.url, payments)
    points = KillPoints(len(to_pay), kills)
    async with ClientSession(gateway.url, timeout=ClientTimeout(total=5)) as http:
        shop = ShopCheckout(http, stack.key_ring("shop_keys"), sales[0].sale_id)
        taken: dict[PaymentCase, list[list[ShopPayment]]] = {case: [] for case in PaymentCase}

        async def pay(order: OrderToPay) -> None:
            await points.begin_payment()
            taken[order.case].append(await _pay(shop, order))
            advance()

        paying = asyncio.create_task(for_each(to_pay, pay, BUYERS_AT_ONCE))
        killing = asyncio.create_task(points.kill_all(stack.children))
        # What fails first is raised: a shop that is refused would let the kills wait for ever.
        await asyncio.wait({paying, killing}, return_when=asyncio.FIRST_EXCEPTION)
        if paying.done():
            await paying
        killed = await killing
        await paying
        due = await shop.read_due()
    ledgers = [await stack.verify(sale) for sale in sales]
    return [
        Finding("killed", counts_text(killed)),
        *_answers(taken),
        none_of("copies of a call with different answers", shop.contradictions),
        *await _compared(stack, sales, shop.payments.values(), due),
        *_explained(shop.payments.values(), ledgers),
        *map(ledger_finding, ledgers),
    ]


async def _orders_to_pay(
    stack: BenchStack, url: str, payments: int
) -> tuple[list[Sale], list[OrderToPay]]:
    """Place orders in two sales, of which one has a payment window that is over soon."""
    late, twice = int(payments * LATE), int(payments * TWICE)
    wrong, unknown = int(payments * WRONG), max(1, int(payments * UNKNOWN))
    right = payments - late - 2 * twice - wrong - unknown  # two payments for each of `twice`
    sale = await stack.open_sale(units=right + twice + wrong, payment_window_s=WINDOW_S)
    short = await stack.open_sale(units=late, payment_window_s=LATE_WINDOW_S)
    ids = list((await place_orders(stack, url, sale, sale.total)).values())
    placed = await _place_short(stack, url, short)
    cases = [PaymentCase.RIGHT] * right + [PaymentCase.TWICE] * twice + [PaymentCase.WRONG] * wrong
    to_pay = [OrderToPay(i, sale.price_cents, case) for i, case in zip(ids, cases, strict=True)]
    to_pay += [OrderToPay(i, short.price_cents, PaymentCase.LATE) for i in placed]
    to_pay += [
        OrderToPay(new_order_id(sale.number), sale.price_cents, PaymentCase.UNKNOWN)
        for _ in range(unknown)
    ]
    chance.shuffle(to_pay)
    return [sale, short], to_pay


async def _place_short(stack: BenchStack, url: str, sale: Sale) -> list[str]:
    """Place orders; return their ids once the time to pay is over for all of them.

    Some have ended by then: an order is placed when it has a row, in whatever state.
    """
    ids = await place_orders(stack, url, sale, sale.total, complete=_ALL_PLACED)
    over = "SELECT max(pay_by) < now() FROM orders WHERE sale_id = $1"
    await stack.until(over, sale, "orders have time to pay for too long")
    return list(ids.values())


_ALL_PLACED = (
    "SELECT (SELECT count(*) FROM orders WHERE sale_id = $1) >= total"
    " FROM inventory WHERE sale_id = $1"
)


async def _pay(shop: ShopCheckout, order: OrderToPay) -> list[ShopPayment]:
    """Take the money for an order as its case says, and send some of it back."""
    if order.case is PaymentCase.RIGHT and chance.random() < HELD:
        await shop.begin(order.order_id)
    cents = order.cents - 1 if order.case is PaymentCase.WRONG else order.cents
    times = 2 if order.case is PaymentCase.TWICE else 1
    taken = await asyncio.gather(*(shop.take(order.order_id, cents) for _ in range(times)))
    for payment in taken:
        if payment.status == "refund_due" and chance.random() < SENT_BACK:
            await shop.send_back(payment)
    return list(taken)


def _answers(taken: dict[PaymentCase, list[list[ShopPayment]]]) -> list[Finding]:
    """Compare what each case was answered with what it must be."""
    expected = {
        PaymentCase.RIGHT: [None],
        PaymentCase.LATE: ["too_late"],
        PaymentCase.TWICE: [None, "already_paid"],
        PaymentCase.WRONG: ["wrong_amount"],
        PaymentCase.UNKNOWN: ["unknown_order"],
    }
    findings = []
    for case, orders in taken.items():
        answers = Counter(payment.reason or "paid" for each in orders for payment in each)
        right = all(
            sorted(payment.reason or "" for payment in each)
            == sorted(word or "" for word in expected[case])
            for each in orders
        )
        promised = ", ".join(word or "paid" for word in expected[case])
        findings.append(Finding(f"{case}: answers", counts_text(answers), promised, right))
    return findings


async def _compared(
    stack: BenchStack, sales: list[Sale], payments: Iterable[ShopPayment], due: dict[str, int]
) -> list[Finding]:
    """Compare the orders and the list of what must go back with the shop's own record."""
    query = "SELECT order_id::text FROM orders WHERE sale_id = ANY ($1) AND state = 'paid'"
    ids = {row[0] for row in await stack.db.fetch(query, [sale.sale_id for sale in sales])}
    delivered = {payment.order_id for payment in payments if payment.status == "paid"}
    owed = {each.reference: each.cents for each in payments if each.status == "refund_due"}
    balance = await stack.db.fetchval("SELECT sum(cents)::bigint FROM entries")
    return [
        none_of("orders paid for one side alone", len(ids ^ delivered)),
        all_of("must go back by the gateway's list, payments", len(due), len(owed)),
        all_of("and cents", sum(due.values()), sum(owed.values())),
        none_of("payments on one of the two lists alone", len(due.items() ^ owed.items())),
        Finding("sum of all entries", f"{balance} cents", "0 cents", balance == 0),
    ]


def _explained(payments: Iterable[ShopPayment], ledgers: list[Ledger]) -> list[Finding]:
    """Compare where the cents are by the ledgers and by the shop."""
    shop: Counter[str] = Counter()
    for payment in payments:
        shop["taken"] += payment.cents
        shop[payment.status] += payment.cents
    names = {"taken": "taken", "earned": "paid", "due back": "refund_due", "sent back": "refunded"}
    return [
        all_of(
            f"{name}, cents",
            sum(ledger.lines.get(f"external {name}, cents", 0) for ledger in ledgers),
            shop[status],
        )
        for name, status in names.items()
    ]


if __name__ == "__main__":
    typer.run(main)
