"""`python -m loadtest.drills.kills`: wallet checkouts while their processes are killed.

Buyers pay over HTTP and come back until they are told for good. Of a gateway and two consumers, one
or more are killed (SIGKILL) at random points spread over all payments, and started again at once.
Afterwards every transaction has to end, and the ledger to balance.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Annotated, NamedTuple

import typer
from aiohttp import ClientError, ClientSession, ClientTimeout

from config.settings import PROJECT_ROOT
from loadtest.findings import Finding, Json, ledger_finding, measure, show
from loadtest.stack import NO_SHEDDING, OTHER_CORE, TESTED_CORE, BenchStack, Process, bench_stack
from ops.buyers import grab
from seckill.errors import SeckillError
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.sales.sales import Sale
from seckill.transactions.states import ENDED
from seckill.transactions.tcc import ABANDONED

HOME = PROJECT_ROOT / ".seckill" / "bench"
WORKERS = 2
BUYERS_AT_ONCE = 20
#: Every so manieth buyer lacks the money; as many units cannot be shipped, and are refunded.
EVERY = 20
#: A kill comes up to so long after the payment that it is aimed at: within its stages.
AIM_S = 0.02
PROMISED_S = 30.0
#: Longest wait for anything that should take seconds.
PATIENCE_S = 120.0
#: A buyer who is told nothing final comes back after so long.
AGAIN_S = 0.2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class PaidOrder(NamedTuple):
    """An order to be paid."""

    order_id: str
    buyer_id: str
    login: dict[str, str]


class Gate:
    """Lets buyers pay, in their turn, until the next kill is due."""

    def __init__(self, points: list[int]) -> None:
        self._points = points
        self._begun = 0
        self._changed = asyncio.Condition()

    async def enter(self) -> None:
        """Begin a payment."""
        async with self._changed:
            await self._changed.wait_for(self._may_enter)
            self._begun += 1
            self._changed.notify_all()

    def _may_enter(self) -> bool:
        # A little beyond the point: so that a kill finds payments under way.
        return not self._points or self._begun < self._points[0] + BUYERS_AT_ONCE

    async def reached(self) -> None:
        """Wait for the payments before the next point."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._begun >= self._points[0])

    async def open(self) -> None:
        """Let payments up to the point after it begin."""
        async with self._changed:
            self._points.pop(0)
            self._changed.notify_all()


class Checkouts:
    """One run."""

    def __init__(self, stack: BenchStack, gateway: Process, workers: list[Process]) -> None:
        self._stack = stack
        self._gateway = gateway
        self._targets = [gateway, *workers]
        self._random = random.Random()  # noqa: S311 - no secret
        self.killed: Counter[str] = Counter()
        self.told: dict[str, str] = {}
        self.quiet_s = 0.0

    async def run(self, payments: int, kills: int) -> list[Finding]:
        """Sell, pay, kill, and count."""
        sale = await self._stack.open_sale(units=payments)
        orders = await self._grab_all(sale, payments)
        await self._prepare(sale, orders)
        gate = Gate(sorted(self._random.sample(range(1, payments + 1), kills)))
        timeout = ClientTimeout(total=5)
        async with ClientSession(self._gateway.url, timeout=timeout) as session:
            queue = list(orders)

            async def buyers() -> None:
                while queue:
                    order = queue.pop()
                    await gate.enter()
                    self.told[order.order_id] = await self._pay(session, order)

            paying = asyncio.gather(*(buyers() for _ in range(BUYERS_AT_ONCE)))
            for left in reversed(range(kills)):
                await gate.reached()
                await asyncio.sleep(self._random.uniform(0, AIM_S))
                # The last takes all: what it leaves is what has to end in time.
                count = self._random.randint(1, len(self._targets)) if left else len(self._targets)
                await self._kill(gate, self._random.sample(self._targets, count))
            restarted_at = time.monotonic()
            await asyncio.wait_for(paying, PATIENCE_S)
            await self._until(
                "SELECT NOT EXISTS (SELECT FROM transactions"
                " WHERE args ->> 'sale_id' = $1 AND ended_at IS NULL)",
                sale,
                "transactions have not ended: seckill tx list",
            )
            self.quiet_s = time.monotonic() - restarted_at
        return await self._findings(sale, payments)

    async def _grab_all(self, sale: Sale, count: int) -> list[PaidOrder]:
        waiting = [(f"b{n}", ticket) for n, ticket in enumerate(self._stack.tickets(sale, count))]
        orders: list[PaidOrder] = []
        async with ClientSession(self._gateway.url) as session:

            async def buyers() -> None:
                while waiting:
                    buyer_id, ticket = waiting.pop()
                    answer = await grab(session, sale.sale_id, buyer_id, ticket)
                    if answer.order_id is None:  # told to come back
                        waiting.append((buyer_id, ticket))
                        await asyncio.sleep(AGAIN_S)
                    else:
                        orders.append(
                            PaidOrder(answer.order_id, buyer_id, self._stack.login(buyer_id))
                        )

            await asyncio.gather(*(buyers() for _ in range(BUYERS_AT_ONCE)))
        await self._until(
            "SELECT frozen = total FROM inventory WHERE sale_id = $1", sale, "orders are missing"
        )
        return orders

    async def _prepare(self, sale: Sale, orders: list[PaidOrder]) -> None:
        """Fill wallets, but not all; and let the warehouse be short of some units."""
        poor = len(orders) // EVERY
        # Wallets outlive a run: the poor are those who have least.
        cents = {order.buyer_id: await self._cents(order.buyer_id) for order in orders}
        by_wealth = sorted(cents, key=lambda buyer_id: cents[buyer_id])
        lacking = [b for b in by_wealth[poor:] if cents[b] < sale.price_cents]
        top_ups = [TopUp(new_tx_id(), buyer_id, sale.price_cents) for buyer_id in lacking]
        await wallets.top_up(self._stack.db, top_ups)
        await self._stack.db.execute(
            "INSERT INTO shipping_capacity (sale_id, units) VALUES ($1, $2)",
            sale.sale_id,
            len(orders) - 2 * poor,
        )

    async def _cents(self, buyer_id: str) -> int:
        return (await wallets.find_wallet(self._stack.db, buyer_id)).available_cents

    async def _pay(self, session: ClientSession, order: PaidOrder) -> str:
        """Pay until told for good; return that word."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                async with session.post(
                    f"/v1/orders/{order.order_id}/payments",
                    json={"method": "wallet"},
                    headers=order.login,
                ) as response:
                    status, body = response.status, await response.json(content_type=None)
            except (ClientError, TimeoutError):
                status, body = 0, {}
            if status == 200:
                return "paid"
            word = str(body.get("code"))
            if status in (402, 404, 410) or word == "not_payable":
                return word
            await asyncio.sleep(self._random.uniform(0.5, 1) * AGAIN_S)
        return "nothing final"

    async def _kill(self, gate: Gate, victims: list[Process]) -> None:
        """Kill processes at once, and start them again."""
        await asyncio.gather(*(victim.child.kill() for victim in victims))
        self.killed.update(victim.child.name for victim in victims)
        await gate.open()  # buyers come on while they are away
        await asyncio.gather(*(victim.child.start() for victim in victims))

    async def _until(self, query: str, sale: Sale, complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not await self._stack.db.fetchval(query, sale.sale_id):
            if time.monotonic() > deadline:
                raise SeckillError(complaint)
            await asyncio.sleep(0.1)

    async def _findings(self, sale: Sale, payments: int) -> list[Finding]:
        books = await self._stack.verify(sale, wait_s=PATIENCE_S)
        rows = await self._stack.db.fetch(
            "SELECT state, count(*), count(*) FILTER (WHERE reason = $2) AS abandoned"
            "  FROM transactions WHERE args ->> 'sale_id' = $1 GROUP BY state ORDER BY state",
            sale.sale_id,
            ABANDONED,
        )
        states = {row["order_id"]: row["state"] for row in await self._orders(sale)}
        untrue = [o for o, word in self.told.items() if states[o] not in _MEANS.get(word, ())]
        balance = await self._stack.db.fetchval("SELECT sum(cents)::bigint FROM entries")
        told = Counter(self.told.values())
        abandoned = sum(row["abandoned"] for row in rows)
        return [
            Finding("killed", _text(self.killed)),
            Finding(
                "told in the end",
                _text(told),
                f"{payments:,} in all, and true",
                told.total() == payments and not untrue,
            ),
            Finding(
                "transactions",
                _text(Counter({row["state"]: row["count"] for row in rows})),
                "all ended",
                {row["state"] for row in rows} <= ENDED,
            ),
            Finding("of them left by a kill before they were decided", str(abandoned)),
            Finding("orders", _text(Counter(states.values()))),
            Finding(
                "all ended after the last start",
                f"{self.quiet_s:.1f} s",
                f"under {PROMISED_S:g} s",
                self.quiet_s < PROMISED_S,
            ),
            Finding("sum of the books", f"{balance} cents", "0 cents", balance == 0),
            ledger_finding(books),
        ]

    async def _orders(self, sale: Sale) -> list[dict[str, str]]:
        return [
            dict(row)
            for row in await self._stack.db.fetch(
                "SELECT order_id::text, state FROM orders WHERE sale_id = $1", sale.sale_id
            )
        ]


#: What a buyer was told -> the states that the order may be in afterwards.
_MEANS = {
    "paid": {"paid", "refunded"},
    "insufficient_funds": {"pending"},
    # Paid, but the answer was lost, and refunded before he asked again.
    "not_payable": {"refunded"},
}


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {name}" for name, count in sorted(counts.items()))


@app.command()
def main(
    payments: Annotated[int, typer.Option(help="Orders to pay.", min=100)] = 2_000,
    kills: Annotated[int, typer.Option(help="Points at which to kill.", min=1)] = 50,
    as_json: Json = False,
) -> None:
    """Pay orders while the processes that do it are killed."""
    if kills > payments:
        raise typer.BadParameter("at most one for each payment", param_hint="--kills")
    show(measure(_measure(payments, kills), as_json), as_json)


async def _measure(payments: int, kills: int) -> list[Finding]:
    async with bench_stack(HOME) as stack:
        gateway = await stack.run("gateway", TESTED_CORE, **NO_SHEDDING)
        workers = [await stack.run("consumers", OTHER_CORE) for _ in range(WORKERS)]
        return await Checkouts(stack, gateway, workers).run(payments, kills)


if __name__ == "__main__":
    app()
