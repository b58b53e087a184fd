"""wrk as a closed loop of grabs: as many as a gateway takes, each by another buyer."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aiohttp import ClientSession

from loadtest.bench_stack import OTHER_CORE, BenchStack
from seckill.errors import SeckillError, UserMistake
from seckill.sales import Sale

CONNECTIONS = 256
#: More than any gateway here takes in a run, so that no ticket is used twice.
TICKETS_PER_SECOND = 40_000


class Grabbed(NamedTuple):
    """What a run of wrk came to."""

    grabs: int
    per_s: float


def require_wrk() -> None:
    """Say what to type where wrk is missing."""
    if shutil.which("wrk") is None:
        raise UserMistake("wrk is missing; type: sudo apt-get install wrk")


async def grab_in(stack: BenchStack, url: str, sales: Sequence[Sale], seconds: int) -> Grabbed:
    """Let wrk grab for so long, in turn in all of these sales, of which it knows no buyer yet.

    Each grab has to be answered 202, with ticket, script and confirmed publish; else the run does
    not count. What it left in the queue is thrown away.
    """
    tickets = await stack.write_tickets(sales, seconds * TICKETS_PER_SECOND)
    # Long before an opening a gateway has heard of the sale. Reading all of them anew, which it
    # does once a second at most, would be a second of the run. Other servers may say 404.
    async with ClientSession(url) as http, http.get(f"/v1/sales/{sales[-1].sale_id}") as answer:
        await answer.read()
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s"),
        *("-s", str(Path(__file__).with_name("wrk_grab.lua"))),
        *(f"{url}/v1/sales/{sales[0].sale_id}/grabs", "--", str(tickets)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    count = re.search(r"(\d+) requests in", output)
    failed = process.returncode or "Non-2xx" in output or "Socket errors" in output
    if failed or rate is None or count is None:
        raise SeckillError(f"the run does not count; wrk said:\n{output}")
    await stack.drop_queue()
    return Grabbed(int(count[1]), float(rate[1]))


async def grabs_per_second(stack: BenchStack, url: str, seconds: int) -> float:
    """Grabs answered 202 in a second, in a sale of their own."""
    return (await grab_in(stack, url, [await stack.open_sale()], seconds)).per_s
