"""`python -m loadtest.drills.kills`: wallet checkouts while their processes are killed.

Buyers pay over HTTP and come back until an answer is final. Of a gateway and two consumers, one or
more are killed (SIGKILL) at random points spread over all payments, and started again at once.
Afterwards every transaction has to end, and the ledger to balance.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Annotated

import typer
from aiohttp import ClientSession, ClientTimeout

from loadtest.drills.buyers import for_each, pay, place_orders
from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.stack import (
    NO_SHEDDING,
    OTHER_CORE,
    PATIENCE_S,
    TESTED_CORE,
    BenchStack,
    Process,
    bench_stack,
)
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.sales.sales import Sale
from seckill.transactions.states import ENDED
from seckill.transactions.tcc import ABANDONED

WORKERS = 2
BUYERS_AT_ONCE = 20
#: One buyer in so many lacks the money; as many units cannot be shipped, and are refunded.
EVERY = 20
#: A kill comes up to so long after the payment that it is aimed at: within its stages.
AIM_S = 0.02
PROMISED_S = 30.0
#: A buyer comes back after so long, unless the answer was final.
AGAIN_S = 0.2

#: A buyer's last answer -> the states that the order may be in afterwards.
STATES_AFTER = {
    "paid": {"paid", "refunded"},
    "insufficient_funds": {"pending"},
    # Paid, but the answer was lost, and refunded before the buyer asked again.
    "not_payable": {"refunded"},
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class KillPoints:
    """Lets payments begin, in their turn, up to the point of the next kill."""

    def __init__(self, points: list[int]) -> None:
        self._points = points
        self._begun = 0
        self._changed = asyncio.Condition()

    async def begin_payment(self) -> None:
        """Return when one more payment may begin."""
        async with self._changed:
            # A little beyond the point: so that a kill finds payments in flight.
            await self._changed.wait_for(
                lambda: not self._points or self._begun < self._points[0] + BUYERS_AT_ONCE
            )
            self._begun += 1
            self._changed.notify_all()

    async def reached(self) -> None:
        """Wait for the payments before the next point."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._begun >= self._points[0])

    async def killed(self) -> None:
        """Let payments up to the point after it begin."""
        async with self._changed:
            self._points.pop(0)
            self._changed.notify_all()


class KilledCheckouts:
    """One run."""

    def __init__(self, stack: BenchStack, gateway: Process, workers: list[Process]) -> None:
        self._stack = stack
        self._gateway = gateway
        self._targets = [gateway, *workers]
        self._random = random.Random()  # noqa: S311 - no secret
        self._killed: Counter[str] = Counter()
        #: Order -> the buyer's last answer.
        self._answers: dict[str, str] = {}
        self._quiet_s = 0.0

    async def run(self, payments: int, kills: int) -> list[Finding]:
        """Sell, pay, kill, and count."""
        sale = await self._stack.open_sale(units=payments)
        orders = await place_orders(self._stack, self._gateway.url, sale, payments)
        await self._prepare(sale, list(orders))
        points = KillPoints(sorted(self._random.sample(range(1, payments + 1), kills)))
        async with ClientSession(self._gateway.url, timeout=ClientTimeout(total=5)) as http:

            async def buyer(order: tuple[str, str]) -> None:
                buyer_id, order_id = order
                await points.begin_payment()
                login = self._stack.login(buyer_id)
                self._answers[order_id] = await self._pay(http, order_id, login)

            paying = asyncio.create_task(for_each(orders.items(), buyer, BUYERS_AT_ONCE))
            await self._kill_all(points, kills)
            restarted_at = time.monotonic()
            await asyncio.wait_for(paying, PATIENCE_S)
        await self._stack.until(
            "SELECT NOT EXISTS (SELECT FROM transactions"
            " WHERE args ->> 'sale_id' = $1 AND ended_at IS NULL)",
            sale,
            "transactions have not ended: seckill tx list",
        )
        self._quiet_s = time.monotonic() - restarted_at
        return await self._findings(sale, payments)

    async def _prepare(self, sale: Sale, buyers: list[str]) -> None:
        """Fill wallets, but not all; and let the warehouse be short of some units."""
        poor, db = len(buyers) // EVERY, self._stack.db
        # Wallets outlive a run: the poor are those who have least.
        cents = {b: (await wallets.find_wallet(db, b)).available_cents for b in buyers}
        richer = sorted(buyers, key=cents.__getitem__)[poor:]
        lacking = [b for b in richer if cents[b] < sale.price_cents]
        await wallets.top_up(db, [TopUp(new_tx_id(), b, sale.price_cents) for b in lacking])
        await db.execute(
            "INSERT INTO shipping_capacity (sale_id, units) VALUES ($1, $2)",
            sale.sale_id,
            len(buyers) - 2 * poor,
        )

    async def _pay(self, http: ClientSession, order_id: str, login: dict[str, str]) -> str:
        """Pay until the answer is final; return its word."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            reply = await pay(http, order_id, "wallet", login)
            if reply.status == 200:
                return "paid"
            if reply.status in (402, 404, 410) or reply.code == "not_payable":
                return reply.code
            await asyncio.sleep(self._random.uniform(0.5, 1) * AGAIN_S)
        return "nothing final"

    async def _kill_all(self, points: KillPoints, kills: int) -> None:
        for left in reversed(range(kills)):
            await points.reached()
            await asyncio.sleep(self._random.uniform(0, AIM_S))
            # The last kill takes all processes: what it leaves is what has to end in time.
            count = self._random.randint(1, len(self._targets)) if left else len(self._targets)
            victims = [process.child for process in self._random.sample(self._targets, count)]
            await asyncio.gather(*(victim.kill() for victim in victims))
            self._killed.update(victim.name for victim in victims)
            await points.killed()  # buyers go on while the processes are down
            await asyncio.gather(*(victim.start() for victim in victims))

    async def _findings(self, sale: Sale, payments: int) -> list[Finding]:
        ledger = await self._stack.verify(sale)
        db = self._stack.db
        transactions = await db.fetch(
            "SELECT state, count(*), count(*) FILTER (WHERE reason = $2) AS abandoned"
            "  FROM transactions WHERE args ->> 'sale_id' = $1 GROUP BY state ORDER BY state",
            sale.sale_id,
            ABANDONED,
        )
        query = "SELECT order_id::text, state FROM orders WHERE sale_id = $1"
        states = dict(await db.fetch(query, sale.sale_id))
        balance = await db.fetchval("SELECT sum(cents)::bigint FROM entries")
        answers = Counter(self._answers.values())
        true = all(states[o] in STATES_AFTER.get(word, ()) for o, word in self._answers.items())
        all_ended = {row["state"] for row in transactions} <= ENDED
        counts = Counter({row["state"]: row["count"] for row in transactions})
        abandoned = sum(row["abandoned"] for row in transactions)
        in_time = self._quiet_s < PROMISED_S
        promised = f"{payments:,} in all, and true"
        return [
            Finding("killed", _text(self._killed)),
            Finding("last answers", _text(answers), promised, true and answers.total() == payments),
            Finding("transactions", _text(counts), "all ended", all_ended),
            Finding("of them left by a kill before they were decided", str(abandoned)),
            Finding("orders", _text(Counter(states.values()))),
            Finding(
                "all ended after the last start",
                f"{self._quiet_s:.1f} s",
                f"under {PROMISED_S:g} s",
                in_time,
            ),
            Finding("sum of all entries", f"{balance} cents", "0 cents", balance == 0),
            ledger_finding(ledger),
        ]


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {name}" for name, count in sorted(counts.items()))


@app.command()
def main(
    payments: Annotated[int, typer.Option(help="Orders to pay.", min=100)] = 2_000,
    kills: Annotated[int, typer.Option(help="Points at which to kill.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """Pay orders while the processes that do it are killed."""
    if kills > payments:
        raise typer.BadParameter("at most one for each payment", param_hint="--kills")
    measure(_kills(payments, kills), as_json)


async def _kills(payments: int, kills: int) -> list[Finding]:
    async with bench_stack() as stack:
        gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        workers = [await stack.run("consumers", OTHER_CORE) for _ in range(WORKERS)]
        return await KilledCheckouts(stack, gateway, workers).run(payments, kills)


if __name__ == "__main__":
    app()
