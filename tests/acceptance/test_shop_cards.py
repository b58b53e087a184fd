"""The shop's page in browsers, paying by card through Stripe, with the bank's page between."""

from __future__ import annotations

import json

import pytest

from tests.localstripe import ASKS, DECLINED, KEY, SECRET, VISA, LocalStripe
from tests.processes import eventually, limits_profile
from tests.shop_site import press, says, serve_shop, visiting


@pytest.fixture(scope="module")
async def stripe(browser_here):
    async with LocalStripe.serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def variables(stripe):
    return {
        "SECKILL_PROVIDER": "stripe",
        "SECKILL_STRIPE_URL": stripe.url,
        "SECKILL_STRIPE_KEY": KEY,
        "SECKILL_STRIPE_WEBHOOK_SECRET": SECRET,
    }


@pytest.fixture(scope="module")
async def consumers(processes, variables):
    return await processes.run("consumers", **variables)


@pytest.fixture(scope="module")
async def site(processes, settings, variables):
    shop = serve_shop(processes, settings, **variables, **limits_profile(processes.home))
    async with shop as serving:
        yield serving


@pytest.fixture
def visit(chromium, site, consumers):
    return visiting(chromium, site)


@pytest.fixture
def books(stripe):
    """What the provider has of a sale, once it has all that is expected."""

    async def read(sale, *wanted: tuple[str, int]) -> None:
        async def has():
            intents = await stripe.intents()
            found = [i for i in intents if i["metadata"]["seckill_sale"] == sale.sale_id]
            return sorted((i["status"], i["amount"]) for i in found) == sorted(wanted)

        await eventually(has, f"the provider's books say {wanted}", within_s=60)

    return read


async def use(page, card: str) -> None:
    """Let the page send a card, as the provider's form would name it."""
    await page.evaluate(
        "card => { localStorage.card = card; localStorage.methods = '[\"card\"]'; }",
        json.dumps({"payment_method": card}),
    )


async def answer_bank(page, answer: str) -> None:
    await page.get_by_role("heading", name="Your bank").wait_for()
    await page.get_by_role("button", name=answer, exact=True).click()


async def test_a_buyer_goes_to_the_bank_comes_back_and_it_is_on_its_way(
    visit, stripe, open_sale, books, assert_balanced
):
    sale = await open_sale(stock=1)
    async with visit(sale, "anna") as page:
        await use(page, await stripe.card(ASKS))
        await page.reload()
        await press(page, "Buy")
        await says(page, "Yours until")
        await press(page, "Pay by card")
        await answer_bank(page, "Yes")
        await says(page, "It is on its way")
    await books(sale, ("succeeded", 1999))
    await assert_balanced(sale)


async def test_a_declined_buyer_gets_another_try(visit, stripe, open_sale, books, assert_balanced):
    sale = await open_sale(stock=1)
    async with visit(sale, "dora") as page:
        await use(page, await stripe.card(DECLINED))
        await page.reload()
        await press(page, "Buy")
        await press(page, "Pay by card")
        await page.get_by_role("alert").filter(has_text="Your card was declined").wait_for()
        await says(page, "Yours until")
        await use(page, VISA)
        await press(page, "Pay by card")
        await says(page, "It is on its way")
        assert await page.get_by_role("alert").count() == 0
    await books(sale, ("requires_payment_method", 1999), ("succeeded", 1999))
    await assert_balanced(sale)


async def test_a_buyer_who_closes_the_page_at_the_bank_comes_back_to_it(
    visit, stripe, open_sale, books, assert_balanced
):
    sale = await open_sale(stock=1)
    async with visit(sale, "cleo") as page:
        await use(page, await stripe.card(ASKS))
        await page.reload()
        await press(page, "Buy")
        await press(page, "Pay by card")
        await page.get_by_role("heading", name="Your bank").wait_for()
    async with visit(sale, "cleo") as page:  # another device, say
        await says(page, "Your bank wants to ask you first")
        await page.get_by_role("link", name="Continue at your bank").click()
        await answer_bank(page, "Yes")
        await says(page, "It is on its way")
    await books(sale, ("succeeded", 1999))
    await assert_balanced(sale)
