"""Offer grabs to gateways, open loop, and return a report.

schedule = Schedule(rate=2_000, seconds=10)
report = await offer_grabs(stack, gateway.url, [await stack.open_sale()], schedule)
report.valid, report.latency_ms(0.99, 202), report.answered_per_s(202)
"""

from __future__ import annotations

import asyncio
import itertools
import resource
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from loadtest.crowd.generator import Crowd, without_garbage_collection
from loadtest.crowd.grab_http import HttpForm, grab_bytes
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Schedule
from loadtest.stack import BenchStack, Cores, pinned
from seckill.errors import SeckillError, UserMistake
from seckill.sales.sales import Sale

#: Enough for a second of 2,000 grabs/s that are answered late, and a tenth of what a gateway takes.
CONNECTIONS = 2_000
#: Open files that are not connections.
FILES_RESERVED = 100


async def offer(
    url: str,
    requests: Sequence[PlannedRequest],
    seconds: float,
    *,
    sale_ids: Iterable[str] = (),
    gateways: int = 1,
    connections: int = CONNECTIONS,
    patience_s: float | None = None,
    cores: Cores = None,
    on_answer: Callable[[PlannedRequest, bytes], None] = lambda _request, _body: None,
) -> CrowdReport:
    """Send each request to `url` when it is due, and report on a run of so many seconds.

    Connections are opened beforehand, and each of so many gateways reads the sales. With a patience
    who waits longer gives up, and their connection is closed. The generator, which calls
    `on_answer`, has a thread of its own, pinned if cores are given.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UserMistake(f"--url {url}: give an address like http://127.0.0.1:8080")
    _allow_files(connections)
    host, port = parts.hostname, parts.port or 80
    crowd = Crowd(
        host, port, connections_max=connections, patience_s=patience_s, on_answer=on_answer
    )

    async def run() -> CrowdReport:
        try:
            await crowd.connect(connections)
            for sale_id in sale_ids:
                await crowd.warm_up(sale_id, gateways)
        except OSError as error:
            raise SeckillError(f"{url} cannot be reached: {error}") from error
        return await crowd.run(requests, seconds)

    def run_pinned() -> CrowdReport:
        with pinned(cores):
            return uvloop.run(run())

    with without_garbage_collection():
        # On a loop of its own: uvloop cannot start stores as other users.
        return await asyncio.to_thread(run_pinned)


def plan_grabs(
    stack: BenchStack,
    sales: Sequence[Sale],
    dues: Sequence[float],
    first: int = 0,
    form: HttpForm = HttpForm.KEEP_ALIVE,
) -> list[PlannedRequest]:
    """Plan a grab for each due time, in the sales in turn, by the buyers b0 (or another first)."""
    tickets = stack.tickets(sales, len(dues), first)
    return [
        PlannedRequest(due_s, grab_bytes(sale.sale_id, ticket, form))
        for due_s, (sale, _, ticket) in zip(dues, tickets, strict=True)
    ]


async def offer_grabs(
    stack: BenchStack,
    url: str,
    sales: Sequence[Sale],
    schedule: Schedule,
    **options: Any,  # noqa: ANN401 - those of `offer`
) -> CrowdReport:
    """Offer grabs of sales in which no buyer has grabbed yet."""
    requests = plan_grabs(stack, sales, schedule.due_times())
    sale_ids = [sale.sale_id for sale in sales]
    return await offer(url, requests, schedule.seconds, sale_ids=sale_ids, **options)


def read_tickets(path: Path, count: int) -> list[str]:
    """Read the first tickets of a file of BUYER<TAB>TICKET lines."""
    try:
        with path.open() as file:
            lines = list(itertools.islice(file, count))
    except OSError as error:
        raise UserMistake(f"--tickets {path}: {error.strerror}") from error
    tickets = [line.rstrip("\n").partition("\t")[2] for line in lines]
    if not all(tickets):
        raise UserMistake(f"--tickets {path}: each line has to be BUYER, a tab, and TICKET")
    if len(tickets) < count:
        raise UserMistake(
            f"--tickets {path} has {len(tickets):,} tickets, {count:,} are needed; "
            f"type: seckill ticket SALE --count {count} --out {path}"
        )
    return tickets


def _allow_files(connections: int) -> None:
    """Raise the limit on open files as far as it takes."""
    wanted = connections + FILES_RESERVED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserMistake(
            f"--connections {connections}: this user may open {hard} files; "
            f"give at most {hard - FILES_RESERVED}, or type: ulimit -Hn {wanted}"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
