"""How the pages are for whoever enlarges them twofold, and for whoever sees no colour."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageStat
from playwright.async_api import Page

from tests.browser import ARTIFACTS, a_browser
from tests.desk import DeskUnderTest, a_day, a_desk_server, pages
from tests.test_desk_pages import WIDE
from tests.test_desk_sent_browser import PAGES, everything_there_is, signed_in

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

Happens = Callable[[DeskUnderTest], tuple[str, ...]]
"""What happens at the desk; gives the pages that show it."""

SHOTS = ARTIFACTS / "desk-sight"

ZOOMED = {"width": WIDE["width"] // 2, "height": WIDE["height"] // 2}
"""What a browser of 1280 × 900 makes of a page at 200 %: half as many CSS pixels, each drawn with four."""

_CUT_OFF = """() => [...document.querySelectorAll("main :is(h1, h2, h3, a, button, label, p, td, th, .mark)")]
  .filter(e => e.checkVisibility() && !e.closest(".scroll, .hidden-text"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1
            || (getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1))
  .map(e => e.outerHTML.slice(0, 120))"""

_COLOURED_ONLY = """() => [...document.querySelectorAll("main a[href]")]
  .filter(e => e.checkVisibility() && e.closest("p, li, dd, td:not(:has(> a:only-child))"))
  .filter(e => !e.matches(".button, .choice, .door, .skip") && getComputedStyle(e).textDecorationLine !== "underline")
  .map(e => e.outerHTML.slice(0, 120))"""


def of_a_day(desk: DeskUnderTest) -> tuple[str, ...]:
    a_day(desk.app)
    return pages(desk.app)


def of_an_evening(desk: DeskUnderTest) -> tuple[str, ...]:
    """With every end that a delivery can have."""
    everything_there_is(desk)
    return "/desk", *PAGES


@pytest.mark.parametrize("happens", [of_a_day, of_an_evening])
async def test_at_twice_the_size_every_page_fits_and_nothing_is_cut_off(tmp_path: Path, happens: Happens) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        paths = await asyncio.to_thread(happens, desk)
        context = await signed_in(browser, desk, "admin", viewport=ZOOMED, device_scale_factor=2)
        page = await context.new_page()
        for path in paths:
            await page.goto(desk.url + path)
            assert await page.evaluate("document.documentElement.scrollWidth") <= ZOOMED["width"], path
            assert await page.evaluate(_CUT_OFF) == [], path
            await page.screenshot(path=SHOTS / f"{_name(path)}-200.png", full_page=True)


@pytest.mark.parametrize("happens", [of_a_day, of_an_evening])
async def test_without_colour_a_state_is_a_sign_and_a_word_and_a_link_is_underlined(
    tmp_path: Path, happens: Happens
) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        paths = await asyncio.to_thread(happens, desk)
        page = await (await signed_in(browser, desk, "admin", viewport=WIDE)).new_page()
        await in_grey(page)
        words: dict[str, set[str]] = {}
        for path in paths:
            await page.goto(desk.url + path)
            await page.screenshot(path=SHOTS / f"{_name(path)}-grey.png", full_page=True)
            assert await page.evaluate(_COLOURED_ONLY) == [], path
            marks = await page.evaluate(
                "[...document.querySelectorAll('main .mark')].map(e => [e.className.match(/m-[a-z]+/)[0], e.textContent])"
            )
            for colour, said in marks:
                words.setdefault(colour, set()).add(said.strip())
        assert set(words) >= ({"m-pending"} if happens is of_a_day else {"m-delivered", "m-failed", "m-unknown"})
        for colour, said in words.items():
            assert all(re.match(r"[●◔✕?–▲△✓◌]\s*\S", word) for word in said), (colour, said)
            for other in words.keys() - {colour}:
                assert not said & words[other], "two colours with one word"


async def test_without_colour_nobody_takes_one_door_for_the_other(tmp_path: Path) -> None:
    """Live is dark all over; drill is light in a hatched frame: to be told apart by brightness and by pattern."""
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        page = await (await signed_in(browser, desk, "duty", viewport=WIDE)).new_page()
        await in_grey(page)
        await page.goto(f"{desk.url}/desk")
        live, drill = [await _grey(page, door) for door in (".door-live", ".hatched:has(.door-drill)")]
        assert ImageStat.Stat(drill).mean[0] - ImageStat.Stat(live).mean[0] > 60
        edge = drill.crop((0, 2, drill.width, 3))  # along the frame: the hatching
        assert ImageStat.Stat(edge).stddev[0] > 40
        assert ImageStat.Stat(live.crop((0, 2, live.width, 3))).stddev[0] < 20


async def in_grey(page: Page) -> None:
    """As somebody sees it who sees no colours."""
    session = await page.context.new_cdp_session(page)
    await session.send("Emulation.setEmulatedVisionDeficiency", {"type": "achromatopsia"})


async def _grey(page: Page, what: str) -> Image.Image:
    drawn = Image.open(io.BytesIO(await page.locator(what).first.screenshot()))
    red, green, blue = (ImageStat.Stat(band).mean[0] for band in drawn.convert("RGB").split())
    assert max(red, green, blue) - min(red, green, blue) < 3, "it is seen without colours"
    return drawn.convert("L")


def _name(path: str) -> str:
    return re.sub(r"[^a-z0-9A-Z-]+", "-", path).strip("-")
