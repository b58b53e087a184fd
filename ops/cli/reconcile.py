"""`seckill reconcile`: compare the stores order by order, and repair what differs."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from ops.cli.console import Json, check_ids, show, table
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.adapters.rabbitmq import count_waiting
from seckill.consistency import diff, fencing
from seckill.consistency.diff import Difference, RepairAction
from seckill.consistency.fencing import SaleState
from seckill.consistency.repair import Reconciler
from seckill.errors import Missing
from seckill.sales import sales

Report = dict[str, dict[str, Any]]


def reconcile(
    sale_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[SALE]...", callback=check_ids)
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Repair; else only say what would be done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare the stores order by order, twice; exit 1 when something is left to be done."""
    report = run(lambda stores: _compare(stores, sale_ids or None, apply=apply))
    show(report, as_json, *_parts(report, applied=apply))
    if any(each["needs_rebuild"] or each["left"] for each in report.values()):
        raise typer.Exit(1)


async def _compare(stores: Stores, sale_ids: list[str] | None, *, apply: bool) -> Report:
    before = await _look_at_all(stores, sale_ids)
    await asyncio.sleep(diff.COMPARISONS_APART_S)
    now = await _look_at_all(stores, sale_ids)
    report: Report = {}
    found: dict[str, tuple[int, list[Difference]]] = {}
    for sale_id, (standing, look) in now.items():
        agreed = diff.in_both(before[sale_id][1], look) if sale_id in before else []
        report[sale_id] = {
            "needs_rebuild": standing.fence_reason,
            "differences": [_plain(difference) for difference in agreed],
            "repaired": {},
            "left": len(agreed),
        }
        if agreed and standing.stamp:
            found[sale_id] = standing.stamp.epoch, agreed
    if apply and found:
        for sale_id, repaired in (await _repair(stores, found)).items():
            report[sale_id]["repaired"] = dict(repaired)
            report[sale_id]["left"] -= repaired.total()
    return report


async def _look_at_all(
    stores: Stores, sale_ids: list[str] | None
) -> dict[str, tuple[SaleState, diff.Comparison]]:
    age_ms = int(stores.settings.reconcile_age_s * 1000)
    standings = await fencing.survey(stores.redis, stores.db, sale_ids)
    for sale_id in sale_ids or ():
        if sale_id not in standings:
            await sales.find_kept(stores.db, sale_id)  # raises if there is none, or archived
            raise Missing(f"sale {sale_id} was made just now; look again")
    looks = {}
    for sale_id, standing in standings.items():
        look = diff.Comparison({}, is_quiet=False)
        if not standing.fence_reason:
            look = await diff.compare_sale(stores.redis, stores.db, sale_id, age_ms=age_ms)
        looks[sale_id] = standing, look
    return looks


async def _repair(
    stores: Stores, found: dict[str, tuple[int, list[Difference]]]
) -> dict[str, Counter[RepairAction]]:
    broker, timeout_s = stores.broker("seckill-reconcile"), stores.settings.confirm_timeout_s
    async with Publisher.open(broker, timeout_s=timeout_s) as publisher:
        reconciler = Reconciler(
            stores.redis,
            stores.db,
            publisher,
            partial(count_waiting, broker, *topology.GRAB_QUEUES),
            actor=audit.operator_name(),
        )
        return {
            sale_id: await reconciler.repair(sale_id, epoch, agreed)
            for sale_id, (epoch, agreed) in found.items()
        }


def _plain(difference: Difference) -> dict[str, object]:
    return {
        "action": difference.action,
        "order_id": difference.holding.order_id,
        "buyer_id": difference.buyer_id,
        "quantity": difference.holding.quantity,
    }


def _parts(report: Report, *, applied: bool) -> Iterator[RenderableType]:
    rows = [
        (
            sale_id,
            found["order_id"],
            found["buyer_id"],
            str(found["quantity"]),
            found["action"],
            diff.REASONS[found["action"]],
        )
        for sale_id, each in report.items()
        for found in each["differences"]
    ]
    if rows:
        yield table("sale", "order", "buyer", "units", "action", "because", rows=rows)
    reasons = {sale_id: each["needs_rebuild"] for sale_id, each in report.items()}
    yield from (fencing.advice(sale_id, reason) for sale_id, reason in reasons.items() if reason)
    left = sum(each["left"] for each in report.values())
    if not rows and not any(reasons.values()):
        yield "the stores agree"
    elif rows and applied:
        yield f"repaired {len(rows) - left}, left {left}: see again in some seconds"
    elif rows:
        yield "nothing was changed; to repair it, add --apply"
