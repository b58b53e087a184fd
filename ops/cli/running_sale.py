"""`seckill sale open|close|pause|resume|restock`: what is done to a sale once it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from config.settings import load_settings
from ops.cli.sales import sale_app, show
from ops.cli.stores import Json, SaleId, Stores, check_id, run
from seckill import audit
from seckill.adapters.rabbitmq import Broker
from seckill.consistency import preflight
from seckill.sales import sales
from seckill.sales.restock import restock
from seckill.sales.sales import Sale


def register() -> None:
    """Add these commands to `seckill sale`."""
    sale_app.command("open")(open_sale)
    sale_app.command("close")(close_sale)
    sale_app.command("pause")(pause_sale)
    sale_app.command("resume")(resume_sale)
    sale_app.command("restock")(restock_sale)


def open_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers in (from --opens-at on). Opening again never resets the stock."""
    check_id(sale_id)
    settings = load_settings()
    broker = Broker(settings.amqp_url, "seckill-preflight", settings.connect_timeout_s)

    async def open_(stores: Stores) -> Sale:
        sale = await sales.find(stores.db, sale_id)
        checks = preflight.Preflight(stores.redis, stores.db, broker, settings.timeouts)
        only_warn = settings.preflight == "warn"
        for warning in await preflight.require(checks, sale, only_warn=only_warn):
            typer.echo(f"seckill: warning: {warning}", err=True)
        return await sales.open_(stores.db, stores.stock, sale_id)

    show(run(open_), as_json)


def close_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let nobody new in. Orders live on."""
    check_id(sale_id)
    show(run(lambda s: sales.close(s.db, s.stock, sale_id)), as_json)


def pause_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let nobody new in for a while. Orders live on; `resume` lets buyers in again."""
    check_id(sale_id)
    show(run(lambda s: sales.pause(s.db, s.stock, sale_id)), as_json)


def resume_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers into a paused sale again."""
    check_id(sale_id)
    show(run(lambda s: sales.resume(s.db, s.stock, sale_id)), as_json)


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
    check_id(sale_id)

    async def restock_(stores: Stores) -> Sale:
        return await restock(
            stores.db,
            stores.stock,
            sale_id,
            units,
            actor=audit.operator_name(),
            reason=reason,
            from_total=from_total,
        )

    show(run(restock_), as_json)
