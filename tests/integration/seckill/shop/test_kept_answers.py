"""A change with a key happens once: repeated, at the same time, after a refusal."""

from __future__ import annotations

import asyncio
import itertools
from hashlib import sha256

import pytest

from seckill.errors import WrongState
from seckill.payments import wallets
from seckill.payments.payment import new_tx_id
from seckill.payments.wallets import TopUp
from seckill.shop import kept_answers
from seckill.shop.kept_answers import KeyedCall, KeyReused
from tests.checkout import payer

_numbers = itertools.count()


@pytest.fixture
def call():
    return KeyedCall("erp", f"key-{next(_numbers)}", sha256(b"what is asked").digest())


@pytest.fixture
def pay_in(db):
    """A change that is not idempotent by itself: each run puts in 5 cents."""

    def make(buyer):
        async def change(connection):
            await wallets.top_up(connection, [TopUp(new_tx_id(), buyer, 5)])
            wallet = await wallets.find_wallet(connection, buyer)
            return str(wallet.available_cents).encode()

        return change

    return make


async def test_a_repeat_gets_the_first_answer_and_changes_nothing(db, call, pay_in):
    buyer = payer()
    first = await kept_answers.once(db, call, pay_in(buyer))
    again = await kept_answers.once(db, call, pay_in(buyer))
    assert (first.answer, first.replayed) == (b"5", False)
    assert (again.answer, again.replayed) == (b"5", True)
    assert (await wallets.find_wallet(db, buyer)).available_cents == 5
    assert await kept_answers.find(db, call) == b"5"


async def test_calls_at_the_same_time_change_once(db, call, pay_in):
    buyer = payer()
    answers = await asyncio.gather(*(kept_answers.once(db, call, pay_in(buyer)) for _ in range(6)))
    assert {each.answer for each in answers} == {b"5"}
    assert [each.replayed for each in answers].count(False) == 1
    assert (await wallets.find_wallet(db, buyer)).available_cents == 5


async def test_a_refusal_is_undone_as_a_whole_and_not_kept(db, call, pay_in):
    buyer = payer()

    async def refused(connection):
        await pay_in(buyer)(connection)
        raise WrongState("not now")

    with pytest.raises(WrongState, match="not now"):
        await kept_answers.once(db, call, refused)
    assert await kept_answers.find(db, call) is None
    assert (await wallets.find_wallet(db, buyer)).available_cents == 0
    assert not (await kept_answers.once(db, call, pay_in(buyer))).replayed


async def test_another_call_may_not_have_the_key(db, call, pay_in):
    buyer = payer()
    await kept_answers.once(db, call, pay_in(buyer))
    other = KeyedCall(call.token, call.key, sha256(b"something else").digest())
    with pytest.raises(KeyReused, match=call.key):
        await kept_answers.once(db, other, pay_in(buyer))
    with pytest.raises(KeyReused):
        await kept_answers.find(db, other)
    of_another_token = KeyedCall("shop", call.key, call.digest)
    assert not (await kept_answers.once(db, of_another_token, pay_in(buyer))).replayed


async def test_old_answers_leave_with_new_ones(db, call, pay_in):
    await kept_answers.once(db, call, pay_in(payer()))
    await db.execute(
        "UPDATE shop_answers SET at = now() - interval '8 days' WHERE key = $1", call.key
    )
    other = KeyedCall(call.token, f"{call.key}-later", call.digest)
    await kept_answers.once(db, other, pay_in(payer()))
    assert await kept_answers.find(db, call) is None
    assert await kept_answers.find(db, other)
