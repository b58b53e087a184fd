"""`make demo`: a whole flash sale on private services, from opening to a balanced ledger."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from config.settings import Settings, given_home, load_settings
from ops.buyers import BuyerReply, flash_crowd
from ops.cli.stores import Stores, open_stores
from ops.cli.verify import shown
from ops.processes.tasks import until_signal
from ops.stack.supervisor import StackListener, run_stack
from seckill.auth import login_tokens, tickets
from seckill.auth.key_ring import KeyRing
from seckill.consistency import snapshots, verify
from seckill.errors import SeckillError
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import Coupon, TopUp
from seckill.sales import sales
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale
from seckill_client.buyer import BuyerClient
from seckill_client.client import SeckillClient
from seckill_client.errors import RequestRefused, SeckillClientError

UNITS = 100
BUYERS = 2_000
CANCELLATIONS = 10
PAYERS = 20
LATECOMERS = 20
PRICE_CENTS, COUPON_CENTS = 1999, 500
#: Short, so that the demonstration shows unpaid orders giving their units back. On a slow machine
#: the crowd alone takes half of it, and only then the winners pay.
PAYMENT_WINDOW_S = 20
#: Longest wait for anything that should take a moment.
PATIENCE_S = 30.0


class Demo:
    """The steps of the demonstration, on a stack that runs."""

    def __init__(self, console: Console, settings: Settings, stores: Stores) -> None:
        self._console = console
        self._settings = settings
        self._stores = stores
        self._ticket_keys = KeyRing.parse(
            settings.ticket_keys.get_secret_value(), setting="SECKILL_TICKET_KEYS"
        )
        self._login_keys = KeyRing.parse(
            settings.jwt_keys.get_secret_value(), setting="SECKILL_JWT_KEYS"
        )

    async def run(self) -> bool:
        """Run it; True when the ledger balances and each step went as it should."""
        sale = await self._open_sale()
        answers = await self._crowd(sale)
        winners = {a.buyer_id: a.order_id for a in answers if a.status == 202 and a.order_id}
        self._print_answers(answers, len(winners))
        await self._wait_for_orders(sale, len(winners))
        async with SeckillClient(self._settings.gateway_url) as client:
            # Those who won last have most of their time left.
            await self._pay_some(client, sale, dict(list(winners.items())[-PAYERS - 1 :]))
            await self._cancel_some(client, dict(list(winners.items())[:CANCELLATIONS]))
            await self._wait_for_fulfilment(sale)
            await self._wait_for_expiry(sale)
            late = await self._latecomers(client, sale)
        outcome = await verify.verify(
            self._stores.redis, self._stores.db, sale.sale_id, wait_s=PATIENCE_S
        )
        self._console.print(shown(sale.sale_id, outcome))
        return outcome.balanced and len(winners) == UNITS and late == LATECOMERS

    async def _open_sale(self) -> Sale:
        new = NewSale(
            f"demo-{int(time.time())}", UNITS, PRICE_CENTS, payment_window_s=PAYMENT_WINDOW_S
        )
        await sales.create(self._stores.db, self._stores.stock, new)
        sale = await sales.open_(self._stores.db, self._stores.stock, new.sale_id)
        self._print(
            f"sale {sale.sale_id} is open: {UNITS} units, {PAYMENT_WINDOW_S} s to pay, "
            f"{BUYERS} buyers who all press twice"
        )
        return sale

    def _tickets(self, sale: Sale) -> dict[str, str]:
        expires_at_s = int(time.time()) + 3600
        return {
            buyer_id: tickets.issue(
                self._ticket_keys,
                sale_id=sale.sale_id,
                buyer_id=buyer_id,
                expires_at_s=expires_at_s,
            )
            # Of this run alone: wallets outlive a run that failed.
            for buyer_id in (f"{sale.sale_id}-{number:05d}" for number in range(BUYERS))
        }

    async def _crowd(self, sale: Sale) -> list[BuyerReply]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("grabs", total=2 * BUYERS)
            return await flash_crowd(
                self._settings.gateway_url,
                sale.sale_id,
                self._tickets(sale),
                on_answer=lambda _: progress.advance(bar),
            )

    def _print_answers(self, answers: list[BuyerReply], winners: int) -> None:
        kinds = Counter((a.status, a.code or "") for a in answers)
        counts = ", ".join(f"{n} x {status} {code}".rstrip() for (status, code), n in kinds.items())
        self._print(f"answers: {counts}")
        self._print(f"{winners} buyers won a unit")

    async def _wait_for_orders(self, sale: Sale, count: int) -> None:
        """Every winner has a row, though the first may have expired already."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            sql = await snapshots.read_sql(self._stores.db, sale.sale_id)
            placed = sum(n for n, _ in sql.by_state.values()) if sql else 0
            if placed >= count:
                self._print(f"{placed} orders are in PostgreSQL")
                return
            _check(deadline, f"only {placed} of {count} orders arrived in PostgreSQL")
            await asyncio.sleep(0.05)

    async def _pay_some(self, client: SeckillClient, sale: Sale, payers: dict[str, str]) -> None:
        """Pay from the wallets: the first with a coupon, the last without the money."""
        *rich, poor = payers
        coupon = Coupon(f"{sale.sale_id}-coupon", rich[0], COUPON_CENTS)
        await wallets.issue_coupons(self._stores.db, [coupon])
        cents = dict.fromkeys(rich, PRICE_CENTS) | {rich[0]: PRICE_CENTS - COUPON_CENTS}
        top_ups = [TopUp(new_tx_id(), buyer_id, money) for buyer_id, money in cents.items()]
        await wallets.top_up(self._stores.db, top_ups)
        await self._stores.db.execute(
            "INSERT INTO shipping_capacity (sale_id, units) VALUES ($1, $2)",
            sale.sale_id,
            PAYERS - 1,
        )
        # All at once: their time to pay is short, and a payment may take a while.
        coupons = {rich[0]: coupon.coupon_id}
        endings = await asyncio.gather(
            *(
                _pay(self._buyer(client, buyer_id), order_id, coupons.get(buyer_id))
                for buyer_id, order_id in payers.items()
            )
        )
        for buyer_id, ending in zip(payers, endings, strict=True):
            if ending != ("insufficient_funds" if buyer_id == poor else "paid"):
                raise SeckillError(f"the payment of {buyer_id} ended as {ending}")
        self._print(
            f"{PAYERS} buyers paid by wallet, one with a coupon; one lacked the money (402)"
        )

    async def _wait_for_fulfilment(self, sale: Sale) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            row = await self._stores.db.fetchrow(
                "SELECT count(*) FILTER (WHERE o.state = 'paid' AND s.state = 'allocated'),"
                "       count(*) FILTER (WHERE o.state = 'refunded')"
                "  FROM orders o LEFT JOIN shipments s USING (order_id) WHERE o.sale_id = $1",
                sale.sale_id,
            )
            if tuple(row) == (PAYERS - 1, 1):
                break
            _check(deadline, "the paid orders were not fulfilled")
            await asyncio.sleep(0.05)
        self._print(f"{PAYERS - 1} orders are on their way; one could not be shipped: refunded")

    async def _cancel_some(self, client: SeckillClient, winners: dict[str, str]) -> None:
        for buyer_id, order_id in winners.items():
            await self._buyer(client, buyer_id).cancel(order_id)
        self._print(f"{len(winners)} buyers cancelled; all others let their orders expire")

    async def _wait_for_expiry(self, sale: Sale) -> None:
        """All units that are not paid are back on sale: in PostgreSQL and in Redis."""
        left = UNITS - (PAYERS - 1)
        deadline = time.monotonic() + PATIENCE_S
        while (await self._stores.stock.left_of([sale.sale_id]))[0] != left:
            _check(deadline, "the units did not come back")
            await asyncio.sleep(0.05)
        self._print(f"{left} units are for sale again")

    async def _latecomers(self, client: SeckillClient, sale: Sale) -> int:
        wins = 0
        for number in range(LATECOMERS):
            with suppress(RequestRefused):
                await self._buyer(client, f"late-{number:05d}").grab(sale.sale_id)
                wins += 1
        await self._wait_for_orders(sale, UNITS + wins)
        self._print(f"{wins} of {LATECOMERS} latecomers got one of them")
        return wins

    def _buyer(self, client: SeckillClient, buyer_id: str) -> BuyerClient:
        expires_at_s = int(time.time()) + 3600
        login = login_tokens.issue(self._login_keys, buyer_id=buyer_id, expires_at_s=expires_at_s)
        return client.buyer(login)

    def _print(self, text: str) -> None:
        self._console.print(f"[bold cyan]>[/] {text}", highlight=False)


async def _pay(buyer: BuyerClient, order_id: str, coupon: str | None) -> str:
    """Pay; return the status of the order, or why nothing was taken."""
    try:
        return (await buyer.pay(order_id, coupon=coupon)).status
    except RequestRefused as refused:
        return refused.code


def _check(deadline: float, complaint: str) -> None:
    if time.monotonic() > deadline:
        raise SeckillError(complaint)


async def run() -> bool:
    """Start a stack of its own, run the demonstration on it, and stop the stack."""
    console = Console(soft_wrap=True)
    # A home of its own: it may run beside `make run`.
    home = given_home() / "demo"
    good = False
    ready = asyncio.Event()
    listener = StackListener(
        log=lambda text: console.print(f"[dim]{text}[/]", highlight=False),
        ready=lambda _: ready.set(),
    )

    async def demonstrate() -> None:
        nonlocal good
        stack = asyncio.create_task(run_stack(load_settings(home), 2, 1, listener), name="stack")
        try:
            started = asyncio.create_task(ready.wait())
            await asyncio.wait({stack, started}, return_when=asyncio.FIRST_COMPLETED)
            started.cancel()
            if stack.done():
                await stack  # raises what went wrong
            settings = load_settings(home)
            async with open_stores(settings) as stores:
                good = await Demo(console, settings, stores).run()
        finally:
            stack.cancel()
            await asyncio.wait({stack})

    await until_signal(demonstrate())
    return good


def main() -> None:
    """Exit 0 when the ledger balances and nothing is left running."""
    try:
        good = asyncio.run(run())
    except (SeckillError, SeckillClientError) as error:
        sys.exit(f"demo: {error}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
