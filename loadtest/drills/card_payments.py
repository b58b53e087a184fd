"""`python -m loadtest.drills.card_payments`: card payments with an unreliable provider.

Real gateways and consumers, over HTTP. The provider declines some charges, does not answer some
calls (although it carries them out), and lets the bank decide some charges only when the order's
time is over. In the end its charges are compared with the orders, key by key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import asyncpg
import typer
from aiohttp import ClientSession, ClientTimeout, TCPConnector

from loadtest.drills.buyers import for_each, pay, place_orders
from loadtest.findings import AsJson, Finding, counts_text, ledger_finding, measure, none_of
from loadtest.stack import PATIENCE_S, BenchStack, bench_stack
from ops.sandbox_provider import Sandbox, SandboxBehaviour, SandboxCharge
from seckill.errors import SeckillError
from seckill.payments.provider import ChargeStatus

#: An order waits so long for a bank, beyond its payment window; short, so that a run ends soon.
GRACE_S = 2.0
#: The bank decides late charges so long after that.
LATE_MARGIN_S = 5.0
#: Buyers who pay at once.
BUYERS_AT_ONCE = 100
#: A declined buyer tries once more, and comes back after a Retry-After.
DECLINES_MAX, TRIES_MAX = 2, 50

#: The payments of a sale, and what the buyer owes for each.
PAYMENTS = """
SELECT p.tx_id, p.buyer_id,
       CASE WHEN o.state = 'paid' AND o.paying_tx = p.tx_id THEN p.amount_cents ELSE 0 END
       AS owed_cents
  FROM payments p JOIN orders o USING (order_id) WHERE p.sale_id = $1
"""

Share = Annotated[float, typer.Option(min=0, max=1)]


def main(
    count: Annotated[int, typer.Option(help="Orders to pay.", min=10)] = 5_000,
    lose: Share = 0.10,
    decline: Share = 0.10,
    late: Share = 0.05,
    window: Annotated[int, typer.Option(help="Seconds to pay in.", min=5)] = 60,
    as_json: AsJson = False,
) -> None:
    """Pay orders by card, and compare the provider's charges with them."""
    late_after_s = window + GRACE_S + LATE_MARGIN_S
    behaviour = SandboxBehaviour(
        decline=decline, lose_replies=lose, late=late, late_after_s=late_after_s
    )
    measure(_payments(count, window, behaviour), as_json)


async def _payments(count: int, window_s: int, behaviour: SandboxBehaviour) -> list[Finding]:
    async with bench_stack() as stack:
        sandbox = Sandbox(behaviour, keys=stack.key_ring("webhook_keys"))
        async with sandbox.serving() as url:
            provider = {"SECKILL_PROVIDER_URL": url, "SECKILL_PAYMENT_GRACE_S": str(GRACE_S)}
            gateway = await stack.run("gateway", 0, **provider)
            sandbox.webhook_url = f"{gateway.url}/v1/webhooks/payments"
            for core in range(2):  # two that ask the provider, to be in each other's way
                await stack.run("consumers", core, **provider)
            sale = await stack.open_sale(units=count, payment_window_s=window_s)
            orders = await place_orders(stack, gateway.url, sale, count)
            statuses = await _pay_all(stack, gateway.url, orders)
            await sandbox.settled()
            ledger = await stack.verify(sale)
        rows = await stack.db.fetch(PAYMENTS, sale.sale_id)
    paid, cancelled = ledger.lines["sold"], ledger.lines["orders cancelled"]
    return [
        Finding("answers", counts_text(Counter(statuses.values()))),
        Finding("orders", f"{paid:,} paid, {cancelled:,} cancelled"),
        *_compared(list(sandbox.charges.values()), rows, statuses),
        ledger_finding(ledger),
    ]


async def _pay_all(stack: BenchStack, url: str, orders: dict[str, str]) -> dict[str, int]:
    """Let every buyer pay; return buyer -> the status of their last answer."""
    statuses: dict[str, int] = {}
    connector, timeout = TCPConnector(limit=BUYERS_AT_ONCE), ClientTimeout(total=PATIENCE_S)
    async with ClientSession(url, connector=connector, timeout=timeout) as http:

        async def buyer(order: tuple[str, str]) -> None:
            buyer_id, order_id = order
            statuses[buyer_id] = await _pay(http, order_id, stack.login(buyer_id))

        await for_each(orders.items(), buyer, BUYERS_AT_ONCE)
    return statuses


async def _pay(http: ClientSession, order_id: str, login: dict[str, str]) -> int:
    """Pay as a patient buyer would; return the last status."""
    declines = 0
    for _ in range(TRIES_MAX):
        reply = await pay(http, order_id, "card", login)
        declines += reply.status == 402
        declined = reply.status == 402 and declines < DECLINES_MAX
        if reply.retry_after_s is None and not declined:
            return reply.status
        await asyncio.sleep(reply.retry_after_s or 0)
    raise SeckillError(f"{order_id} cannot be paid: {reply.status} after {TRIES_MAX} tries")


def _compared(
    charges: list[SandboxCharge], rows: Sequence[asyncpg.Record], statuses: dict[str, int]
) -> list[Finding]:
    """Compare what each key was charged with what it paid for, and with the answers."""
    owed = {row["tx_id"]: row["owed_cents"] for row in rows}
    charged = {charge.key: charge.held_cents + charge.taken_cents for charge in charges}
    wrong = [key for key in owed | charged if charged.get(key, 0) != owed.get(key, 0)]
    orders_of = Counter(row["buyer_id"] for row in rows if row["owed_cents"])
    untrue = [buyer for buyer, status in statuses.items() if status == 200 and not orders_of[buyer]]
    twice = sum(number > 1 for number in orders_of.values())
    late = [
        charge
        for charge in charges
        if charge.history[0] == ChargeStatus.PENDING and ChargeStatus.AUTHORISED in charge.history
    ]
    back = sum(charge.status is ChargeStatus.VOIDED for charge in late)
    return [
        Finding("payments", f"{len(rows):,}, {len(charges):,} keys at the provider"),
        Finding(
            "charged", f"{sum(map(bool, charged.values())):,} keys, {sum(owed.values()):,} cents"
        ),
        none_of("keys charged otherwise than for the order", len(wrong)),
        none_of("buyers charged twice", twice),
        none_of("answered 200 without a paid order", len(untrue)),
        Finding(
            "late money",
            f"{back:,} of {len(late):,} given back, for the others the order was still held",
            "some given back",
            bool(back),
        ),
    ]


if __name__ == "__main__":
    typer.run(main)
