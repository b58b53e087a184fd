"""The commands about sales: make and show them; tickets; the ledger."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from config.settings import BadSettings, Settings, load_settings
from seckill import database, fencing, ledger, logins, proofs, redis_client, sales, tickets
from seckill.errors import Unavailable, UserMistake
from seckill.fencing import Trouble
from seckill.keyring import KeyRing
from seckill.sales import PAYMENT_WINDOW_MAX_S, PRICE_CENTS_MAX, UNITS_MAX, NewSale, Sale
from seckill.stock import Stock

T = TypeVar("T")

#: Some commands ask Redis within a transaction, which PostgreSQL ends after five idle seconds: its
#: complaint about that would hide that it is Redis that does not answer.
REDIS_S = 3.0

sale_app = typer.Typer(help="Make, run and show sales.", no_args_is_help=True)

SaleId = Annotated[str, typer.Argument(metavar="ID", help="The sale's id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the `seckill` command."""
    app.add_typer(sale_app, name="sale")
    app.command()(ticket)
    app.command()(token)
    app.command()(verify)


@dataclass(frozen=True, slots=True)
class Stores:
    """What these commands talk to."""

    redis: Redis
    stock: Stock
    db: asyncpg.Pool


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open Redis and PostgreSQL for one command."""
    settings.require_stores()
    redis = redis_client.connect(settings.redis_url, timeout_s=REDIS_S)
    try:
        async with database.connect(
            settings.postgres_dsn, size=2, timeout_s=settings.connect_timeout_s
        ) as db:
            yield Stores(redis, Stock(redis), db)
    finally:
        await redis.aclose()


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
            max=proofs.BITS_MAX,
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
        _print_json(_plain(sale) | _needs(sale_id, troubles))
        return
    show(sale, as_json)
    _print_troubles(troubles)


@sale_app.command("list")
def list_sales(as_json: Json = False) -> None:
    """List all sales."""
    found, troubles = run(lambda s: _with_troubles(s, sales.all_sales(s.db), None))
    if as_json:
        _print_json([_plain(sale) | _needs(sale.sale_id, troubles) for sale in found])
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


def ticket(
    sale_id: Annotated[str, typer.Argument(metavar="SALE", help="The sale's id.")],
    buyer_id: Annotated[str | None, typer.Argument(metavar="BUYER", help="The buyer's id.")] = None,
    count: Annotated[int, typer.Option(help="Make this many, for load tools.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="File for --count; else the terminal.")] = None,
    ttl: Annotated[int, typer.Option(help="Seconds that a ticket is good for.", min=1)] = 86_400,
) -> None:
    """Make a ticket, or with --count a file of them: one `BUYER<TAB>TICKET` a line."""
    if (buyer_id is None) == (count == 0):
        raise UserMistake("give either a buyer or --count")
    check_id(sale_id)
    keys = _key_ring("ticket_keys")
    expires_at_s = int(time.time()) + ttl
    if buyer_id is not None:
        typer.echo(
            tickets.issue(keys, sale_id=sale_id, buyer_id=buyer_id, expires_at_s=expires_at_s)
        )
        return
    try:
        file = out.open("w") if out else sys.stdout
    except OSError as error:
        raise UserMistake(f"--out {out}: {error.strerror}") from error
    with file:
        for number in range(1, count + 1):
            buyer = f"buyer-{number:07d}"
            made = tickets.issue(keys, sale_id=sale_id, buyer_id=buyer, expires_at_s=expires_at_s)
            file.write(f"{buyer}\t{made}\n")


def token(
    buyer_id: Annotated[str, typer.Argument(metavar="BUYER", help="The buyer's id.")],
    ttl: Annotated[int, typer.Option(help="Seconds that it is good for.", min=1)] = 86_400,
) -> None:
    """Make a login token (JWT) for development: a shop's own login issues the real ones."""
    check_id(buyer_id)
    expires_at_s = int(time.time()) + ttl
    typer.echo(logins.issue(_key_ring("jwt_keys"), buyer_id=buyer_id, expires_at_s=expires_at_s))


def verify(
    sale_id: Annotated[str, typer.Argument(metavar="SALE", help="The sale's id.")],
    wait: Annotated[float, typer.Option(help="Seconds to wait for quiet.", min=0)] = 0.0,
    as_json: Json = False,
) -> None:
    """Count the ledger of a sale from the stores; exit 1 unless it balances."""
    check_id(sale_id)
    if math.isnan(wait):
        raise UserMistake("--wait: give a number of seconds")

    async def look(stores: Stores) -> ledger.Ledger:
        await sales.find(stores.db, sale_id)  # is there such a sale?
        return await ledger.verify(stores.redis, stores.db, sale_id, wait_s=wait)

    books = run(look)
    if as_json:
        _print_json(books.summary())
    else:
        print_ledger(Console(), sale_id, books)
    if not books.balanced:
        raise typer.Exit(1)


def print_ledger(console: Console, sale_id: str, books: ledger.Ledger) -> None:
    """Print a ledger as a table, with its verdict."""
    table = Table("line", "number", title=f"ledger of {sale_id}", min_width=40)
    table.columns[1].justify = "right"
    for name, number in books.lines.items():
        table.add_row(name, str(number))
    console.print(table)
    for violation in books.violations:
        console.print(f"[red]violation[/red] {violation}", highlight=False)
    console.print("[green]balanced[/green]" if books.balanced else "[red]NOT balanced[/red]")


async def _with_troubles(
    stores: Stores, reading: Awaitable[T], sale_ids: list[str] | None
) -> tuple[T, dict[str, Trouble] | None]:
    """Read sales, and which of them need a rebuild; None when Redis does not tell."""
    found = await reading
    try:
        return found, await fencing.behind(stores.redis, stores.db, sale_ids)
    except Unavailable as error:
        typer.echo(f"seckill: {error}; so whether a rebuild is needed is not known", err=True)
        return found, None


def _needs(sale_id: str, troubles: dict[str, Trouble] | None) -> dict[str, str | None]:
    return {"needs_rebuild": "unknown" if troubles is None else troubles.get(sale_id)}


def _print_troubles(troubles: dict[str, Trouble] | None) -> None:
    for sale_id, trouble in (troubles or {}).items():
        typer.echo(fencing.advice(sale_id, trouble))


def run(work: Any) -> Any:  # noqa: ANN401 - typed by each caller's lambda
    """Do some work on the stores, and return what it returns."""

    async def go() -> object:
        async with open_stores(load_settings()) as stores:
            return await work(stores)

    return asyncio.run(go())


def show(sale: Sale, as_json: bool) -> None:
    """Print a sale, for people or for machines."""
    if as_json:
        _print_json(_plain(sale))
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


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value))


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


def check_id(text: str) -> None:
    """Refuse what cannot be an id, before any store is asked."""
    if not tickets.ID.match(text):
        raise UserMistake(f"id {text!r}: use 1 to 64 of A-Z a-z 0-9 _ . -")


def _key_ring(name: str) -> KeyRing:
    settings = load_settings()
    secret, setting = getattr(settings, name).get_secret_value(), f"SECKILL_{name.upper()}"
    if not secret:
        raise BadSettings(
            f"{setting} not set and no stack is running in {settings.home}; "
            "start one with `seckill up`, or set it"
        )
    return KeyRing.parse(secret, setting=setting)
