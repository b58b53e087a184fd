"""Card payments through Stripe, as localstripe plays it: what the buyer, PostgreSQL and Stripe see.

What localstripe does not do as Stripe's documents say is listed in tests/localstripe.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.card_payments import CardPayments
from seckill.payments.checkout import CARD
from seckill.payments.payment import Payment, PaymentRefusal
from seckill.payments.provider import ChargeRequest, ChargeStatus
from seckill.payments.stripe_client import StripeClient
from seckill.transactions.states import TransactionState
from tests.checkout import payer
from tests.localstripe import ASKS, ASKS_THEN_DECLINES, DECLINED, KEY, VISA, LocalStripe

BACK = "https://shop.example/back"


class StripeBench:
    """One process that takes cards through Stripe."""

    def __init__(self, db, stripe: LocalStripe, client: StripeClient) -> None:
        self.db, self.stripe, self.client = db, stripe, client
        self.payments = CardPayments(CardPaymentStore(db), client, call_timeout_s=5, grace_s=60)

    async def pay(self, order, *, number: str = "", currency: str = "EUR"):
        """Pay an order with the card of a number."""
        token = await self.stripe.card(number) if number else VISA
        payment = Payment(
            order.sale_id,
            order.order_id,
            order.buyer_id,
            CARD,
            currency=currency,
            token=token,
            return_url=BACK,
        )
        return await self.payments.pay_order(payment)

    async def settle(self, sale) -> None:
        """Ask about every open payment of a sale, once."""
        await self.db.execute(
            "UPDATE payments SET next_ask_at = now()"
            " WHERE next_ask_at IS NOT NULL AND sale_id = $1",
            sale.sale_id,
        )
        await self.payments.ask_due()

    async def books(self, sale) -> list[tuple[str, int]]:
        """Return (status, amount) of each PaymentIntent of a sale."""
        return [
            (intent["status"], intent["amount"])
            for intent in await self.stripe.intents()
            if intent["metadata"]["seckill_sale"] == sale.sale_id
        ]


@pytest.fixture(scope="module")
async def localstripe() -> AsyncIterator[LocalStripe]:
    async with LocalStripe.serving() as stripe:
        yield stripe


@pytest.fixture
async def cards(db, localstripe) -> AsyncIterator[StripeBench]:
    async with StripeClient.open(localstripe.url, KEY, timeout_s=5, calls_max=9) as client:
        yield StripeBench(db, localstripe, client)


@pytest.fixture
def place(shop, open_sale):
    async def make(**terms):
        sale = await open_sale(stock=1, **terms)
        return sale, (await shop.order(sale, payer()))[0]

    return make


async def test_a_card_is_authorised_then_captured(cards, place, shop, db, assert_balanced):
    sale, order = await place()
    assert (await cards.pay(order)).confirmed
    assert await shop.states(sale, [order]) == ["paid"]
    assert await cards.books(sale) == [("requires_capture", 1999)]

    (wanted,) = (await CardPaymentStore(db).charges([f"card-{order.order_id}-0"])).values()
    assert wanted.ref.startswith("pi_")
    for _ in range(2):  # again changes nothing
        assert (await cards.client.capture(wanted)).status is ChargeStatus.CAPTURED
    assert await cards.books(sale) == [("succeeded", 1999)]
    await assert_balanced(sale)


async def test_a_declined_buyer_has_another_try(cards, place, shop, assert_balanced):
    sale, order = await place()
    outcome = await cards.pay(order, number=DECLINED)
    assert (outcome.state, outcome.reason) == (TransactionState.CANCELED, PaymentRefusal.DECLINED)
    assert outcome.detail == "card_declined"
    assert await shop.states(sale, [order]) == ["pending"]
    assert (await cards.pay(order)).confirmed
    assert sorted(await cards.books(sale)) == [
        ("requires_capture", 1999),
        ("requires_payment_method", 1999),
    ]
    await assert_balanced(sale)


@pytest.mark.parametrize(
    ("number", "yes", "state"),
    [(ASKS, True, "paid"), (ASKS, False, "pending"), (ASKS_THEN_DECLINES, True, "pending")],
)
async def test_a_buyer_whom_the_bank_asks_has_an_outcome_after_that(
    cards, place, shop, assert_balanced, number, yes, state
):
    sale, order = await place()
    outcome = await cards.pay(order, number=number)
    assert outcome.state is TransactionState.TRYING
    assert "/bank/pi_" in outcome.detail
    # While the buyer is at the bank nothing is decided, and the unit is theirs
    await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["paying"]
    try:
        await cards.stripe.decide(outcome.detail.rpartition("/")[2], yes=yes)
    finally:
        await cards.settle(sale)
    assert await shop.states(sale, [order]) == [state]
    await assert_balanced(sale)


async def test_a_buyer_who_never_comes_back_from_the_bank_loses_the_unit(
    cards, place, shop, assert_balanced
):
    sale, order = await place()
    await cards.pay(order, number=ASKS)
    await shop.let_expire(order)
    for _ in range(2):  # given up, then voided
        await cards.settle(sale)
    assert await shop.states(sale, [order]) == ["cancelled expired"]
    assert await cards.books(sale) == [("canceled", 1999)]
    await shop.return_all(sale)
    await assert_balanced(sale)


@pytest.mark.parametrize("faults", [[429], [409], [500], [503], [0], [0, 0], [500, 429, 0]])
async def test_whatever_stripe_does_not_answer_is_charged_once(
    cards, place, shop, assert_balanced, faults
):
    sale, order = await place()
    cards.stripe.faults = list(faults)
    outcome = await cards.pay(order)
    while cards.stripe.faults or outcome.state is TransactionState.TRYING:
        await cards.settle(sale)
        if await shop.states(sale, [order]) == ["paid"]:
            break
    assert await shop.states(sale, [order]) == ["paid"]
    assert await cards.books(sale) == [("requires_capture", 1999)]
    await assert_balanced(sale)


async def test_a_charge_whose_id_no_one_knows_is_voided(cards, open_sale):
    sale = await open_sale()
    wanted = ChargeRequest("lost-1", 700, "EUR", sale.sale_id, "lost", VISA)
    assert (await cards.client.authorise(wanted)).status is ChargeStatus.AUTHORISED
    for _ in range(2):
        assert (await cards.client.void(wanted)).status is ChargeStatus.VOIDED
    assert (await cards.client.authorise(wanted)).status is ChargeStatus.VOIDED
    assert await cards.books(sale) == [("canceled", 700)]
    (listed,) = await cards.client.charges_of(sale.sale_id)
    assert (listed.key, listed.is_over) == ("lost-1", True)


async def test_a_key_with_another_amount_is_of_a_forgotten_attempt_and_voided(cards, open_sale):
    sale = await open_sale()
    wanted = ChargeRequest("forgotten-1", 700, "EUR", sale.sale_id, "lost", VISA)
    await cards.client.authorise(wanted)
    other = ChargeRequest("forgotten-1", 900, "EUR", sale.sale_id, "lost", VISA)
    assert (await cards.client.authorise(other)).status is ChargeStatus.VOIDED
    assert await cards.books(sale) == [("canceled", 700)]


@pytest.mark.parametrize(("currency", "amount"), [("JPY", 1999), ("UGX", 199_900)])
async def test_stripe_gets_its_own_units_of_a_currency(cards, place, currency, amount):
    sale, order = await place(currency=currency)
    assert (await cards.pay(order, currency=currency)).confirmed
    assert await cards.books(sale) == [("requires_capture", amount)]


async def test_an_amount_that_stripe_cannot_charge_is_declined(cards, place, shop):
    sale, order = await place(currency="KWD")  # 1.999: the last digit must be 0
    outcome = await cards.pay(order, currency="KWD")
    assert (outcome.reason, outcome.detail) == (PaymentRefusal.DECLINED, "amount_not_chargeable")
    assert await cards.books(sale) == []
