"""`python -m loadtest.bench.console_costs`: what an open page of the console takes from a sale.

Orders a second, all the way, by wrk as fast as it can, with a page open and without, in turn. The
page is a client that signs in and reads its events, as the browser does; the browser itself runs
on the operator's machine, and is not in it. In such a rush the invariants are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Annotated

import typer
from aiohttp import ClientSession, ClientTimeout, CookieJar

from loadtest.bench.order_sides import all_the_way
from loadtest.bench.wrk import require_wrk
from loadtest.findings import AsJson, Finding, measure
from loadtest.stack import Process, temporary_stack
from seckill.errors import SeckillError

#: The least share of the orders a second that is left with a page open.
PROMISED = 0.98
TOKEN = "t" * 32
#: Events that have to come for each second of a run: the page is read anew each second.
EVENTS_PER_S = 0.5


def main(
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.", min=1)] = 7,
    seconds: Annotated[int, typer.Option(help="Length of one run.", min=2)] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure what an open page of the console takes."""
    require_wrk()
    measure(_compare(rounds, seconds), as_json)


async def _compare(rounds: int, seconds: int) -> list[Finding]:
    closed: list[float] = []
    open_: list[float] = []
    async with temporary_stack() as stack:
        gateway = await stack.gateway(core=None, SECKILL_ADMIN_TOKEN=TOKEN)

        async def orders_per_second() -> float:
            rate, _ = await all_the_way(stack, gateway, await stack.open_sale(), seconds)
            return rate

        await orders_per_second()  # whatever is slow the first time
        for _ in range(rounds):
            closed.append(await orders_per_second())
            async with _open_page(gateway) as events:
                open_.append(await orders_per_second())
            if len(events) < EVENTS_PER_S * seconds:
                raise SeckillError(f"the page got {len(events)} events in {seconds} s")
    ratio = median(open_) / median(closed)
    return [
        Finding("no page open", _text(closed)),
        Finding("a page open", _text(open_)),
        Finding("ratio", f"{ratio:.3f}", f"at least {PROMISED}", ratio >= PROMISED),
    ]


@asynccontextmanager
async def _open_page(gateway: Process) -> AsyncIterator[list[bytes]]:
    """Keep a page of the console open; the list grows with the events that it gets."""
    events: list[bytes] = []
    endless = ClientTimeout(total=None)
    # The first event is the whole page: longer than a line of aiohttp may be by default.
    async with ClientSession(
        gateway.admin_url,
        cookie_jar=CookieJar(unsafe=True),
        timeout=endless,
        read_bufsize=2**22,
    ) as http:
        signing_in = {"token": TOKEN, "name": "bench"}
        async with http.post("/console/session", json=signing_in, raise_for_status=True):
            pass
        async with http.get("/console/events", raise_for_status=True) as stream:

            async def read() -> None:
                async for line in stream.content:
                    if line.startswith(b"data:"):
                        events.append(line)

            reading = asyncio.create_task(read(), name="page")
            try:
                yield events
            finally:
                reading.cancel()


def _text(figures: list[float]) -> str:
    return f"{median(figures):,.0f} orders/s ({min(figures):,.0f} .. {max(figures):,.0f})"


if __name__ == "__main__":
    typer.run(main)
