"""wrk as a closed loop of grabs: as many as a gateway takes, each by another buyer."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aiohttp import ClientSession

from loadtest.stack import OTHER_CORE, BenchStack, Cores, pinned
from seckill.errors import SeckillError, UserMistake
from seckill.sales.sales import Sale

CONNECTIONS = 1_000
#: More than any server here takes in a run, so that no ticket is used twice.
TICKETS_PER_SECOND = 50_000
#: Enough buyers for grabs that are all refused: there they may come again.
REFUSED_BUYERS = 20_000


class WrkResult(NamedTuple):
    """What a run of wrk came to."""

    grabs: int
    per_s: float
    #: CPU time that wrk itself took.
    cpu_s: float


def require_wrk() -> None:
    """Raise UserMistake with what to type where wrk is missing."""
    if shutil.which("wrk") is None:
        raise UserMistake("wrk is missing; type: sudo apt-get install wrk")


async def grab_in(
    stack: BenchStack, url: str, sales: Sequence[Sale], seconds: int, cores: Cores = OTHER_CORE
) -> WrkResult:
    """Let wrk grab for so long, in turn in all of these sales, in which no buyer has grabbed yet.

    Each grab has to be answered 202, with ticket, script and confirmed publish; else the run is
    not valid. What it left in the queue stays there.
    """
    tickets = _write_tickets(stack, sales, seconds * TICKETS_PER_SECOND)
    await _warm_up(url, sales)
    path = f"/v1/sales/{sales[0].sale_id}/grabs"
    return await _run(url + path, seconds, cores, str(tickets), "202")


async def grabs_per_second(stack: BenchStack, url: str, seconds: int) -> float:
    """Return the grabs a second in a sale of their own; none of them becomes an order."""
    grabbed = await grab_in(stack, url, [await stack.open_sale()], seconds)
    await stack.drop_queue()
    return grabbed.per_s


async def refusals_per_second(stack: BenchStack, url: str, sale: Sale, seconds: int) -> float:
    """Return the grabs a second in a sale that is sold out to b0: each has to be answered 409.

    `url` is a gateway's, or for another server the very address that answers so.
    """
    tickets = _write_tickets(stack, [sale], REFUSED_BUYERS, first=1)
    if not url.endswith("/constant"):
        await _warm_up(url, [sale])
        url += f"/v1/sales/{sale.sale_id}/grabs"
    return (await _run(url, seconds, OTHER_CORE, str(tickets), "409")).per_s


async def pages_per_second(url: str, seconds: int) -> float:
    """Return how often a second wrk gets one page."""
    return (await _run(url, seconds, OTHER_CORE)).per_s


def _write_tickets(stack: BenchStack, sales: Sequence[Sale], count: int, first: int = 0) -> Path:
    """Write a file of tickets for so many buyers who grab in these sales in turn.

    With one sale it is like those of `seckill ticket`; with more, a third column names them.
    """
    path = stack.home / "tickets.tsv"
    with path.open("w") as file:
        for sale, buyer_id, ticket in stack.tickets(sales, count, first):
            named = f"\t{sale.sale_id}" if len(sales) > 1 else ""
            file.write(f"{buyer_id}\t{ticket}{named}\n")
    return path


async def _warm_up(url: str, sales: Sequence[Sale]) -> None:
    # Long before an opening a gateway has read the sale. To read all of them anew, which it does
    # once a second at most, would be a second of the run. Other servers may answer 404.
    async with ClientSession(url) as http, http.get(f"/v1/sales/{sales[-1].sale_id}") as answer:
        await answer.read()


async def _run(url: str, seconds: int, cores: Cores, *script_arguments: str) -> WrkResult:
    script = []
    if script_arguments:
        script = ["-s", str(Path(__file__).with_name("wrk_grab.lua")), url, "--", *script_arguments]
    before_s = _children_s()
    with pinned(cores):
        process = await asyncio.create_subprocess_exec(
            # A connection that is served late is late, and no error.
            *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s"),
            *(script or [url]),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    output = (await process.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    # The script looks at each status; without one, wrk itself does.
    refused = "Non-2xx" in output and not script
    failed = process.returncode or refused or "Socket errors" in output
    if failed or rate is None or count is None:
        raise SeckillError(f"the run is not valid; wrk printed:\n{output}")
    return WrkResult(int(count[1]), float(rate[1]), _children_s() - before_s)


def _children_s() -> float:
    """Return the CPU seconds of children that have ended: of wrk, while nothing else ends."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
