"""Payments under way: how long a client waits, which are refused, and that none is dropped."""

from __future__ import annotations

import asyncio

import pytest

from gateway.overload.rate_limiter import RateLimited
from gateway.payments import tasks
from gateway.payments.tasks import PaymentTasks
from seckill.errors import Unavailable
from seckill.payments.payment import Payment
from seckill.transactions.states import TransactionOutcome, TransactionState
from seckill.transactions.tcc import CoordinatorFull

PAYMENT = Payment("sale", "order", "ann")
PAID = TransactionOutcome(TransactionState.CONFIRMED)
LIMITED = RateLimited("confirm", 3.0, 1, 1)


class Gate:
    """A limiter, or a checkout, that answers when a test says so."""

    def __init__(self, answer=None) -> None:
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self.calls = 0
        if answer is not None:
            self.answer.set_result(answer)

    async def __call__(self, *_: object) -> object:
        self.calls += 1
        return await asyncio.shield(self.answer) or None

    refusal = pay = __call__


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Set how long a client waits; without a word, longer than anything here takes."""
    monkeypatch.setattr(tasks, "WAIT_S", 30.0)
    return lambda seconds: monkeypatch.setattr(tasks, "WAIT_S", seconds)


@pytest.fixture
def make(patience):
    """Make payment tasks; one that is slow is not waited for."""

    def make(*, limiter, checkout, in_flight_max=9):
        if not (limiter.answer.done() and checkout.answer.done()):
            patience(0.01)
        return PaymentTasks(limiter, checkout, in_flight_max=in_flight_max)

    return make


async def test_a_payment_is_answered_with_its_outcome(make):
    counter = make(limiter=Gate(False), checkout=Gate(PAID))
    assert await counter.pay(PAYMENT) == PAID


async def test_who_is_limited_does_not_reach_the_checkout(make):
    checkout = Gate(PAID)
    assert await make(limiter=Gate(LIMITED), checkout=checkout).pay(PAYMENT) == LIMITED
    assert checkout.calls == 0


@pytest.mark.parametrize("slow", ["limiter", "checkout"])
async def test_a_slow_payment_goes_on_and_is_waited_for_at_the_end(make, slow):
    gates = {"limiter": Gate(False), "checkout": Gate(PAID)}
    gates[slow] = Gate()
    counter = make(**gates)
    assert await counter.pay(PAYMENT) is None
    draining = asyncio.create_task(counter.drain(within_s=30))
    await asyncio.sleep(0)
    assert not draining.done()
    gates[slow].answer.set_result(False if slow == "limiter" else PAID)
    await draining
    assert gates["checkout"].calls == 1


async def test_draining_ends_in_time(make):
    checkout = Gate()
    counter = make(limiter=Gate(False), checkout=checkout)
    assert await counter.pay(PAYMENT) is None
    await counter.drain(within_s=0.01)
    checkout.answer.set_result(PAID)
    await counter.drain(within_s=30)


async def test_a_client_that_leaves_stops_nothing(make):
    checkout = Gate()
    counter = make(limiter=Gate(False), checkout=checkout)
    paying = asyncio.create_task(counter.pay(PAYMENT))
    await asyncio.sleep(0)
    paying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paying
    checkout.answer.set_result(PAID)
    await counter.drain(within_s=30)
    assert checkout.calls == 1


async def test_a_payment_beyond_the_limit_is_refused_until_one_has_ended(make, patience):
    checkout = Gate()
    counter = make(limiter=Gate(False), checkout=checkout, in_flight_max=1)
    assert await counter.pay(PAYMENT) is None
    with pytest.raises(CoordinatorFull):
        await counter.pay(PAYMENT)
    checkout.answer.set_result(PAID)
    await counter.drain(within_s=30)
    patience(30)
    assert await counter.pay(PAYMENT) == PAID


@pytest.mark.parametrize(("error", "logged"), [(Unavailable("no answer"), 0), (KeyError("bug"), 1)])
async def test_a_failure_without_a_waiting_client_is_logged_when_it_is_a_bug(
    make, caplog, error, logged
):
    checkout = Gate()
    counter = make(limiter=Gate(False), checkout=checkout)
    assert await counter.pay(PAYMENT) is None
    checkout.answer.set_exception(error)
    await counter.drain(within_s=30)
    await asyncio.sleep(0)
    assert sum(record.name == "gateway.payments.tasks" for record in caplog.records) == logged
