"""`python -m tests.victim DSN NAME`: submits transactions and says how each ended, until killed."""

from __future__ import annotations

import asyncio
import sys

from seckill.adapters import postgres
from tests.transactions import Probe, TransactionBench, new_id

WORKERS = 50


async def main(dsn: str, name: str) -> None:
    async with postgres.connect(dsn, size=4, timeout_s=5) as db:
        bench = TransactionBench(Probe(db))
        bench.name = name
        coordinator = bench.coordinator(capacity=WORKERS)

        async def submit(number: int) -> None:
            while True:
                tx_id = new_id()
                args = {"refuses": "coupon try"} if number % 5 == 0 else {}
                outcome = await coordinator.submit(tx_id, args)
                print(tx_id, outcome.state, flush=True)

        await asyncio.gather(*map(submit, range(WORKERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
