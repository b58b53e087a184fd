"""The two gateways of a run, and a sale in each state."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import asyncpg
from aiohttp import ClientSession

from ops.buyers import grab
from ops.processes.child import Child
from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing
from seckill.inventory.reservations import Stock
from seckill.sales import sales
from seckill.sales.terms import NewSale
from tests.fuzz.twins import TicketMaker, Twin, Twins
from tests.processes import limits_profile

#: More than any run takes.
UNITS = 2_000_000_000
#: Tickets outlive any run.
VALID_S = 24 * 3600


class Gateway(Protocol):
    """A gateway process of the tests, or of a load run."""

    @property
    def child(self) -> Child: ...
    @property
    def url(self) -> str: ...
    @property
    def admin_url(self) -> str: ...


async def make_twins(
    run: Callable[..., Awaitable[Gateway]],
    home: Path,
    db: asyncpg.Pool,
    stock: Stock,
    ticket_keys: KeyRing,
) -> Twins:
    """Start both gateways, without rate limits, and let them know a sale in each state."""
    until = int(time.time()) + VALID_S

    def ticket_for(sale_id: str, buyer_id: str) -> str:
        return tickets.issue(ticket_keys, sale_id=sale_id, buyer_id=buyer_id, expires_at_s=until)

    ids = await _make_sales(db, stock)
    settings = {**limits_profile(home), "SECKILL_STOP_DELAY_S": "0"}
    twins = []
    for name, fast_lane in (("connection", "yes"), ("aiohttp", "no")):
        gateway = await run("gateway", SECKILL_FAST_LANE=fast_lane, **settings)
        log = home / "logs" / f"{gateway.child.name}.log"
        twins.append(Twin(name, gateway.url, gateway.admin_url, log))
        await _sell_out(gateway.url, ids["sold"], ticket_for)
    connection, aiohttp = twins
    return Twins(connection, aiohttp, ids, ticket_for)


async def _make_sales(db: asyncpg.Pool, stock: Stock) -> dict[str, str]:
    """Make a sale in each state but `sold`, which is open yet; return their ids by state."""
    ids = {}
    for state in ("open", "sold", "paused", "closed", "created"):
        ids[state] = sale_id = f"fuzz-{state}"
        await sales.create(db, stock, NewSale(sale_id, 1 if state == "sold" else UNITS, 1999))
        if state != "created":
            await sales.open_(db, stock, sale_id)
        if state == "paused":
            await sales.pause(db, stock, sale_id)
        if state == "closed":
            await sales.close(db, stock, sale_id)
    return ids


async def _sell_out(url: str, sale_id: str, ticket_for: TicketMaker) -> None:
    """Take the one unit of the sale that is to be sold out; the gateway knows the sales then."""
    async with ClientSession(url) as http:
        answer = await grab(http, sale_id, "winner", ticket_for(sale_id, "winner"))
    if answer.status not in (200, 202):
        raise AssertionError(f"the sale is not sold out: {answer}")
