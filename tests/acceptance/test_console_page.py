"""The console in a browser: an operator watches a crowd, and each button does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from ops.buyers import grab
from seckill.dead_letters import store as dead_letters
from seckill.sales import sales
from tests import browser
from tests.integration.shop import Shop
from tests.pools import PATIENCE_S, RunningPool
from tests.processes import eventually, limits_profile

VIEWS = ("overview", "sales", "work", "letters", "payments", "invariants", "trail")
BUYERS, UNITS = 40, 25


@pytest.fixture(scope="module")
async def pool(browser_here, settings, tmp_path_factory) -> AsyncIterator[RunningPool]:
    async with RunningPool(settings, tmp_path_factory.mktemp("console")) as running:
        await running.start(consumers=1)
        yield running


@pytest.fixture(scope="module")
async def gateway(pool, processes):
    """A gateway of the pool's home."""
    free = limits_profile(processes.home)
    return await processes.run("gateway", SECKILL_HOME=str(pool.home), **free)


@pytest.fixture
async def page(gateway, admin_token):
    """The console, signed in; an error of a script, or a breach of the policy, fails the test."""
    async with browser.chromium() as running:
        made = await running.new_page(viewport={"width": 1440, "height": 900})
        made.set_default_timeout(PATIENCE_S * 1000)
        wrong: list[str] = []
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        await made.goto(f"{gateway.admin_url}/console")
        assert await browser.barriers(made) == []
        await made.get_by_label("Your name").fill("anna")
        await made.get_by_label("Admin token").fill(admin_token)
        await made.get_by_role("button", name="Sign in").click()
        await made.get_by_role("link", name="Overview").wait_for()
        yield made
        assert wrong == []


async def press(page, name: str, confirm: str = "") -> None:
    """Press a button, and confirm what it asks."""
    await page.get_by_role("button", name=name, exact=True).first.click()
    if confirm:
        await page.get_by_role("dialog").get_by_role("button", name=confirm).click()


async def test_a_crowd_is_watched_and_a_sale_paused_and_resumed(
    page, gateway, open_sale, ticket_for, db
):
    sale = await open_sale(stock=UNITS)
    await page.goto(f"{gateway.admin_url}/console#sales/{sale.sale_id}")
    facts = page.get_by_role("region", name=f"Sale {sale.sale_id}")
    await facts.get_by_text("left in Redis").wait_for()
    async with ClientSession(gateway.url) as http:
        replies = await asyncio.gather(
            *(grab(http, sale.sale_id, f"b{n}", ticket_for(sale, f"b{n}")) for n in range(BUYERS))
        )
    assert sum(reply.status == 202 for reply in replies) == UNITS
    await facts.locator("dd").nth(0).filter(has_text="0").wait_for()
    await facts.locator("canvas").wait_for()

    async def is_state(wanted: str) -> bool:
        return (await sales.find(db, sale.sale_id)).state == wanted

    await press(page, f"Pause sale {sale.sale_id}", "Pause it")
    await eventually(lambda: is_state("paused"), "the sale is paused")
    await press(page, f"Resume sale {sale.sale_id}")
    await eventually(lambda: is_state("open"), "the sale is open again")
    who = await db.fetch("SELECT actor FROM audit WHERE sale_id = $1", sale.sale_id)
    assert {row[0] for row in who} == {"console: anna"}


async def test_a_role_is_scaled_and_a_dead_letter_replayed(
    page, gateway, pool, open_sale, letters, db, store, stock
):
    await page.goto(f"{gateway.admin_url}/console#work")
    await page.get_by_role("button", name="Scale relay").click()
    for bound in ("At least", "At most"):
        await page.get_by_label(bound).fill("2")
    await page.get_by_role("dialog").get_by_role("button", name="Scale").click()
    await pool.runs("relay", 2)

    sale = await open_sale(stock=5)
    (lost,) = await Shop(db, store, stock).grab(sale, "buyer")
    letter = await letters.naming(lost)
    await page.goto(f"{gateway.admin_url}/console#letters")
    await press(page, "Replay 1 letters of orders.place", "Replay them")

    async def is_placed() -> bool:
        row = await db.fetchval("SELECT state FROM orders WHERE order_id = $1", lost.order_id)
        return row == "pending"

    await eventually(is_placed, "the order has its row", within_s=PATIENCE_S)

    async def is_replayed() -> bool:
        return (await dead_letters.find(db, letter.letter_id)).state == "replayed"

    # Its order may have a row before the letter is closed.
    await eventually(is_replayed, "the letter is closed", within_s=PATIENCE_S)


async def test_no_view_keeps_people_out(page, gateway, open_sale, letters, tmp_path):
    sale = await open_sale(stock=5)
    await letters.arrive(b"junk", {"x-reason": "not a message"})
    for view in (*VIEWS, f"sales/{sale.sale_id}"):
        await page.goto(f"{gateway.admin_url}/console#{view}")
        await page.locator("main .card").first.wait_for()
        for theme in ("dark", "light"):
            button = page.get_by_role("button", name="Change between dark and light")
            if await page.evaluate("document.documentElement.dataset.theme") != theme:
                await button.click()
            assert await browser.barriers(page) == [], (view, theme)
        await browser.shoot(
            page, tmp_path, view.partition("/")[0] + ("-one" if "/" in view else "")
        )
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        await page.set_viewport_size({"width": 390, "height": 844})
        await page.wait_for_function(fits)  # charts are drawn anew when their room has changed
        await page.set_viewport_size({"width": 1440, "height": 900})
