"""`seckill sale check`: what is not ready for a sale, one line a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ops.cli.console import Json, SaleId, show
from ops.cli.stores import Stores, run
from seckill.sales import sales


def check(
    sale_id: SaleId,
    crowd: Annotated[int, typer.Option(help="Buyers that are expected.", min=0)] = 0,
    within: Annotated[
        float, typer.Option(help="Seconds within which they come.", min=0.1, max=86_400)
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """Look whether all is ready for a sale; exit 1 if something would keep it from selling."""
    # Here, as they take a third of a second to load: other commands do without.
    from config.limits import load_limits
    from consumers.main import default_roles
    from ops.readiness.host import Check
    from ops.readiness.sale import Readiness

    async def look(stores: Stores) -> Sequence[Check]:
        settings = stores.settings
        limits = load_limits(settings.limits_profile, settings.limits_file)
        broker, roles = stores.broker("seckill-check"), default_roles(settings)
        readiness = Readiness(settings, limits, stores.redis, stores.db, broker, roles)
        sale = await sales.find(stores.db, sale_id)
        return await readiness.check(sale, crowd=crowd, within_s=within)

    found = run(look)
    is_ready = all(each.status != "fail" for each in found)
    lines = (
        f"{each.status:<5} {each.name:<12} {each.said}{each.do and f'; {each.do}'}"
        for each in found
    )
    end = "ready" if is_ready else "not ready: mend what says fail"
    show({"sale_id": sale_id, "ready": is_ready, "checks": found}, as_json, *lines, end)
    if not is_ready:
        raise typer.Exit(1)
