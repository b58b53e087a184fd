"""The commands about sales: make and show them; tickets; the ledger."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ops.cli.stores import Json, SaleId, Stores, T, check_id, print_json, run
from ops.cli.tickets import ticket, token
from ops.cli.verify import verify
from seckill.auth import proof_of_work
from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason
from seckill.errors import Unavailable, UserMistake
from seckill.sales import sales
from seckill.sales.sales import PAYMENT_WINDOW_MAX_S, PRICE_CENTS_MAX, UNITS_MAX, NewSale, Sale

sale_app = typer.Typer(help="Make, run and show sales.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the `seckill` command."""
    app.add_typer(sale_app, name="sale")
    app.command()(ticket)
    app.command()(token)
    app.command()(verify)


@sale_app.command("create")
def create_sale(
    sale_id: SaleId,
    stock: Annotated[int, typer.Option(help="Units for sale.", min=1, max=UNITS_MAX)],
    price_cents: Annotated[
        int, typer.Option(help="Price of a unit, in cents.", min=0, max=PRICE_CENTS_MAX)
    ],
    per_order_max: Annotated[
        int, typer.Option(help="Units one order may take.", min=1, max=UNITS_MAX)
    ] = 1,
    opens_at: Annotated[
        str | None, typer.Option(help="ISO time, UTC without a zone; at once if not given.")
    ] = None,
    closes_at: Annotated[
        str | None, typer.Option(help="ISO time, UTC without a zone; never if not given.")
    ] = None,
    payment_window: Annotated[
        int,
        typer.Option(
            help="Seconds an unpaid order keeps its units.", min=1, max=PAYMENT_WINDOW_MAX_S
        ),
    ] = 900,
    proof_bits: Annotated[
        int,
        typer.Option(
            help="Work before a ticket, in leading zero bits; each one more doubles it. 0: none.",
            min=0,
            max=proof_of_work.BITS_MAX,
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Make a sale. Nobody can grab before it is opened."""
    new = NewSale(
        sale_id=sale_id,
        stock=stock,
        price_cents=price_cents,
        per_order_max=per_order_max,
        opens_at=_moment("--opens-at", opens_at),
        closes_at=_moment("--closes-at", closes_at),
        payment_window_s=payment_window,
        proof_bits=proof_bits,
    )
    show(run(lambda s: sales.create(s.db, s.stock, new)), as_json)


@sale_app.command("show")
def show_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Show one sale."""
    check_id(sale_id)
    sale, troubles = run(lambda s: _with_troubles(s, sales.find(s.db, sale_id), [sale_id]))
    if as_json:
        print_json(_plain(sale) | _needs(sale_id, troubles))
        return
    show(sale, as_json)
    _print_troubles(troubles)


@sale_app.command("list")
def list_sales(as_json: Json = False) -> None:
    """List all sales."""
    found, troubles = run(lambda s: _with_troubles(s, sales.all_sales(s.db), None))
    if as_json:
        print_json([_plain(sale) | _needs(sale.sale_id, troubles) for sale in found])
        return
    table = Table("sale", "state", "total", "price", "opens", "closes", "payment window")
    for sale in found:
        table.add_row(
            sale.sale_id,
            sale.state,
            str(sale.total),
            f"{sale.price_cents / 100:.2f}",
            str(sale.opens_at or "-"),
            str(sale.closes_at or "-"),
            f"{sale.payment_window_s} s",
        )
    Console().print(table)
    _print_troubles(troubles)


async def _with_troubles(
    stores: Stores, reading: Awaitable[T], sale_ids: list[str] | None
) -> tuple[T, dict[str, FenceReason] | None]:
    """Read sales, and which of them need a rebuild; None when Redis does not tell."""
    found = await reading
    try:
        return found, await fencing.needing_rebuild(stores.redis, stores.db, sale_ids)
    except Unavailable as error:
        typer.echo(f"seckill: {error}; so whether a rebuild is needed is not known", err=True)
        return found, None


def _needs(sale_id: str, troubles: dict[str, FenceReason] | None) -> dict[str, str | None]:
    return {"needs_rebuild": "unknown" if troubles is None else troubles.get(sale_id)}


def _print_troubles(troubles: dict[str, FenceReason] | None) -> None:
    for sale_id, trouble in (troubles or {}).items():
        typer.echo(fencing.advice(sale_id, trouble))


def show(sale: Sale, as_json: bool) -> None:
    """Print a sale, for people or for machines."""
    if as_json:
        print_json(_plain(sale))
        return
    window = "".join(
        f", {word} {moment.isoformat()}"
        for word, moment in (("opens", sale.opens_at), ("closes", sale.closes_at))
        if moment
    )
    Console().print(
        f"sale {sale.sale_id}: {sale.state}, {sale.total} units at {sale.price_cents / 100:.2f}, "
        f"{sale.payment_window_s} s to pay{window}",
        highlight=False,
        soft_wrap=True,
    )


def _plain(sale: Sale) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(sale).items()}


def _moment(option: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserMistake(
            f"{option} {text!r}: give an ISO time such as 2030-11-11T20:00:00+08:00"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
