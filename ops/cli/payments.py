"""The commands about money: wallets and coupons for development, and refunds."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ops.cli.console import BuyerId, Json, check_optional_id, check_order_id, check_reason, show
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.currencies import amount_text
from seckill.errors import UserMistake
from seckill.payments import refunds, wallets
from seckill.payments.card_payment_store import CardPaymentStore, OpenCardPayment
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import CENTS_MAX, Coupon, TopUp, Wallet
from seckill.tracing import order_traces
from seckill.tracing.starting import tracing

#: Beyond that the metric has their number.
LISTED_MAX = 1_000


def wallet(
    buyer_id: BuyerId,
    add: Annotated[int, typer.Option(help="Put in so many cents first.", min=0, max=CENTS_MAX)] = 0,
    as_json: Json = False,
) -> None:
    """Show a buyer's wallet, or put money in: a shop has its own way to be paid."""

    async def change(stores: Stores) -> tuple[Wallet, str]:
        if add:
            await wallets.top_up(stores.db, [TopUp(new_tx_id(), buyer_id, add)])
        return await wallets.find_wallet(stores.db, buyer_id), stores.settings.currency

    found, currency = run(change)
    available = amount_text(found.available_cents, currency)
    frozen = amount_text(found.frozen_cents, currency)
    show(found, as_json, f"wallet of {buyer_id}: {available} available, {frozen} frozen")


def coupon(
    buyer_id: BuyerId,
    add: Annotated[
        str | None, typer.Option(help="Hand out one with this id.", callback=check_optional_id)
    ] = None,
    cents: Annotated[int | None, typer.Option(help="Its worth.", min=1, max=CENTS_MAX)] = None,
    as_json: Json = False,
) -> None:
    """List a buyer's coupons, or hand one out with --add ID --cents N."""
    if (add is None) != (cents is None):
        raise UserMistake("--add and --cents go together")

    async def change(stores: Stores) -> tuple[list[Coupon], str]:
        if add is not None and cents is not None:
            new = Coupon(add, buyer_id, cents)
            if not await wallets.issue_coupons(stores.db, [new]):
                raise UserMistake(f"there is a coupon {add} already; give another id")
        return await wallets.coupons_of(stores.db, buyer_id), stores.settings.currency

    found, currency = run(change)
    lines = (
        f"{each.coupon_id:<24}{amount_text(each.cents, currency):>16}  {each.state}"
        for each in found
    )
    show(found, as_json, *lines)


def refund(
    order_id: Annotated[
        str,
        typer.Argument(metavar="ORDER", help="The order's id.", callback=check_order_id),
    ],
    reason: Annotated[str, typer.Option(help="Why; the buyer reads it, and the audit keeps it.")],
    amount_cents: Annotated[
        int | None,
        typer.Option(help="Only so much of the money; the order stays paid.", min=1, max=CENTS_MAX),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="With --amount-cents: a repeat with this key gives nothing more back."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a paid order back: its units are for sale again; money and coupon go back."""
    check_reason(reason)
    actor = audit.operator_name()
    if amount_cents is not None:
        _refund_part(order_id, amount_cents, key or new_tx_id(), reason, as_json=as_json)
        return
    if key is not None:
        raise UserMistake("--key goes with --amount-cents")

    async def refund_traced(stores: Stores) -> str:
        start_ns = time.time_ns()
        with tracing(stores.settings, "command"):
            state = await refunds.refund(stores.db, order_id, actor=actor, reason=reason)
            await order_traces.record(stores.db, "refund by an operator", [order_id], start_ns)
        return state

    state = run(refund_traced)
    more = "" if state == "refunded" else ": its money is still to go back"
    show({"order_id": order_id, "status": state}, as_json, f"order {order_id} is {state}{more}")


def _refund_part(order_id: str, cents: int, key: str, reason: str, *, as_json: bool) -> None:
    actor = audit.operator_name()
    state = run(
        lambda s: refunds.refund_part(s.db, order_id, cents, key=key, actor=actor, reason=reason)
    )
    words = {
        "done": "its money is back",
        "begun": "the provider is told to give it back",
        "refused": "the provider does not give it back",
    }
    plain = {"order_id": order_id, "key": key, "cents": cents, "status": state}
    show(plain, as_json, f"order {order_id}: part {key} of {cents} cents: {words[state]}")


def unknown_payments(
    ask_now: Annotated[
        bool, typer.Option("--ask-now", help="Ask about all of them at once; waits are over.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the card payments that the provider is still to be asked about, oldest first."""

    async def look(stores: Stores) -> list[OpenCardPayment]:
        payments = CardPaymentStore(stores.db)
        if ask_now:
            await payments.ask_all_now(actor=audit.operator_name())
        return await payments.open_payments(LISTED_MAX)

    found = run(look)
    lines = (
        f"{each.tx_id:<36}{each.state:<12}{amount_text(each.cents, each.currency):>14}  "
        f"for {each.age_s:,.0f} s, asked {each.asks} times, said: {each.said or 'nothing'}"
        for each in found
    )
    show([each._asdict() for each in found], as_json, *lines)
