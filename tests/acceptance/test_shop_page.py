"""The shop's page in browsers, from another origin than the gateway's."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest

from tests import browser
from tests.processes import eventually, limits_profile
from tests.shop_site import PICTURES, press, says, serve_shop, visiting


@pytest.fixture(scope="module")
async def site(browser_here, processes, settings):
    async with serve_shop(processes, settings, **limits_profile(processes.home)) as serving:
        yield serving


@pytest.fixture
def visit(chromium, site, consumers):
    return visiting(chromium, site)


@pytest.fixture
def looks(tmp_path):
    """Check a view with axe, dark and light, and keep pictures of a phone and a large screen."""

    async def check(page, name: str) -> None:
        for width in (390, 1440):
            await page.set_viewport_size({"width": width, "height": 844})
            for scheme in ("light", "dark"):
                await page.emulate_media(color_scheme=scheme)
                await page.screenshot(path=tmp_path / f"{name}-{width}-{scheme}.png")
        for scheme in ("dark", "light"):
            await page.emulate_media(color_scheme=scheme)
            assert await browser.barriers(page) == [], (name, scheme)
        await page.set_viewport_size({"width": 390, "height": 844})
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert await page.evaluate(fits), name

    return check


async def test_the_last_unit_expires_for_one_browser_and_comes_to_the_other_without_a_reload(
    visit, looks, open_sale, db, assert_balanced
):
    sale = await open_sale(stock=1)
    async with visit(sale, "alice") as one, visit(sale, "bob") as two:
        for page in (one, two):
            await says(page, "On sale now")
        await looks(one, "open")
        await asyncio.gather(press(one, "Buy"), press(two, "Buy"))

        async def winner():
            for page, other in ((one, two), (two, one)):
                if "Yours until" in await page.locator("#status").inner_text():
                    return page, other
            return None

        first, second = await eventually(winner, "one of them has it", within_s=60)
        await says(second, "Sold out")
        await second.locator("#note").filter(has_text="may come back at").wait_for()
        await looks(first, "yours")
        await looks(second, "sold-out")
        await press(second, "Buy one if it comes back")
        await says(second, "Waiting for one to come back")
        await db.execute("UPDATE orders SET pay_by = now() WHERE sale_id = $1", sale.sale_id)
        await first.locator("#note").filter(has_text="The time to pay is over").wait_for()
        await says(second, "Yours until")
        await says(first, "Sold out")
        await looks(first, "expired")
        states = await db.fetch(
            "SELECT state FROM orders WHERE sale_id = $1 ORDER BY created_at", sale.sale_id
        )
        assert [row[0] for row in states] == ["cancelled", "pending"]
    await assert_balanced(sale)


async def test_a_buyer_pays_by_keyboard_and_finds_the_order_after_a_reload(
    visit, looks, open_sale, checkout
):
    sale = await open_sale(
        stock=5, per_order_max=2, name="Runner 26, size 42", picture_url=f"{PICTURES}/shoe"
    )
    await checkout.give("keys", 2 * 1999)
    async with visit(sale, "keys") as page:
        await says(page, "On sale now")
        await page.get_by_role("heading", name="Runner 26, size 42").wait_for()
        await looks(page, "picture")
        await page.get_by_label("How many").select_option("2")
        await page.get_by_role("button", name="Buy").focus()
        await page.keyboard.press("Enter")
        await says(page, "Yours until")
        assert await page.evaluate("document.activeElement.id") == "status"  # not lost
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.id") == "wallet"
        await page.keyboard.press("Enter")
        await says(page, "It is on its way")
        await page.reload()
        await says(page, "It is on its way")
        await page.locator("#order").filter(has_text="€19.99").wait_for()
        await looks(page, "paid")


async def test_a_countdown_ends_in_a_button_that_works_and_a_cancelled_unit_can_be_had_again(
    visit, looks, open_sale, checkout
):
    sale = await open_sale(
        stock=5, opens_at=datetime.now(UTC) + timedelta(seconds=20), proof_bits=10
    )
    async with visit(sale, "poor", lang="zh") as page:
        assert await page.locator("html").get_attribute("lang") == "zh"
        await says(page, "开抢")
        await page.locator("#timer").filter(has_text=re.compile(r"00:\d\d")).wait_for()
        await page.locator("#note").filter(has_text="一切就绪").wait_for()  # the work is done
        assert await page.get_by_role("button", name="立即抢购").is_disabled()
        await looks(page, "countdown-zh")
        await says(page, "正在抢购")
        await press(page, "立即抢购")
        await says(page, "为您保留至")
        await press(page, "钱包付款")
        await page.get_by_role("alert").filter(has_text="钱包余额不足").wait_for()
        await press(page, "取消订单")
        await page.locator("#note").filter(has_text="您已取消订单").wait_for()
        await says(page, "正在抢购")
        await checkout.give("poor", 1999)
        await press(page, "立即抢购")
        await press(page, "钱包付款")
        await says(page, "付款成功")


async def test_who_is_not_signed_in_is_asked_to_and_an_event_source_takes_a_token(visit, open_sale):
    sale = await open_sale(stock=5)
    async with visit(sale) as page:
        await page.get_by_role("link", name="Sign in to buy").wait_for()
        assert await page.get_by_role("button").count() == 0
    async with visit(sale, "carl") as page:
        await press(page, "Buy")
        await says(page, "Yours until")
        heard = await page.evaluate(
            """async sale => {
                const { SeckillClient } = await import("/seckill-client.js");
                const { default: config } = await import("/shop/config.js");
                const client = new SeckillClient({ url: config.gateway, login: config.login });
                const { order_id } = await client.myOrder(sale);
                const source = new EventSource(await client.streamUrl(order_id));
                const heard = await new Promise((resolve, reject) => {
                    source.addEventListener("order", ({ data }) => resolve(JSON.parse(data)));
                    source.onerror = () => reject(new Error("refused"));
                });
                source.close();
                return heard;
            }""",
            sale.sale_id,
        )
        assert heard["status"] == "pending"
