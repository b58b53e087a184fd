"""`seckill sale rebuild`: a sale that Redis lost, written anew from PostgreSQL."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from ops.cli.console import Json, check_ids, show
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.adapters import topology
from seckill.adapters.rabbitmq import count_waiting
from seckill.consistency import fencing
from seckill.consistency.drain import InFlight, wait_until_placed
from seckill.consistency.fencing import FenceReason
from seckill.consistency.rebuild import Rebuild, RebuildReport
from seckill.errors import SeckillError, UserMistake


def rebuild(
    sale_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", callback=check_ids)
    ] = None,
    all_lost: Annotated[
        bool, typer.Option("--all-lost", help="All sales that need it, as after FLUSHALL.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(help="Seconds to let what is under way become orders.", min=0, max=3600),
    ] = 10.0,
    force: Annotated[bool, typer.Option("--force", help="Also a sale that is whole.")] = False,
    as_json: Json = False,
) -> None:
    """Write a sale that Redis lost, or that went back in time, anew from PostgreSQL."""
    if bool(sale_ids) == all_lost:
        raise UserMistake("give either sales or --all-lost")
    left, done, failed = run(lambda s: _rebuild(s, sale_ids or [], wait, force))
    lines = [
        f"sale {each.sale_id}: {each.state}, "
        f"{'not opened yet' if each.stock is None else f'{each.stock} units left'}, "
        f"{each.holders} orders hold units, {each.rejected} grabs rejected"
        for each in done
    ]
    if left and any(left):
        late = (
            f"not placed in time: {left.messages} messages on the broker, {left.outbox_entries}"
            f" outbox entries, {left.holders} holders; what is of these sales is rejected"
        )
        lines.insert(0, late)
    if not done and not failed:
        lines.append("no sale needs a rebuild")
    plain = {"left": left and left._asdict(), "rebuilt": done, "failed": failed}
    show(plain, as_json, *lines)
    if failed:
        raise SeckillError("; ".join(failed.values()))


async def _rebuild(
    stores: Stores, sale_ids: list[str], wait_s: float, force: bool
) -> tuple[InFlight | None, list[RebuildReport], dict[str, str]]:
    done: list[RebuildReport] = []
    failed: dict[str, str] = {}
    work = Rebuild(stores.redis, stores.db)
    if not sale_ids:
        found = await fencing.needing_rebuild(stores.redis, stores.db)
        sale_ids = [s for s, reason in found.items() if reason is not FenceReason.RESTORED]
    if not sale_ids:
        return None, done, failed
    reasons = await work.fence(sale_ids, force=force)
    left = None
    if wait_s:
        count = partial(count_waiting, stores.broker("seckill-reconcile"), topology.ORDERS_PLACE)
        left = await wait_until_placed(stores.redis, stores.db, count, sale_ids, wait_s)
    for sale_id, reason in reasons.items():
        try:
            done.append(await work.run(sale_id, actor=audit.operator_name(), reason=reason))
        except SeckillError as error:  # one sale must not keep the others from selling
            failed[sale_id] = str(error)
    return left, done, failed
