"""`seckill sale`: make, change, open, close, pause, resume, restock, archive and show sales."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from ops.cli.console import Json, SaleId, check_ids, check_reason, show, table
from ops.cli.rate_limits import limit
from ops.cli.rebuild import rebuild
from ops.cli.recover import recover
from ops.cli.sale_check import check
from ops.cli.sale_tables import COLUMNS, Troubles, advice, described, row, with_need
from ops.cli.sale_terms import (
    ANNOUNCE_AT,
    CLOSES_AT,
    CURRENCY,
    METADATA,
    NAME,
    OPENS_AT,
    PAYMENT_WINDOW,
    PER_ORDER_MAX,
    PICTURE_URL,
    PRICE_CENTS,
    PROOF_BITS,
    SKU,
    STOCK,
    doubts_about_times,
    moment,
)
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.consistency import archive, fencing, preflight
from seckill.errors import Conflict, Missing, SeckillError, Unavailable, WrongState
from seckill.sales import drafts, listing, restock, sales, terms
from seckill.sales.description import parse_metadata
from seckill.sales.doubts import doubts_about
from seckill.sales.listing import SoldUnits
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale

sale_app = typer.Typer(help="Make, run and show sales.", no_args_is_help=True)


@sale_app.command("create")
def create_sale(
    sale_id: Annotated[str, typer.Argument(metavar="ID", help="The sale's id.")],
    stock: Annotated[int, STOCK],
    price_cents: Annotated[int, PRICE_CENTS],
    per_order_max: Annotated[int, PER_ORDER_MAX] = 1,
    opens_at: Annotated[str | None, OPENS_AT] = None,
    closes_at: Annotated[str | None, CLOSES_AT] = None,
    payment_window: Annotated[int, PAYMENT_WINDOW] = 900,
    proof_bits: Annotated[int, PROOF_BITS] = 0,
    name: Annotated[str | None, NAME] = None,
    sku: Annotated[str | None, SKU] = None,
    picture_url: Annotated[str | None, PICTURE_URL] = None,
    metadata: Annotated[str, METADATA] = "{}",
    hidden: Annotated[
        bool, typer.Option("--hidden", help="Hide it from buyers until `sale announce`.")
    ] = False,
    announce_at: Annotated[str | None, ANNOUNCE_AT] = None,
    currency: Annotated[str | None, CURRENCY] = None,
    as_json: Json = False,
) -> None:
    """Make a sale. No buyer sees it or can grab before it is opened."""
    opens, closes = moment("--opens-at", opens_at), moment("--closes-at", closes_at)
    announce = moment("--announce-at", announce_at)
    terms.check_times(opens, closes, announce)

    async def create(stores: Stores) -> Sale:
        new = NewSale(
            sale_id,
            stock,
            price_cents,
            per_order_max,
            opens,
            closes,
            payment_window,
            proof_bits,
            currency or stores.settings.currency,
            name=name,
            sku=sku,
            picture_url=picture_url,
            metadata=parse_metadata(metadata),
            hidden=hidden,
            announce_at=announce,
        )
        return await sales.create(stores.db, stores.stock, new, by=audit.operator_name())

    made = run(create)
    times = {"--opens-at": opens_at, "--closes-at": closes_at, "--announce-at": announce_at}
    _warn(doubts_about(made) + doubts_about_times(times))
    _show(made, as_json)


@sale_app.command("edit")
def edit_sale(
    sale_id: SaleId,
    stock: Annotated[int | None, STOCK] = None,
    price_cents: Annotated[int | None, PRICE_CENTS] = None,
    per_order_max: Annotated[int | None, PER_ORDER_MAX] = None,
    opens_at: Annotated[str | None, OPENS_AT] = None,
    closes_at: Annotated[str | None, CLOSES_AT] = None,
    payment_window: Annotated[int | None, PAYMENT_WINDOW] = None,
    proof_bits: Annotated[int | None, PROOF_BITS] = None,
    currency: Annotated[str | None, CURRENCY] = None,
    name: Annotated[str | None, NAME] = None,
    sku: Annotated[str | None, SKU] = None,
    picture_url: Annotated[str | None, PICTURE_URL] = None,
    metadata: Annotated[str | None, METADATA] = None,
    hidden: Annotated[
        bool | None, typer.Option("--hidden/--shown", help="Hide it from buyers, or do not.")
    ] = None,
    announce_at: Annotated[str | None, ANNOUNCE_AT] = None,
    as_json: Json = False,
) -> None:
    """Change or postpone a sale before it begins. An empty text takes one away."""
    times = {
        "opens_at": (opens_at, moment("--opens-at", opens_at)),
        "closes_at": (closes_at, moment("--closes-at", closes_at)),
        "announce_at": (announce_at, moment("--announce-at", announce_at)),
    }
    terms.check_times(**{name: at for name, (_, at) in times.items()})
    typed = {
        "stock": stock,
        "price_cents": price_cents,
        "per_order_max": per_order_max,
        "payment_window_s": payment_window,
        "proof_bits": proof_bits,
        "currency": currency,
        "metadata": None if metadata is None else parse_metadata(metadata or "{}"),
        "hidden": hidden,
    }
    changes: dict[str, object] = {name: value for name, value in typed.items() if value is not None}
    texts = {"name": name, "sku": sku, "picture_url": picture_url}
    changes |= {what: text or None for what, text in texts.items() if text is not None}
    # `--opens-at now` and `--closes-at never` change a time to none.
    changes |= {name: at for name, (text, at) in times.items() if text is not None}

    async def edit(stores: Stores) -> tuple[Sale, Sale]:
        was = await sales.find(stores.db, sale_id)
        by = audit.operator_name()
        return was, await drafts.edit(stores.db, stores.stock, sale_id, changes, by=by)

    was, changed = run(edit)
    options = {f"--{name.replace('_', '-')}": text for name, (text, _) in times.items()}
    _warn(doubts_about(changed, was) + doubts_about_times(options))
    _show(changed, as_json)


@sale_app.command("announce")
def announce_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers see a hidden sale, as soon as it is opened."""
    actor = audit.operator_name()
    _show(run(lambda s: sales.announce(s.db, sale_id, by=actor)), as_json)


@sale_app.command("delete")
def delete_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Remove a sale that has not begun."""
    actor = audit.operator_name()
    gone = run(lambda s: drafts.delete(s.db, s.stock, sale_id, actor=actor))
    show(gone, as_json, f"sale {sale_id}: deleted; it had not begun")


@sale_app.command("archive")
def archive_sales(
    sale_ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="The sales' ids.", callback=check_ids)
    ],
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Make closed, quiet sales history: their keys leave Redis, PostgreSQL keeps all."""
    check_reason(reason)
    done, failed = run(lambda s: _archive(s, sale_ids, reason))
    lines = [f"sale {sale.sale_id}: archived; PostgreSQL alone has it" for sale in done]
    show({"archived": done, "failed": failed}, as_json, *lines)
    if failed:
        raise SeckillError("; ".join(failed.values()))


@sale_app.command("show")
def show_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Show one sale."""

    async def look(stores: Stores) -> tuple[Sale, SoldUnits, Troubles]:
        sale = await sales.find(stores.db, sale_id)
        units = await listing.units_of(stores.db, [sale_id])
        return sale, units[sale_id], await _troubles(stores, [sale_id])

    sale, units, troubles = run(look)
    sold = f"sold {units.sold}, held {units.held}, left {units.left}"
    plain = with_need(sale, troubles) | units._asdict()
    show(plain, as_json, f"{described(sale)}; {sold}", *advice(troubles))


@sale_app.command("list")
def list_sales(
    all_: Annotated[bool, typer.Option("--all", help="Also the archived ones.")] = False,
    limit: Annotated[int, typer.Option(help="Show so many, the newest first.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List sales, the newest first, with what was sold, is held by unpaid orders, and is left."""
    found, units, troubles = run(lambda s: _listed(s, limit, archived=all_))
    rows = [row(sale, units[sale.sale_id]) for sale in found[:limit]]
    more = f"older sales are left out; show more: --limit {limit * 10}" if found[limit:] else None
    plain = [with_need(sale, troubles) | units[sale.sale_id]._asdict() for sale in found[:limit]]
    show(plain, as_json, table(*COLUMNS, rows=rows, caption=more), *advice(troubles))


@sale_app.command("open")
def open_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers in (from --opens-at on). Opening again never resets the stock."""

    async def open_(stores: Stores) -> Sale:
        settings, sale = stores.settings, await sales.find(stores.db, sale_id)
        broker = stores.broker("seckill-preflight")
        checks = preflight.Preflight(stores.redis, stores.db, broker, settings.timeouts)
        only_warn = settings.preflight == "warn"
        _warn(await preflight.require(checks, sale, only_warn=only_warn))
        if sale.is_hidden(datetime.now(UTC)) and not sale.announce_at:
            _warn([f"buyers do not see it yet; let them: seckill sale announce {sale_id}"])
        return await sales.open_(stores.db, stores.stock, sale_id, by=audit.operator_name())

    _show(run(open_), as_json)


@sale_app.command("close")
def close_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let no new buyer in. Orders live on."""
    _show(run(lambda s: sales.close(s.db, s.stock, sale_id, by=audit.operator_name())), as_json)


@sale_app.command("pause")
def pause_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let no new buyer in for a while. Orders live on; `resume` lets buyers in again."""
    _show(run(lambda s: sales.pause(s.db, s.stock, sale_id, by=audit.operator_name())), as_json)


@sale_app.command("resume")
def resume_sale(sale_id: SaleId, as_json: Json = False) -> None:
    """Let buyers into a paused sale again."""
    _show(run(lambda s: sales.resume(s.db, s.stock, sale_id, by=audit.operator_name())), as_json)


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


sale_app.command("check")(check)
sale_app.command("limit")(limit)
sale_app.command("rebuild")(rebuild)
sale_app.command("recover")(recover)


async def _listed(
    stores: Stores, limit: int, *, archived: bool
) -> tuple[list[Sale], dict[str, SoldUnits], Troubles]:
    """Read one sale more than the limit, which says that there are more."""
    found = await listing.newest(stores.db, limit=limit + 1, archived=archived)
    ids = [sale.sale_id for sale in found[:limit]]
    return found, await listing.units_of(stores.db, ids), await _troubles(stores, ids)


async def _archive(
    stores: Stores, sale_ids: list[str], reason: str
) -> tuple[list[Sale], dict[str, str]]:
    done: list[Sale] = []
    failed: dict[str, str] = {}
    actor = audit.operator_name()
    for sale_id in sale_ids:
        try:
            done.append(
                await archive.archive(stores.redis, stores.db, sale_id, actor=actor, reason=reason)
            )
        except (Conflict, Missing, WrongState) as error:  # the others can be archived all the same
            failed[sale_id] = str(error)
    return done, failed


async def _troubles(stores: Stores, sale_ids: list[str]) -> Troubles:
    """Read which sales need a rebuild; None when Redis is unavailable."""
    try:
        return await fencing.needing_rebuild(stores.redis, stores.db, sale_ids)
    except Unavailable as error:
        said = str(error).removesuffix(".")  # Redis ends its lines with a full stop
        typer.echo(f"seckill: {said}; so whether a rebuild is needed is not known", err=True)
        return None


def _warn(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"seckill: warning: {line}", err=True)


def _show(sale: Sale, as_json: bool) -> None:
    show(sale, as_json, described(sale))
