"""`python -m loadtest.drills.card_payments`: card payments with a provider that one cannot rely on.

Real gateways and consumers, over HTTP. The provider declines some charges, does not answer some
calls (although it carries them out), and lets the bank decide some charges only when the order's
time is over. In the end its books are held against the orders, key by key.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import typer
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from config.settings import PROJECT_ROOT
from loadtest.findings import Finding, Json, ledger_finding, measure, show, told_text
from loadtest.stack import BenchStack, bench_stack
from ops.buyers import flash_crowd
from ops.sandbox_provider import Sandbox, SandboxBehaviour, SandboxCharge
from seckill.errors import SeckillError
from seckill.payments.provider_client import ChargeStatus
from seckill.sales.sales import Sale

#: An order waits so long for a bank, beyond its payment window; short, so that a run ends soon.
GRACE_S = 2.0
#: The bank decides late charges so long after that.
LATE_MARGIN_S = 5.0
#: Buyers who pay at once.
BUYERS_AT_ONCE = 100
#: A declined buyer tries once more, and one who is told to come back does.
DECLINES_MAX, TRIES_MAX = 2, 50
PATIENCE_S = 120.0

Share = Annotated[float, typer.Option(min=0, max=1)]

app = typer.Typer(help=__doc__, add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment as PostgreSQL has it."""

    tx_id: str
    buyer_id: str
    order_id: str
    owed_cents: int


@app.command()
def payments(
    count: Annotated[int, typer.Option(help="Orders to pay.", min=10)] = 5_000,
    lose: Share = 0.10,
    decline: Share = 0.10,
    late: Share = 0.05,
    window: Annotated[int, typer.Option(help="Seconds to pay in.", min=5)] = 60,
    as_json: Json = False,
) -> None:
    """Pay orders by card, and hold the provider's books against them."""
    late_after_s = window + GRACE_S + LATE_MARGIN_S
    habits = SandboxBehaviour(
        decline=decline, lose_replies=lose, late=late, late_after_s=late_after_s
    )
    show(measure(_payments(count, window, habits), as_json), as_json)


async def _payments(count: int, window_s: int, habits: SandboxBehaviour) -> list[Finding]:
    async with bench_stack(PROJECT_ROOT / ".seckill" / "bench") as stack:
        sandbox = Sandbox(habits, keys=stack.webhook_keys())
        async with sandbox.serving() as url:
            provider = {"SECKILL_PROVIDER_URL": url, "SECKILL_PAYMENT_GRACE_S": str(GRACE_S)}
            gateway = await stack.run("gateway", 0, **provider)
            sandbox.webhook_url = f"{gateway.url}/v1/webhooks/payments"
            for core in range(2):  # two that ask the provider, to be in each other's way
                await stack.run("consumers", core, **provider)
            sale = await stack.open_sale(units=count, payment_window_s=window_s)
            orders = await _place(stack, gateway.url, sale, count)
            told = await _pay_all(stack, gateway.url, orders)
            await sandbox.settled()
            books = await stack.verify(sale, wait_s=PATIENCE_S)
        rows = await _payments_of(stack, sale)
    sold = books.lines["sold"]
    return [
        Finding("told", told_text(Counter(told.values()))),
        Finding("orders", f"{sold:,} paid, {books.lines['orders cancelled']:,} cancelled"),
        *_held_against(list(sandbox.charges.values()), rows, told),
        ledger_finding(books),
    ]


async def _place(stack: BenchStack, url: str, sale: Sale, count: int) -> dict[str, str]:
    """Place an order for each buyer; return buyer -> order."""
    tickets = {f"b{n}": ticket for n, ticket in enumerate(stack.tickets(sale, count))}
    orders: dict[str, str] = {}
    while missing := {b: t for b, t in tickets.items() if b not in orders}:
        answers = await flash_crowd(url, sale.sale_id, missing, connections=50, presses=1)
        orders |= {a.buyer_id: a.order_id for a in answers if a.order_id}
    await stack.rate_of_placing(sale, count)
    return orders


async def _pay_all(stack: BenchStack, url: str, orders: dict[str, str]) -> dict[str, int]:
    """Let every buyer pay; return buyer -> the last status that he was told."""
    told: dict[str, int] = {}
    waiting = list(orders.items())
    connector = TCPConnector(limit=BUYERS_AT_ONCE)
    timeout = ClientTimeout(total=PATIENCE_S)
    async with ClientSession(url, connector=connector, timeout=timeout) as http:

        async def buyer() -> None:
            while waiting:
                buyer_id, order_id = waiting.pop()
                told[buyer_id] = await _pay(http, order_id, stack.login(buyer_id))

        await asyncio.gather(*(buyer() for _ in range(BUYERS_AT_ONCE)))
    return told


async def _pay(http: ClientSession, order_id: str, login: dict[str, str]) -> int:
    """Pay as a patient buyer would."""
    declines = 0
    for _ in range(TRIES_MAX):
        path, body = f"/v1/orders/{order_id}/payments", {"method": "card"}
        try:
            async with http.post(path, json=body, headers=login) as response:
                status, wait = response.status, response.headers.get("Retry-After")
        except ClientError:
            status, wait = 0, "1"
        declines += status == 402
        if wait is None and not (status == 402 and declines < DECLINES_MAX):
            return status
        await asyncio.sleep(float(wait or 0))
    raise SeckillError(f"{order_id} cannot be paid: told {status}, {TRIES_MAX} times")


async def _payments_of(stack: BenchStack, sale: Sale) -> list[Paid]:
    rows = await stack.db.fetch(
        "SELECT p.tx_id, p.buyer_id, p.order_id::text,"
        "       CASE WHEN o.state = 'paid' AND o.paying_tx = p.tx_id THEN p.amount_cents ELSE 0 END"
        "  FROM payments p JOIN orders o USING (order_id) WHERE p.sale_id = $1",
        sale.sale_id,
    )
    return [Paid(*row) for row in rows]


def _held_against(
    charges: list[SandboxCharge], rows: list[Paid], told: dict[str, int]
) -> list[Finding]:
    """Compare what each key was charged with what it paid for, and what buyers were told."""
    owed = {row.tx_id: row.owed_cents for row in rows}
    wrong = [c.key for c in charges if c.held_cents + c.taken_cents != owed.get(c.key, 0)]
    charged = {charge.key for charge in charges if charge.held_cents + charge.taken_cents}
    wrong += [tx_id for tx_id, cents in owed.items() if cents and tx_id not in charged]
    buyers = Counter(row.buyer_id for row in rows if row.owed_cents)
    untrue = [buyer for buyer, status in told.items() if status == 200 and not buyers[buyer]]
    late = [charge for charge in charges if charge.history[0] == ChargeStatus.PENDING]
    back = [
        c for c in late if ChargeStatus.AUTHORISED in c.history and c.status is ChargeStatus.VOIDED
    ]
    came = [c for c in late if ChargeStatus.AUTHORISED in c.history]
    return [
        Finding("payments", f"{len(rows):,}, {len(charges):,} keys at the provider"),
        Finding("charged", f"{len(charged):,} keys, {sum(owed.values()):,} cents"),
        Finding("keys charged otherwise than the order says", str(len(wrong)), "0", not wrong),
        Finding(
            "buyers charged twice",
            str(sum(number > 1 for number in buyers.values())),
            "0",
            max(buyers.values(), default=0) < 2,
        ),
        Finding("told 200 without a paid order", str(len(untrue)), "0", not untrue),
        Finding(
            "late money",
            f"{len(back):,} of {len(came):,} given back, for the others the order was still held",
            "some given back",
            bool(back),
        ),
    ]


if __name__ == "__main__":
    app()
