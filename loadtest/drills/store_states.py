"""`python -m loadtest.drills.store_states`: how soon a sale goes on after each state of a store.

A gateway and a process of all roles meet each state in turn (docs/store-states.md). Times are from
the moment when the cure is in force.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from typing import Annotated

import typer
from aiohttp import ClientSession

from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.stack import PATIENCE_S, BenchStack, Process, temporary_stack
from loadtest.store_states.states import STATES, StoreState
from ops.buyers import BuyerReply, grab
from seckill.errors import SeckillError
from seckill.sales.sales import Sale

#: How long each state lasts, once it is in force.
LASTS_S = 3.0
#: Between two grabs.
APART_S = 0.05
#: After the cure a sale goes on within this time, on a machine that does nothing else.
PROMISED_S = 5.0

_PLACED = "SELECT 1 FROM orders WHERE order_id = $1"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def main(
    only: Annotated[str, typer.Option(help="States by a regular expression.")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure each state."""
    # Its own links break, too, each with a traceback.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    states = [state for state in STATES if re.search(only, f"{state.store} {state.name}")]
    if not states:
        raise typer.BadParameter(f"no state is called {only!r}", param_hint="--only")
    measure(_all(states), as_json)


async def _all(states: list[StoreState]) -> list[Finding]:
    async with temporary_stack() as stack:
        gateway, _ = [await stack.run(each) for each in ("gateway", "consumers")]
        sale = await stack.open_sale()
        tickets = stack.tickets([sale], 1_000_000)
        findings = [await _one(stack, gateway, sale, tickets, state) for state in states]
        findings.append(ledger_finding(await stack.verify(sale)))
    return findings


async def _one(
    stack: BenchStack,
    gateway: Process,
    sale: Sale,
    tickets: Iterator[tuple[Sale, str, str]],
    state: StoreState,
) -> Finding:
    async with ClientSession(gateway.url) as http:

        async def press() -> BuyerReply:
            _, buyer, ticket = next(tickets)
            return await grab(http, sale.sale_id, buyer, ticket)

        replies = []
        async with state.enter(stack.services):
            ends_at = time.monotonic() + LASTS_S
            while time.monotonic() < ends_at:
                replies.append(await press())
                await asyncio.sleep(APART_S)
        cured_at = time.monotonic()
        while (reply := await press()).status != 202:
            if time.monotonic() - cured_at > PATIENCE_S:
                raise SeckillError(f"no grab is taken after {state.store} {state.name}")
            await asyncio.sleep(APART_S)
        sells_s = time.monotonic() - cured_at
        while not await stack.db.fetchval(_PLACED, reply.order_id):
            if time.monotonic() - cured_at > PATIENCE_S:
                raise SeckillError(f"no order is placed after {state.store} {state.name}")
            await asyncio.sleep(APART_S)
        placed_s = time.monotonic() - cured_at
    meanwhile = ", ".join(sorted({str(reply.status) for reply in replies}))
    return Finding(
        f"{state.store}: {state.name}",
        f"{meanwhile}; sells after {sells_s:.1f} s, places after {placed_s:.1f} s",
        f"{PROMISED_S:g} s",
        placed_s <= PROMISED_S,
    )


if __name__ == "__main__":
    app()
