"""`python -m loadtest.drills.tcc_throughput`: what the TCC engine can do.

So many workers submit one transaction after the other to one coordinator. First its branches do
nothing, and only the durable log works, on a private PostgreSQL with fsync on; then the same number
of workers submit at the rate of the reference, to compare latencies at equal load. Last they pay
orders from wallets: order and units, wallet, ledger entries, and the beginning of the fulfilment.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated

import asyncpg
import typer
import uvloop

from loadtest.drills.buyers import for_each
from loadtest.findings import AsJson, Finding, measure
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
#: The share of that rate below which a latency is not one at that rate. Workers begin one by one,
#: which takes a hundredth of a run of 5 s.
RATE_LEAST = 0.95
BRANCHES = 3
#: Orders that are paid in one run.
PAYMENTS = 5_000
#: Orders and wallets that are made at once.
CHUNK = 1_000

Measurement = Callable[[asyncpg.Pool], Awaitable[list[Finding]]]


class IdleBranch:
    """A branch that has nothing to do."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        """Agree."""
        return {}


class TimedSubmits:
    """Submits transactions, and measures how long each takes."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._begun = time.perf_counter()
        self._waits_s: list[float] = []

    async def submit(self, tx_id: str, args: Mapping[str, object]) -> None:
        """Submit one; raise unless it is confirmed."""
        begun = time.perf_counter()
        outcome = await self._coordinator.submit(tx_id, args)
        if not outcome.confirmed:
            raise SeckillError(f"{tx_id} is {outcome.state}: {outcome.reason}")
        self._waits_s.append(time.perf_counter() - begun)

    def rate_and_mean_ms(self) -> tuple[float, float]:
        """Return transactions a second, and the mean latency in ms."""
        done, waited_s = len(self._waits_s), sum(self._waits_s)
        return done / (time.perf_counter() - self._begun), 1000 * waited_s / done


def main(
    seconds: Annotated[float, typer.Option(help="Length of a run.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Runs of each kind; the median counts.", min=1)] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure transactions a second and mean latency, with 100, 500 and 1,000 workers."""
    measure(_transactions(seconds, rounds), as_json)


async def _transactions(seconds: float, rounds: int) -> list[Finding]:
    async with bench_stack() as stack:

        async def apart(measure: Measurement) -> list[Finding]:
            async with postgres.connect(stack.services.postgres_dsn, size=4, timeout_s=30) as db:
                return await measure(db)

        # On loops of their own: uvloop cannot start stores as other users.
        log_alone = apart(partial(_log_alone, seconds, rounds))
        findings = await asyncio.to_thread(uvloop.run, log_alone)
        # Not before: PostgreSQL works on for some time after so many rows.
        payments = [await _unpaid(stack, PAYMENTS) for _ in REFERENCE]
        return findings + await asyncio.to_thread(uvloop.run, apart(partial(_pay_all, payments)))


async def _log_alone(seconds: float, rounds: int, db: asyncpg.Pool) -> list[Finding]:
    """Measure with branches that do nothing."""
    durable = await db.fetchval("SHOW fsync"), await db.fetchval("SHOW synchronous_commit")
    if durable != ("on", "on"):
        raise SeckillError(f"the log is not durable: fsync, synchronous_commit {durable}")
    definition = Definition("bench", tuple(IdleBranch(f"b{n}") for n in range(BRANCHES)))
    coordinator = Coordinator(definition, TransactionLog(db), capacity=max(REFERENCE))
    await _run(coordinator, 100, 1)  # whatever is slow the first time
    findings = []
    for workers, (reference_tps, reference_ms) in REFERENCE.items():
        runs = sorted([await _run(coordinator, workers, seconds) for _ in range(rounds)])
        tps, fast_ms = runs[len(runs) // 2]
        reached, ms = await _run(coordinator, workers, seconds, tps=reference_tps)
        findings += [
            Finding(
                f"{workers:,} workers, as fast as it goes",
                f"{tps:,.0f}/s, mean {fast_ms:.1f} ms",
                f"more than {reference_tps:,}/s",
                tps > reference_tps,
            ),
            Finding(
                f"{workers:,} workers, at the reference's rate",
                f"{reached:,.0f}/s, mean {ms:.1f} ms",
                f"under {reference_ms} ms",
                ms < reference_ms and reached >= RATE_LEAST * reference_tps,
            ),
        ]
    return findings


async def _run(
    coordinator: Coordinator, workers: int, seconds: float, *, tps: float = 0
) -> tuple[float, float]:
    """Submit for so long, as fast as it goes or at a rate; return rate and mean latency in ms."""
    submits = TimedSubmits(coordinator)
    until = time.perf_counter() + seconds
    run, numbers = secrets.token_hex(4), itertools.count()
    pause_s = workers / tps if tps else 0.0

    async def worker() -> None:
        due = time.perf_counter() + pause_s * secrets.randbelow(1000) / 1000
        while True:
            if pause_s:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                due += pause_s
            if time.perf_counter() >= until:
                return
            tx_id = f"{run}-{next(numbers)}"
            await submits.submit(tx_id, {"order": tx_id, "cents": 1999})

    await asyncio.gather(*(worker() for _ in range(workers)))
    return submits.rate_and_mean_ms()


async def _unpaid(stack: BenchStack, count: int) -> list[Payment]:
    """Make orders that wait for payment, and buyers who can pay."""
    sale = await stack.open_sale()
    payments = []
    for first in range(0, count, CHUNK):
        buyers = [f"{sale.sale_id}-b{n}" for n in range(first, min(first + CHUNK, count))]
        placements = [
            Placement(new_order_id(sale.number), sale.sale_id, buyer, 1, sale.epoch)
            for buyer in buyers
        ]
        if refused := await orders.place(stack.db, placements):
            raise SeckillError(f"not placed: {refused[0]}")
        top_ups = [TopUp(f"top-{buyer}", buyer, 10 * sale.price_cents) for buyer in buyers]
        await wallets.top_up(stack.db, top_ups)
        payments += [Payment(sale.sale_id, p.order_id, p.buyer_id) for p in placements]
    return payments


async def _pay_all(runs: Sequence[list[Payment]], db: asyncpg.Pool) -> list[Finding]:
    """Pay each list with its number of workers."""
    findings = []
    definition = checkout.definition(db)
    coordinator = Coordinator(definition, TransactionLog(db), capacity=max(REFERENCE))
    for workers, payments in zip(REFERENCE, runs, strict=True):
        submits = TimedSubmits(coordinator)
        pays = [(new_tx_id(), payment.args()) for payment in payments]
        await for_each(pays, lambda each, to=submits: to.submit(*each), workers)
        tps, ms = submits.rate_and_mean_ms()
        findings.append(
            Finding(f"{workers:,} workers, real payments", f"{tps:,.0f}/s, mean {ms:.0f} ms")
        )
    return findings


if __name__ == "__main__":
    typer.run(main)
