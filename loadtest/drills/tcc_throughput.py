"""`python -m loadtest.drills.tcc_throughput`: what the TCC engine can do.

So many workers submit one transaction after the other to one coordinator. First its branches do
nothing, and only the durable log works, on a private PostgreSQL with fsync on; then the same number
of workers submit at the rate of the reference, to compare latencies at equal load. Last they pay
orders from wallets: order and units, wallet, books, and the beginning of the fulfilment.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.findings import Finding, Json, measure, show
from loadtest.stack import BenchStack, bench_stack
from seckill.adapters import postgres
from seckill.errors import SeckillError
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import Placement
from seckill.payments import checkout, wallets
from seckill.payments.payment import Payment, new_tx_id
from seckill.payments.wallets import TopUp
from seckill.transactions.branches import Definition
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchCall, BranchOp
from seckill.transactions.tcc import Coordinator

#: Workers -> transactions a second and mean latency in ms of the reference.
REFERENCE = {100: (8_200, 12.3), 500: (14_600, 8.7), 1_000: (15_100, 9.1)}
BRANCHES = 3
#: Orders that are paid in one run.
PAYMENTS = 5_000
#: Orders and wallets that are made at once.
CHUNK = 1_000

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Idle:
    """A branch that has nothing to do."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, op: BranchOp, works: Sequence[BranchCall]) -> Mapping[str, str]:
        """Agree."""
        return {}


class Load:
    """Transactions of one run, and what they took."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._run = secrets.token_hex(4)
        self._numbers = itertools.count()
        self.waited_s = 0.0
        self.done = 0

    async def worker(self, until: float, pause_s: float) -> None:
        """Submit until the time is up, each one `pause_s` after the one before, or at once."""
        due = time.perf_counter() + pause_s * secrets.randbelow(1000) / 1000
        while True:
            if pause_s:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += pause_s
            begun = time.perf_counter()
            if begun >= until:
                return
            tx_id = f"{self._run}-{next(self._numbers)}"
            outcome = await self._coordinator.submit(tx_id, {"order": tx_id, "cents": 1999})
            if not outcome.confirmed:
                raise SeckillError(f"{tx_id} is {outcome.state}: {outcome.reason}")
            self.waited_s += time.perf_counter() - begun
            self.done += 1


@app.command()
def transactions(
    seconds: Annotated[float, typer.Option(help="Length of a run.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Runs of each kind; the median counts.", min=1)] = 3,
    as_json: Json = False,
) -> None:
    """Measure transactions a second and mean latency, with 100, 500 and 1,000 workers."""
    show(measure(_transactions(seconds, rounds), as_json), as_json)


async def _transactions(seconds: float, rounds: int) -> list[Finding]:
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench") as stack:
        dsn = stack.services.postgres_dsn
        findings = await asyncio.to_thread(uvloop.run, _runs(dsn, seconds, rounds))
        payments = [await _unpaid(stack, PAYMENTS) for _ in REFERENCE]
        return findings + await asyncio.to_thread(uvloop.run, _pay_all(dsn, payments))


async def _unpaid(stack: BenchStack, count: int) -> list[Payment]:
    """Make orders that wait for payment, and buyers who can pay."""
    sale = await stack.open_sale()
    payments = []
    for first in range(0, count, CHUNK):
        numbers = range(first, min(first + CHUNK, count))
        buyers = [f"{sale.sale_id}-b{n}" for n in numbers]
        placements = [
            Placement(new_order_id(sale.number), sale.sale_id, buyer, 1, sale.epoch)
            for buyer in buyers
        ]
        if refused := await orders.place(stack.db, placements):
            raise SeckillError(f"not placed: {refused[0]}")
        await wallets.top_up(
            stack.db, [TopUp(f"top-{buyer}", buyer, 10 * sale.price_cents) for buyer in buyers]
        )
        payments += [Payment(sale.sale_id, p.order_id, p.buyer_id) for p in placements]
    return payments


async def _pay_all(dsn: str, runs: Sequence[list[Payment]]) -> list[Finding]:
    """Pay each list with its number of workers."""
    findings = []
    async with postgres.connect(dsn, size=4, timeout_s=30) as db:
        coordinator = Coordinator(
            checkout.definition(db), TransactionLog(db), capacity=max(REFERENCE)
        )
        for workers, payments in zip(REFERENCE, runs, strict=True):
            waited_s: list[float] = []
            coming = iter(payments)

            async def work(coming: Iterator[Payment] = coming, to: list[float] = waited_s) -> None:
                for payment in coming:
                    begun = time.perf_counter()
                    outcome = await coordinator.submit(new_tx_id(), payment.args())
                    to.append(time.perf_counter() - begun)
                    if not outcome.confirmed:
                        raise SeckillError(f"{payment} is {outcome.state}: {outcome.reason}")

            begun = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
            tps = len(payments) / (time.perf_counter() - begun)
            mean_ms = 1000 * sum(waited_s) / len(waited_s)
            findings.append(
                Finding(
                    f"{workers:,} workers, real payments", f"{tps:,.0f}/s, mean {mean_ms:.0f} ms"
                )
            )
    return findings


async def _runs(dsn: str, seconds: float, rounds: int) -> list[Finding]:
    findings = []
    async with postgres.connect(dsn, size=4, timeout_s=30) as db:
        durable = await db.fetchval("SHOW fsync"), await db.fetchval("SHOW synchronous_commit")
        if durable != ("on", "on"):
            raise SeckillError(f"the log is not durable: fsync, synchronous_commit {durable}")
        definition = Definition("bench", tuple(Idle(f"b{n}") for n in range(BRANCHES)))
        coordinator = Coordinator(definition, TransactionLog(db), capacity=max(REFERENCE))
        await _run(coordinator, 100, 1)  # whatever is slow the first time
        for workers, (reference_tps, reference_ms) in REFERENCE.items():
            runs = sorted([await _run(coordinator, workers, seconds) for _ in range(rounds)])
            tps, ms = runs[len(runs) // 2]
            findings.append(
                Finding(
                    f"{workers:,} workers, as fast as it goes",
                    f"{tps:,.0f}/s, mean {ms:.1f} ms",
                    f"more than {reference_tps:,}/s",
                    tps > reference_tps,
                )
            )
            reached, ms = await _run(coordinator, workers, seconds, tps=reference_tps)
            findings.append(
                Finding(
                    f"{workers:,} workers, at the reference's rate",
                    f"{reached:,.0f}/s, mean {ms:.1f} ms",
                    f"under {reference_ms} ms",
                    ms < reference_ms,
                )
            )
    return findings


async def _run(
    coordinator: Coordinator, workers: int, seconds: float, *, tps: float = 0
) -> tuple[float, float]:
    """Return transactions a second, and the mean latency in ms."""
    load = Load(coordinator)
    begun = time.perf_counter()
    pause_s = workers / tps if tps else 0.0
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(load.worker(begun + seconds, pause_s))
    return load.done / (time.perf_counter() - begun), 1000 * load.waited_s / load.done


if __name__ == "__main__":
    app()
