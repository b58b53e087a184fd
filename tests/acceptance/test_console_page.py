"""The console in a browser: an operator watches a crowd, and each button does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

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
        made = await running.new_page(viewport={"width": 1440, "height": 900}, timezone_id="UTC")
        made.set_default_timeout(PATIENCE_S * 1000)
        wrong: list[str] = []
        made.on("pageerror", lambda error: wrong.append(str(error)))
        made.on("console", lambda said: is_wrong(said) and wrong.append(said.text))
        await made.goto(f"{gateway.admin_url}/console")
        assert await browser.barriers(made) == []
        await made.get_by_label("Your name").fill("anna")
        await made.get_by_label("Admin token").fill(admin_token)
        await made.get_by_role("button", name="Sign in").click()
        await made.get_by_role("link", name="Overview").wait_for()
        yield made
        assert wrong == []


def is_wrong(said) -> bool:
    """Tell whether a browser says an error; a value that the gateway refuses is none."""
    return said.type == "error" and "status of 422" not in said.text


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


async def test_a_sale_is_made_by_the_form_and_edited_before_it_begins(page, gateway, db, tmp_path):
    await page.goto(f"{gateway.admin_url}/console#sales")
    await press(page, "New sale")
    typed = {
        "Id": "by-form",
        "Name": "Sneaker “Ölberg”",
        "SKU": "SNK-7",
        "Picture": "http://shop.example/shoe.jpg",
        "Metadata": '{"colour": "red", "gtin": 12345678901234567890}',
        "Price of a unit, in cents": "1999",
        "Currency": "JPY",
        "Units for sale": "50",
        "Opens at": "2031-06-01T20:00",
        "Closes at": "2031-06-01T10:00",
    }
    for label, text in typed.items():
        await page.get_by_label(label, exact=True).fill(text)
    await page.get_by_text("That is 1999 JPY.").wait_for()
    await page.get_by_label("Who sees it").select_option("until")
    await page.get_by_label("Hidden until", exact=True).fill("2031-05-30T12:00:30")

    # Each refusal stands at the field at fault, in the words of the command line.
    async def is_refused(label: str, words: str, mended: str) -> None:
        await press(page, "Make the sale")
        field = page.get_by_label(label, exact=True)
        wrong = page.locator(f"#field-{await field.get_attribute('name')}-wrong")
        await wrong.filter(has_text=words).wait_for()
        assert await field.get_attribute("aria-invalid") == "true"
        await field.fill(mended)

    await is_refused("Closes at", "a sale must close after it opens", "2031-06-02T20:00")
    await see_form(page, tmp_path, "form-new")
    await is_refused("Picture", "give an https address", "https://shop.example/shoe.jpg")
    await press(page, "Make the sale")
    await page.get_by_text("look at the year").first.wait_for()  # it is saved, and doubted

    made = await sales.find(db, "by-form")
    assert (made.name, made.sku, made.currency) == ("Sneaker “Ölberg”", "SNK-7", "JPY")
    assert (made.price_cents, made.total, made.payment_window_s) == (1999, 50, 900)
    assert made.metadata == {"colour": "red", "gtin": 12345678901234567890}
    assert (made.hidden, made.announce_at) == (True, datetime(2031, 5, 30, 12, 0, 30, tzinfo=UTC))
    assert made.opens_at == datetime(2031, 6, 1, 20, tzinfo=UTC)

    # It is opened, and postponed until it begins; its units no longer change here.
    await page.goto(f"{gateway.admin_url}/console#sales/by-form")
    await press(page, "Open sale by-form", "Open it")
    await page.get_by_text("Sale by-form is open.").wait_for()
    await press(page, "Edit")
    await page.get_by_label("Name", exact=True).fill("")
    await page.get_by_label("Closes at", exact=True).fill("")
    await page.get_by_label("Opens at", exact=True).fill("2031-06-03T20:00")
    await page.get_by_label("Who sees it").select_option("shown")
    assert await page.get_by_label("Units for sale").is_disabled()
    await see_form(page, tmp_path, "form-edit")
    await press(page, "Save the changes")
    await page.get_by_text("It is saved.").wait_for()
    edited = await sales.find(db, "by-form")
    assert (edited.state, edited.name, edited.sku) == ("open", None, "SNK-7")
    assert (edited.opens_at, edited.closes_at) == (datetime(2031, 6, 3, 20, tzinfo=UTC), None)
    assert (edited.hidden, edited.announce_at, edited.metadata) == (False, None, made.metadata)


async def see_form(page, folder, name: str) -> None:
    """Look at the form on a phone and a large screen, dark and light."""
    for width in (390, 1440):
        await page.set_viewport_size({"width": width, "height": 900})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        for theme in ("dark", "light"):
            await page.evaluate(
                "theme => { document.documentElement.dataset.theme = theme }", theme
            )
            assert await browser.barriers(page) == [], (name, width, theme)
    await browser.shoot(page, folder, name)
