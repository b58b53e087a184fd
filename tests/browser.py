"""A browser for the pages of the gateway: Debian's Chromium, driven by Playwright.

if line := missing():
    ...  # what this machine lacks, and what to type
async with chromium() as browser:
    page = await browser.new_page()
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

#: Views and their marks: axe's words for what keeps a person out.
KEEPS_OUT = {"serious", "critical"}
#: It runs as root in a container, without a graphics card, and calls no other host.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def missing() -> str:
    """Return what to type to get it, "" if it is there."""
    if not shutil.which("chromium"):
        return "type: sudo apt-get install chromium"
    lacks = [name for name in ("playwright", "axe_playwright_python") if not find_spec(name)]
    return f"{lacks[0]} is missing; type: .venv/bin/pip install -e '.[browser]'" if lacks else ""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a browser with a profile of its own inside the block."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        try:
            yield browser
        finally:
            await browser.close()


async def barriers(page: Page) -> list[str]:
    """Return what of a page keeps people out, as axe finds it."""
    from axe_playwright_python.async_playwright import Axe

    found = (await Axe().run(page)).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in KEEPS_OUT
    ]


async def shoot(page: Page, folder: Path, name: str) -> None:
    """Keep pictures of a view: as on a phone and a large screen, dark and light."""
    size = page.viewport_size
    for width in (390, 1440):
        await page.set_viewport_size({"width": width, "height": 900})
        for theme in ("dark", "light"):
            await page.evaluate(
                "theme => { document.documentElement.dataset.theme = theme }", theme
            )
            await page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
    if size:
        await page.set_viewport_size(size)
