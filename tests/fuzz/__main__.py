"""The long run: `sh scripts/fuzz --seconds 600 --seed N`. It starts private services by itself."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from loadtest.stack import temporary_stack
from seckill.inventory.reservations import Stock
from tests.fuzz.comparison import Differs
from tests.fuzz.fuzzer import run
from tests.fuzz.setup import make_twins


def main() -> None:
    """Fuzz until the time is up (exit 0) or there is a difference (exit 1)."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="default: 600")
    parser.add_argument("--seed", type=int, help="of the first round; default: a random one")
    options = parser.parse_args()
    first = secrets.randbelow(10**9) if options.seed is None else options.seed
    sys.exit(asyncio.run(_fuzz(first, options.seconds)))


async def _fuzz(first: int, seconds: float) -> int:
    async with temporary_stack() as stack:
        stock, ring = Stock(stack.redis), stack.key_ring("ticket_keys")
        twins = await make_twins(stack.run, stack.home, stack.db, stock, ring)
        try:
            await asyncio.to_thread(run, twins, first, seconds, _say)
        except Differs as found:
            print(f"the smallest conversation that differs:\n{found}")
            return 1
        finally:
            twins.close()
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
