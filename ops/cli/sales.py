"""`seckill sale`: make, open, close, pause, resume, restock and show sales."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from ops.cli.console import Json, SaleId, show, table
from ops.cli.rate_limits import limit
from ops.cli.rebuild import rebuild
from ops.cli.recover import recover
from ops.cli.stores import Stores, T, run
from seckill import audit
from seckill.auth import proof_of_work
from seckill.consistency import fencing, preflight
from seckill.consistency.fencing import FenceReason
from seckill.errors import Unavailable, UserMistake
from seckill.sales import restock, sales
from seckill.sales.sales import PAYMENT_WINDOW_MAX_S, PRICE_CENTS_MAX, UNITS_MAX, NewSale, Sale

sale_app = typer.Typer(help="Make, run and show sales.", no_args_is_help=True)


@sale_app.command("create")
def create_sale(
    sale_id: Annotated[str, typer.Argument(metavar="ID", help="The sale's id.")],
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
    opens, closes = _moment("--opens-at", opens_at), _moment("--closes-at", closes_at)
    new = NewSale(
        sale_id, stock, price_cents, per_order_max, opens, closes, payment_window, proof_bits
    )
    _show(run(lambda s: sales.create(s.db, s.stock, new)), as_json)


@sale_app.command("show")
def show_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Show one sale."""
    sale, troubles = run(lambda s: _with_troubles(s, sales.find(s.db, sale_id), [sale_id]))
    show(_with_need(sale, troubles), as_json, _line(sale), *_advice(troubles))


@sale_app.command("list")
def list_sales(as_json: Json = False) -> None:
    """List all sales."""
    found, troubles = run(lambda s: _with_troubles(s, sales.all_sales(s.db), None))
    rows = [
        (
            sale.sale_id,
            sale.state,
            str(sale.total),
            f"{sale.price_cents / 100:.2f}",
            str(sale.opens_at or "-"),
            str(sale.closes_at or "-"),
            f"{sale.payment_window_s} s",
        )
        for sale in found
    ]
    columns = ("sale", "state", "total", "price", "opens", "closes", "payment window")
    plain = [_with_need(sale, troubles) for sale in found]
    show(plain, as_json, table(*columns, rows=rows), *_advice(troubles))


@sale_app.command("open")
def open_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers in (from --opens-at on). Opening again never resets the stock."""

    async def open_(stores: Stores) -> Sale:
        settings, sale = stores.settings, await sales.find(stores.db, sale_id)
        broker = stores.broker("seckill-preflight")
        checks = preflight.Preflight(stores.redis, stores.db, broker, settings.timeouts)
        only_warn = settings.preflight == "warn"
        for warning in await preflight.require(checks, sale, only_warn=only_warn):
            typer.echo(f"seckill: warning: {warning}", err=True)
        return await sales.open_(stores.db, stores.stock, sale_id)

    _show(run(open_), as_json)


@sale_app.command("close")
def close_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let nobody new in. Orders live on."""
    _show(run(lambda s: sales.close(s.db, s.stock, sale_id)), as_json)


@sale_app.command("pause")
def pause_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let nobody new in for a while. Orders live on; `resume` lets buyers in again."""
    _show(run(lambda s: sales.pause(s.db, s.stock, sale_id)), as_json)


@sale_app.command("resume")
def resume_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers into a paused sale again."""
    _show(run(lambda s: sales.resume(s.db, s.stock, sale_id)), as_json)


@sale_app.command("restock")
def restock_sale(
    sale_id: SaleId,
    units: Annotated[
        int, typer.Option(help="Units to add; below 0, unsold units to take out of the sale.")
    ],
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")],
    from_total: Annotated[
        int | None,
        typer.Option(help="Do it only if the sale has this many units: a repeat is then safe."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Change the units of a sale that was opened."""
    why = {"actor": audit.operator_name(), "reason": reason}
    _show(
        run(lambda s: restock.restock(s.db, s.stock, sale_id, units, from_total=from_total, **why)),
        as_json,
    )


sale_app.command("limit")(limit)
sale_app.command("rebuild")(rebuild)
sale_app.command("recover")(recover)


async def _with_troubles(
    stores: Stores, reading: Awaitable[T], sale_ids: list[str] | None
) -> tuple[T, dict[str, FenceReason] | None]:
    """Read sales, and which of them need a rebuild; None when Redis is unavailable."""
    found = await reading
    try:
        return found, await fencing.needing_rebuild(stores.redis, stores.db, sale_ids)
    except Unavailable as error:
        typer.echo(f"seckill: {error}; so whether a rebuild is needed is not known", err=True)
        return found, None


def _with_need(sale: Sale, troubles: dict[str, FenceReason] | None) -> dict[str, object]:
    need = "unknown" if troubles is None else troubles.get(sale.sale_id)
    return asdict(sale) | {"needs_rebuild": need}


def _advice(troubles: dict[str, FenceReason] | None) -> list[str]:
    return [fencing.advice(sale_id, reason) for sale_id, reason in (troubles or {}).items()]


def _show(sale: Sale, as_json: bool) -> None:
    show(sale, as_json, _line(sale))


def _line(sale: Sale) -> str:
    opens = f", opens {sale.opens_at.isoformat()}" if sale.opens_at else ""
    closes = f", closes {sale.closes_at.isoformat()}" if sale.closes_at else ""
    return (
        f"sale {sale.sale_id}: {sale.state}, {sale.total} units at {sale.price_cents / 100:.2f}, "
        f"{sale.payment_window_s} s to pay{opens}{closes}"
    )


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
