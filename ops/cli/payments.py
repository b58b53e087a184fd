"""The commands about money: wallets and coupons for development, and refunds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import asyncpg
import typer

from config.settings import load_settings
from ops.cli.stores import Json, check_id, open_stores
from seckill import audit
from seckill.errors import UserMistake
from seckill.order_ids import PATTERN
from seckill.payments import refunds, wallets
from seckill.payments.card_payment_store import CardPaymentStore, OpenCardPayment
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import CENTS_MAX, Coupon, TopUp, Wallet

T = TypeVar("T")

#: Beyond that the metric says how many there are.
LISTED_MAX = 1_000

BuyerId = Annotated[str, typer.Argument(metavar="BUYER", help="The buyer's id.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the `seckill` command."""
    app.command()(wallet)
    app.command()(coupon)
    app.command()(refund)
    app.command("unknown-payments")(unknown)


def wallet(
    buyer_id: BuyerId,
    add: Annotated[int, typer.Option(help="Put in so many cents first.", min=0, max=CENTS_MAX)] = 0,
    as_json: Json = False,
) -> None:
    """Show a buyer's wallet, or put money in: a shop has its own way to be paid."""
    check_id(buyer_id)

    async def change(db: asyncpg.Pool) -> Wallet:
        if add:
            await wallets.top_up(db, [TopUp(new_tx_id(), buyer_id, add)])
        return await wallets.find_wallet(db, buyer_id)

    found = _run(change)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo(
        f"wallet of {buyer_id}: {found.available_cents / 100:.2f} available, "
        f"{found.frozen_cents / 100:.2f} frozen"
    )


def coupon(
    buyer_id: BuyerId,
    add: Annotated[str | None, typer.Option(help="Hand out one with this id.")] = None,
    cents: Annotated[int | None, typer.Option(help="Its worth.", min=1, max=CENTS_MAX)] = None,
    as_json: Json = False,
) -> None:
    """List a buyer's coupons, or hand one out with --add ID --cents N."""
    check_id(buyer_id)
    if (add is None) != (cents is None):
        raise UserMistake("--add and --cents go together")
    if add is not None:
        check_id(add)

    async def change(db: asyncpg.Pool) -> list[Coupon]:
        if add is not None and cents is not None:
            new = Coupon(add, buyer_id, cents)
            if not await wallets.issue_coupons(db, [new]):
                raise UserMistake(f"there is a coupon {add} already; give another id")
        return await wallets.coupons_of(db, buyer_id)

    found = _run(change)
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found]))
        return
    for each in found:
        typer.echo(f"{each.coupon_id:<24}{each.cents / 100:>12.2f}  {each.state}")


def refund(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")],
    reason: Annotated[str, typer.Option(help="Why; the buyer reads it, and the audit keeps it.")],
    as_json: Json = False,
) -> None:
    """Take a paid order back: its units are for sale again; money and coupon go back."""
    order_id = order_id.lower()
    if not PATTERN.match(order_id):
        raise UserMistake(f"{order_id!r} is not an order id of this shop")
    if not reason.strip():
        raise UserMistake("--reason: say why")

    async def take_back(db: asyncpg.Pool) -> str:
        return await refunds.refund(db, order_id, actor=audit.operator_name(), reason=reason)

    state = _run(take_back)
    if as_json:
        typer.echo(json.dumps({"order_id": order_id, "status": state}))
    elif state == "refunded":
        typer.echo(f"order {order_id} is refunded")
    else:
        typer.echo(f"order {order_id} is {state}: the provider is told to give the money back")


def unknown(
    ask_now: Annotated[
        bool, typer.Option("--ask-now", help="Ask about all of them at once; waits are over.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the card payments that the provider is still to be asked about, oldest first."""

    async def look(db: asyncpg.Pool) -> list[OpenCardPayment]:
        books = CardPaymentStore(db)
        if ask_now:
            await books.ask_all_now()
        return await books.open_payments(LISTED_MAX)

    found = _run(look)
    if as_json:
        typer.echo(json.dumps([each._asdict() for each in found]))
        return
    for each in found:
        typer.echo(
            f"{each.tx_id:<36}{each.state:<12}{each.cents / 100:>10.2f}  for {each.age_s:,.0f} s, "
            f"asked {each.asks} times, said: {each.said or 'nothing'}"
        )


def _run(work: Callable[[asyncpg.Pool], Awaitable[T]]) -> T:
    async def go() -> T:
        async with open_stores(load_settings()) as stores:
            return await work(stores.db)

    return asyncio.run(go())
