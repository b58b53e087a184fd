"""`python -m loadtest.transactions`: what the TCC engine and its durable log can do by themselves.

So many workers submit one transaction after the other to one coordinator, whose branches do
nothing; the log is on a private PostgreSQL with fsync on. Then the same number of workers submit at
the rate of the reference, if that is less, to compare latencies at equal load.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
import uvloop

from config.settings import PROJECT_ROOT
from loadtest.findings import Finding, Json, measure, show
from ops.services import running_services
from seckill import database
from seckill.errors import SeckillError
from seckill.transactions.branches import Definition
from seckill.transactions.log import Log
from seckill.transactions.tcc import Coordinator
from seckill.transactions.work import Op, Work

#: Workers -> transactions a second and mean latency in ms of the reference.
REFERENCE = {100: (8_200, 12.3), 500: (14_600, 8.7), 1_000: (15_100, 9.1)}
BRANCHES = 3

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Idle:
    """A branch that has nothing to do."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def run(self, op: Op, works: Sequence[Work]) -> Mapping[str, str]:
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
    async with running_services(PROJECT_ROOT / ".seckill" / "bench") as services:
        await database.migrate(services.postgres_dsn)
        runs = _runs(services.postgres_dsn, seconds, rounds)
        return await asyncio.to_thread(uvloop.run, runs)


async def _runs(dsn: str, seconds: float, rounds: int) -> list[Finding]:
    findings = []
    async with database.connect(dsn, size=4, timeout_s=30) as db:
        durable = await db.fetchval("SHOW fsync"), await db.fetchval("SHOW synchronous_commit")
        if durable != ("on", "on"):
            raise SeckillError(f"the log is not durable: fsync, synchronous_commit {durable}")
        definition = Definition("bench", tuple(Idle(f"b{n}") for n in range(BRANCHES)))
        coordinator = Coordinator(definition, Log(db), capacity=max(REFERENCE))
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
