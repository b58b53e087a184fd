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
from loadtest.findings import AsJson, Finding, counts_text, ledger_finding, measure
from loadtest.stack import PATIENCE_S, BenchStack, bench_stack
from ops.processes.child import Child
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.sales.sales import Sale
from seckill.transactions.states import ENDED
from seckill.transactions.tcc import ABANDONED

CONSUMERS = 2
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

chance = random.Random()  # noqa: S311 - no secret


class KillPoints:
    """Lets payments begin, in their turn, up to the point of the next kill."""

    def __init__(self, payments: int, kills: int) -> None:
        self._points = sorted(chance.sample(range(1, payments + 1), kills))
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

    async def kill_all(self, targets: list[Child]) -> Counter[str]:
        """Kill some of the processes at each point, and start them again; return who was killed."""
        killed: Counter[str] = Counter()
        while self._points:
            async with self._changed:
                await self._changed.wait_for(lambda: self._begun >= self._points[0])
            await asyncio.sleep(chance.uniform(0, AIM_S))
            # The last kill takes all processes: what it leaves is what has to end in time.
            last = len(self._points) == 1
            victims = chance.sample(
                targets, len(targets) if last else chance.randint(1, len(targets))
            )
            await asyncio.gather(*(victim.kill() for victim in victims))
            killed.update(victim.name for victim in victims)
            async with self._changed:
                del self._points[0]
                self._changed.notify_all()  # buyers go on while the processes are down
            await asyncio.gather(*(victim.start() for victim in victims))
        return killed


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
    answers: dict[str, str] = {}
    points = KillPoints(payments, kills)
    async with bench_stack() as stack:
        gateway = await stack.gateway(consumers=CONSUMERS)
        sale = await stack.open_sale(units=payments)
        orders = await place_orders(stack, gateway.url, sale, payments)
        await _prepare(stack, sale, list(orders))
        async with ClientSession(gateway.url, timeout=ClientTimeout(total=5)) as http:

            async def buyer(order: tuple[str, str]) -> None:
                buyer_id, order_id = order
                await points.begin_payment()
                answers[order_id] = await _pay(http, order_id, stack.login(buyer_id))

            paying = asyncio.create_task(for_each(orders.items(), buyer, BUYERS_AT_ONCE))
            killed = await points.kill_all(stack.children)
            restarted_at = time.monotonic()
            await asyncio.wait_for(paying, PATIENCE_S)
        unended = "SELECT FROM transactions WHERE args ->> 'sale_id' = $1 AND ended_at IS NULL"
        complaint = "transactions have not ended: seckill tx list"
        await stack.until(f"SELECT NOT EXISTS ({unended})", sale, complaint)
        quiet_s = time.monotonic() - restarted_at
        ledger = await stack.verify(sale)
        return [
            Finding("killed", counts_text(killed)),
            *await _compared(stack, sale, answers),
            Finding(
                "all ended after the last start",
                f"{quiet_s:.1f} s",
                f"under {PROMISED_S:g} s",
                quiet_s < PROMISED_S,
            ),
            ledger_finding(ledger),
        ]


async def _prepare(stack: BenchStack, sale: Sale, buyers: list[str]) -> None:
    """Fill wallets, but not all; and let the warehouse be short of some units."""
    poor, db = len(buyers) // EVERY, stack.db
    # Wallets outlive a run: the poor are those who have least.
    cents = {b: (await wallets.find_wallet(db, b)).available_cents for b in buyers}
    richer = sorted(buyers, key=cents.__getitem__)[poor:]
    lacking = [b for b in richer if cents[b] < sale.price_cents]
    await wallets.top_up(db, [TopUp(new_tx_id(), b, sale.price_cents) for b in lacking])
    query = "INSERT INTO shipping_capacity (sale_id, units) VALUES ($1, $2)"
    await db.execute(query, sale.sale_id, len(buyers) - 2 * poor)


async def _pay(http: ClientSession, order_id: str, login: dict[str, str]) -> str:
    """Pay until the answer is final; return its word."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        reply = await pay(http, order_id, "wallet", login)
        if reply.status == 200:
            return "paid"
        if reply.status in (402, 404, 410) or reply.code == "not_payable":
            return reply.code
        await asyncio.sleep(chance.uniform(0.5, 1) * AGAIN_S)
    return "nothing final"


async def _compared(stack: BenchStack, sale: Sale, answers: dict[str, str]) -> list[Finding]:
    """Compare the last answers with the orders and transactions."""
    query = "SELECT order_id::text, state FROM orders WHERE sale_id = $1"
    states = dict(await stack.db.fetch(query, sale.sale_id))
    rows = await stack.db.fetch(
        "SELECT state, count(*), count(*) FILTER (WHERE reason = $2) AS abandoned"
        "  FROM transactions WHERE args ->> 'sale_id' = $1 GROUP BY state ORDER BY state",
        sale.sale_id,
        ABANDONED,
    )
    balance = await stack.db.fetchval("SELECT sum(cents)::bigint FROM entries")
    true = all(states[order] in STATES_AFTER.get(word, ()) for order, word in answers.items())
    promised = f"{sale.total:,} in all, some of them paid, and true"
    words = Counter(answers.values())
    counts = Counter({row["state"]: row["count"] for row in rows})
    abandoned = sum(row["abandoned"] for row in rows)
    return [
        Finding(
            "last answers",
            counts_text(words),
            promised,
            true and words["paid"] > 0 and len(answers) == sale.total,
        ),
        Finding("transactions", counts_text(counts), "all ended", counts.keys() <= ENDED),
        Finding("of them left by a kill before they were decided", str(abandoned)),
        Finding("orders", counts_text(Counter(states.values()))),
        Finding("sum of all entries", f"{balance} cents", "0 cents", balance == 0),
    ]


if __name__ == "__main__":
    typer.run(main)
