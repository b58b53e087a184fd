"""`seckill sale limit`: the rate limits of one sale, changed while it runs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from config.limits import Op, load_limits
from config.settings import load_settings
from ops.cli.console import Json, SaleId, show, table
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.errors import UserMistake
from seckill.sales import rate_limits
from seckill.sales.rate_limits import SaleLimit
from seckill.sales.token_buckets import TokenBuckets

Rate = Annotated[int | None, typer.Option(help="Requests a second, all gateways together.", min=1)]
Unset = Annotated[
    Op | None, typer.Option(help="Take the sale's own limit away: as configured again.")
]
Burst = Annotated[int | None, typer.Option(help="At once after a pause; else 2 x rate + 1.", min=1)]


def limit(
    sale_id: SaleId,
    try_rate: Rate = None,
    try_burst: Burst = None,
    confirm_rate: Rate = None,
    confirm_burst: Burst = None,
    cancel_rate: Rate = None,
    cancel_burst: Burst = None,
    unset: Unset = None,
    as_json: Json = False,
) -> None:
    """Change a sale's rate limits, also while it runs; without options, show them."""
    settings = load_settings()
    profile = load_limits(settings.limits_profile, settings.limits_file)
    wanted: dict[Op, SaleLimit | None] = dict(
        _wanted("try", try_rate, try_burst)
        + _wanted("confirm", confirm_rate, confirm_burst)
        + _wanted("cancel", cancel_rate, cancel_burst)
    )
    if unset in wanted:
        raise UserMistake(f"--unset {unset} and --{unset}-rate: give one of them")
    if unset is not None:
        wanted[unset] = None

    async def change(stores: Stores) -> dict[str, SaleLimit]:
        buckets, actor = TokenBuckets(stores.redis), audit.operator_name()
        for op, new in wanted.items():
            await rate_limits.set_limit(stores.db, buckets, sale_id, op, new, by=actor)
        return dict(await rate_limits.limits_of(stores.db, sale_id))

    found = rate_limits.in_force(profile, run(change))
    for op, new in wanted.items():
        if not (as_json or new is None or new.keeps_turns):
            typer.echo(
                f"seckill: --{op}-burst is small for this rate: no tokens are kept for those who "
                "wait, and Retry-After is a guess",
                err=True,
            )
    show(found, as_json, _table(found))


def _wanted(op: Op, rate: int | None, burst: int | None) -> list[tuple[Op, SaleLimit | None]]:
    """Return what was typed for an operation: a limit, or nothing."""
    if rate is None and burst is not None:
        raise UserMistake(f"--{op}-burst needs --{op}-rate")
    return [] if rate is None else [(op, SaleLimit.of(rate, burst))]


def _table(found: dict[str, dict[str, object]]) -> Table:
    columns = ("operation", "rate/s", "burst", "set for this sale", "mode")
    rows = [
        (op, str(its["rate"]), str(its["burst"]), "yes" if its["own"] else "no", str(its["mode"]))
        for op, its in found.items()
    ]
    caption = "not set: as configured here; what a gateway has in force: its admin API"
    return table(*columns, rows=rows, caption=caption)
