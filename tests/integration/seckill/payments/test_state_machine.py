"""Random interleavings of payments with timeouts, cancellations, refunds, late messages and kills.

After every step the invariants hold as far as they can while things move; at the end recovery
finishes what was left, and then all of them hold and nothing is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from config.settings import Settings
from seckill.adapters import postgres
from seckill.adapters import redis as redis_client
from seckill.backoff import Backoff
from seckill.consistency import verify
from seckill.errors import WrongState
from seckill.inventory import stock_returns
from seckill.inventory.reservations import Grab, Stock, Verdict
from seckill.order_ids import new_order_id
from seckill.orders import orders
from seckill.orders.orders import Placement
from seckill.payments import refunds, wallets
from seckill.payments.checkout import PAYMENT
from seckill.sales import sales
from seckill.sales.terms import NewSale
from seckill.transactions import attempts
from seckill.transactions.states import BranchCall, BranchOp, TransactionState
from tests.checkout import BRANCHES, CheckoutBench, payer
from tests.fulfilment import FulfilmentWorker
from tests.transactions import LATE_OPS, run_together

T = TypeVar("T")

#: Runs of the machine; `pytest --hypothesis-profile=thorough` makes the many.
EXAMPLES = {"thorough": 1_000}
EXAMPLES_IN_CI = 50
#: Longest wait for a store. A disk that is busy elsewhere is not what is tried here.
PATIENCE_S = 60.0

PRICE_CENTS = 10
#: What each buyer has: enough for several orders, for one with a coupon, for none.
MONEY_CENTS = (25, 4, 2)
BUYERS = len(MONEY_CENTS)
#: One less than buyers, so that what is given back is sold again.
UNITS = 2
#: Points at which a process dies; None lives. A payment passes about 60.
deaths = strategies.one_of(strategies.none(), strategies.integers(0, 60))


@dataclass(frozen=True)
class World:
    """Stores on the machine's own loop: its rules cannot be coroutines."""

    runner: asyncio.Runner
    db: asyncpg.Pool
    redis: Redis


#: Which of the orders placed so far. Races decide how many there are, so it is no bundle: what is
#: drawn has to be the same each time a run is repeated.
which = strategies.integers(0, 99)


class Payments(RuleBasedStateMachine):
    """One small sale, its buyers, and any number of processes."""

    calls: Bundle[BranchCall] = Bundle("calls")

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._db = world.db
        self._stock = Stock(world.redis)
        self._buyers = [payer() for _ in range(BUYERS)]
        self._coupons: dict[str, str] = {}
        self._placed: list[Placement] = []

    def _order_of(self, number: int) -> Placement:
        return self._placed[number % len(self._placed)]

    def _run(self, *processes: Awaitable[object]) -> None:
        run_together(self._world.runner, *processes)

    def _must(self, process: Coroutine[Any, Any, T]) -> T:
        """Run what has to succeed: the machine goes on from it, or judges by it."""
        return self._world.runner.run(process)

    @initialize()
    def open(self) -> None:
        self._must(self._open())

    async def _open(self) -> None:
        self._checkout = CheckoutBench(self._db, self._world.redis)
        new = NewSale(f"machine-{self._buyers[0]}", UNITS, PRICE_CENTS)
        await sales.create(self._db, self._stock, new)
        self._sale = await sales.open_(self._db, self._stock, new.sale_id)
        for buyer_id, cents in zip(self._buyers, MONEY_CENTS, strict=True):
            self._coupons[buyer_id] = await self._checkout.coupon(buyer_id, PRICE_CENTS - 3)
            await self._checkout.give(buyer_id, cents)
        for buyer_id in self._buyers[:UNITS]:
            await self._order(buyer_id)
        assert len(self._placed) == UNITS

    @rule(buyer=strategies.integers(0, BUYERS - 1))
    def order(self, buyer: int) -> None:
        self._must(self._order(self._buyers[buyer]))

    async def _order(self, buyer_id: str) -> None:
        grab = Grab(new_order_id(self._sale.number), buyer_id, 1)
        reply = await self._stock.grab(
            self._sale.sale_id,
            [grab],
            deadline_ms=await self._stock.now_ms() + 10_000,
            outbox_max=100,
        )
        if reply.verdicts[0] is not Verdict.ACCEPTED:
            return
        await self._stock.ack_outbox(self._sale.sale_id, [reply.outbox_id])
        placement = Placement(grab.order_id, self._sale.sale_id, buyer_id, 1, reply.epoch)
        assert await orders.place(self._db, [placement]) == []
        self._placed.append(placement)

    @rule(buyer=strategies.integers(0, BUYERS - 1), cents=strategies.integers(1, 15))
    def top_up(self, buyer: int, cents: int) -> None:
        self._run(self._checkout.give(self._buyers[buyer], cents))

    @rule(target=calls, order=which, coupon=strategies.booleans(), dies_at=deaths)
    def pay(self, order: int, coupon: bool, dies_at: int | None) -> BranchCall:
        call = self._work(self._order_of(order), coupon)
        self._run(self._pay(call, dies_at))
        return call

    @rule(
        target=calls,
        order=which,
        coupon=strategies.booleans(),
        tried=strategies.integers(0, len(BRANCHES)),
    )
    def stop_before_the_decision(self, order: int, coupon: bool, tried: int) -> BranchCall:
        call = self._work(self._order_of(order), coupon)
        self._run(self._try(call, BRANCHES[:tried]))
        return call

    @rule(target=calls, order=which, dies_at=strategies.tuples(deaths, deaths))
    def pay_twice_while_it_times_out(
        self, order: int, dies_at: tuple[int | None, int | None]
    ) -> object:
        placement = self._order_of(order)
        calls = [self._work(placement, coupon) for coupon in (False, True)]
        self._run(
            self._pay(calls[0], dies_at[0]),
            self._pay(calls[1], dies_at[1]),
            self._time_out(placement),
        )
        return multiple(*calls)

    @rule(order=which)
    def time_out(self, order: int) -> None:
        self._run(self._time_out(self._order_of(order)))

    @rule(order=which)
    def change_their_mind(self, order: int) -> None:
        order_ids = [self._order_of(order).order_id]
        self._run(orders.release(self._db, order_ids, to_state="cancelled", reason="buyer"))

    @rule(order=which)
    def refund(self, order: int) -> None:
        self._run(self._refund(self._order_of(order)))

    @rule(call=calls, branch=strategies.sampled_from(BRANCHES), number=strategies.integers(0, 1))
    def a_message_comes_late(self, call: BranchCall, branch: str, number: int) -> None:
        self._run(self._late(call, branch, number))

    @rule(dies_at=deaths)
    def recover(self, dies_at: int | None) -> None:
        self._run(self._recover(dies_at))

    @rule(
        call=calls,
        branch=strategies.sampled_from(BRANCHES),
        dies_at=strategies.tuples(deaths, deaths),
    )
    def recover_twice_at_once(
        self, call: BranchCall, branch: str, dies_at: tuple[int | None, int | None]
    ) -> None:
        self._run(
            self._recover(dies_at[0]),
            self._recover(dies_at[1]),
            self._late(call, branch, 0),
            self._late(call, branch, 1),
        )

    @rule()
    def give_back(self) -> None:
        self._run(self._give_back())

    @invariant()
    def nothing_is_wrong(self) -> None:
        ledger = self._must(self._verify())
        assert ledger.balanced, ledger.violations

    def teardown(self) -> None:
        self._must(self._recover(None))
        self._must(FulfilmentWorker(self._db).run(self._sale.sale_id))
        self._must(self._give_back())
        ledger = self._must(self._verify())
        assert ledger.balanced, ledger.violations
        assert ledger.quiet, ledger.lines

    def _work(self, order: Placement, coupon: bool) -> BranchCall:
        return self._checkout.call(order, coupon=self._coupons[order.buyer_id] if coupon else None)

    async def _verify(self) -> verify.Ledger:
        return await verify.verify(self._world.redis, self._db, self._sale.sale_id)

    async def _try(self, call: BranchCall, branches: Sequence[str]) -> None:
        await self._checkout.log.begin("tcc", PAYMENT, TransactionState.TRYING, [call])
        for branch in branches:
            if await self._checkout.run(branch, BranchOp.TRY, call):
                return

    async def _pay(self, call: BranchCall, dies_at: int | None) -> None:
        await self._checkout.mortal(dies_at).coordinator.run([call])

    async def _recover(self, dies_at: int | None) -> None:
        await self._checkout.mortal(dies_at).recover(self._sale.sale_id)

    async def _time_out(self, order: Placement) -> None:
        await self._db.execute(
            "UPDATE orders SET pay_by = now() WHERE order_id = $1", order.order_id
        )
        await orders.release(
            self._db, [order.order_id], to_state="cancelled", reason="expired", overdue_only=True
        )

    async def _refund(self, order: Placement) -> None:
        try:
            await refunds.refund(self._db, order.order_id, actor="machine", reason="refund")
        except WrongState:
            return
        wallet = await wallets.find_wallet(self._db, order.buyer_id)
        assert wallet.available_cents > 0

    async def _late(self, call: BranchCall, branch: str, number: int) -> None:
        state = await self._db.fetchval(
            "SELECT state FROM transactions WHERE tx_id = $1", call.tx_id
        )
        if state:
            ops = LATE_OPS[TransactionState(state)]
            await self._checkout.run(branch, ops[number % len(ops)], call)

    async def _give_back(self) -> None:
        while (await stock_returns.return_batch(self._db, self._stock)).done:
            pass


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        db = runner.run(
            opened.enter_async_context(
                postgres.connect(settings.postgres_dsn, size=8, timeout_s=PATIENCE_S)
            )
        )
        redis = redis_client.connect(settings.redis_url, timeout_s=PATIENCE_S)
        opened.push_async_callback(redis.aclose)
        yield World(runner, db, redis)
        runner.run(opened.aclose())


@pytest.mark.timeout(3600)
def test_I1_to_I8_whatever_happens_in_any_order(world, monkeypatch):
    monkeypatch.setattr(attempts, "BACKOFF", Backoff(0.0, 0.2))
    profile = settings.get_current_profile_name()
    run_state_machine_as_test(
        lambda: Payments(world),
        settings=settings(
            max_examples=EXAMPLES.get(profile, EXAMPLES_IN_CI),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
