"""`seckill sale recover`: sales of which a restored PostgreSQL has forgotten something."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import typer
from rich.console import RenderableType

from ops.cli.console import Json, check_ids, show, table
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.consistency import charges, fencing
from seckill.consistency.charges import OrphanCharge
from seckill.consistency.fencing import FenceReason
from seckill.consistency.recovery import CardAccess, SaleRecovery, SaleRecoveryReport
from seckill.errors import SeckillError, UserMistake
from seckill.payments import fulfilment
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.card_payments import CardPayments
from seckill.transactions.log import TransactionLog


def recover(
    sale_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", callback=check_ids)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All sales that were fenced after a restore.")
    ] = False,
    give_back: Annotated[
        bool,
        typer.Option("--give-back", help="Reject the grabs without a row; else place them again."),
    ] = False,
    void: Annotated[
        bool, typer.Option("--void", help="Give back the money of charges without an order.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring together what a restored PostgreSQL forgot, name what is left, and sell again.

    Exit 1 while the money at the provider is not that of the paid orders.
    """
    if bool(sale_ids) == everything:
        raise UserMistake("give either sales or --all")
    done, failed = run(lambda s: _recover(s, sale_ids or [], give_back=give_back, void=void))
    lines = [line for report in done for line in _lines(report)]
    if not done and not failed:
        lines.append("no sale needs to be recovered")
    show({"recovered": done, "failed": failed}, as_json, *lines)
    if failed:
        raise SeckillError("; ".join(failed.values()))
    if any(report.orphans or report.unfunded for report in done):
        raise typer.Exit(1)


async def _recover(
    stores: Stores, sale_ids: list[str], *, give_back: bool, void: bool
) -> tuple[list[SaleRecoveryReport], dict[str, str]]:
    done: list[SaleRecoveryReport] = []
    failed: dict[str, str] = {}
    if not sale_ids:
        found = await fencing.needing_rebuild(stores.redis, stores.db)
        sale_ids = [s for s, reason in found.items() if reason is FenceReason.RESTORED]
    async with _cards(stores) as cards:
        work = SaleRecovery(stores.redis, stores.db, cards)
        for sale_id in sale_ids:
            try:
                actor = audit.operator_name()
                done.append(await work.run(sale_id, actor=actor, give_back=give_back, void=void))
            except SeckillError as error:  # one sale must not keep the others from selling
                failed[sale_id] = str(error)
    return done, failed


@asynccontextmanager
async def _cards(stores: Stores) -> AsyncIterator[CardAccess | None]:
    async with stores.provider() as provider:
        if provider is None:
            yield None
            return
        on_paid = partial(fulfilment.begin, TransactionLog(stores.db))
        payments = CardPayments(
            CardPaymentStore(stores.db, on_paid=on_paid),
            provider,
            call_timeout_s=stores.settings.provider_timeout_s,
            grace_s=stores.settings.payment_grace_s,
        )
        yield CardAccess(provider, payments)


def _lines(report: SaleRecoveryReport) -> Iterator[RenderableType]:
    state = f"{report.rebuilt.state} again" if report.rebuilt else "was not fenced"
    yield (
        f"sale {report.sale_id}: {state}, {len(report.placed)} orders placed again, "
        f"{len(report.rejected)} grabs rejected, {len(report.paid)} orders paid by their charges"
    )
    if not report.charges_compared:
        yield "the charges of a provider were not compared"
    for words, found in (("voided", report.voided), ("belong to no order", report.orphans)):
        if found:
            yield f"{len(found)} charges of {charges.total(found) / 100:.2f} {words}:"
            yield table("charge", "order", "cents", "status", rows=[_row(each) for each in found])
    if report.unfunded:
        yield (
            "paid here, and their money went back: "
            f"{', '.join(report.unfunded)}; repeat each refund: seckill refund ORDER --reason WHY"
        )
    if report.orphans:
        yield (
            "look at these orders, then give the money back: "
            f"seckill sale recover {report.sale_id} --void"
        )


def _row(charge: OrphanCharge) -> tuple[str, ...]:
    cents = "?" if charge.cents is None else str(charge.cents)
    return charge.key, charge.order_id, cents, charge.status
