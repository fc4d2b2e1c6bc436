"""Every page of the desk: valid HTML, usable by everybody, at every width, in both languages; the same table of pages
for the checker, for axe and for the eyes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests import nu
from tests.browser import ARTIFACTS, a_browser
from tests.desk import a_day, a_desk, a_desk_server, pages, picture, violations

SHOTS = ARTIFACTS / "desk"
WIDE, PHONE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}, {"width": 320, "height": 640}


async def test_every_page_is_valid_html_in_both_languages(tmp_path: Path) -> None:
    shown = {}
    (tmp_path / "pages").mkdir()
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        visitor, admin = await desk.person(), await desk.person("admin")
        for language in ("ja", "en"):
            shown[f"sign-in {language}"] = (await visitor.get(f"/desk/sign-in?lang={language}")).text
            for path in pages(desk.app):
                answer = await admin.get(path + ("&" if "?" in path else "?") + f"lang={language}")
                assert answer.status_code == (404 if path == "/desk/nowhere" else 200), (path, answer.status_code)
                shown[f"{path} {language}"] = answer.text
    found = nu.faults(shown, tmp_path / "pages")
    assert not found, "\n".join(found)


async def test_every_page_says_where_one_is(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        admin = await desk.person("admin")
        titles = {}
        for path in pages(desk.app):
            text = (await admin.get(path)).text
            assert len(re.findall(r"<h1[ >]", text)) == 1, path
            title = re.search(r"<title>(.*?)</title>", text, re.DOTALL)
            assert title, path
            assert title[1].strip().endswith("しながわ広報デスク"), (path, title[1])
            assert 'href="#main"' in text
            assert 'id="main"' in text
            titles[path] = title[1]
    assert len(set(titles.values())) > len(titles) - 8  # views of one thing may share a title


@pytest.mark.browser
@pytest.mark.timeout(600)
@pytest.mark.parametrize("language", ["ja", "en"])
async def test_every_page_is_usable_by_everybody(tmp_path: Path, language: str) -> None:
    """axe finds nothing at WCAG 2.1 AA; nothing is wider than a screen of 320; by day and, at one width, by night."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        a_day(desk.app)
        context = await browser.new_context(viewport=PHONE, locale=language)
        page = await context.new_page()
        foreign: list[str] = []
        page.on("request", lambda request: foreign.append(request.url) if desk.url not in request.url else None)
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        await page.goto(f"{desk.url}/desk/sign-in?lang={language}")
        await _is_fine(page, "sign-in", language)
        await page.click("button[value=admin]")
        for path in pages(desk.app):
            await page.goto(desk.url + path)
            await _is_fine(page, path, language)
        assert foreign == []
        assert [said for said in complaints if "404" not in said] == []


async def _is_fine(page: Page, path: str, language: str) -> None:
    name = re.sub(r"[^a-z0-9A-Z-]+", "-", path).strip("-")
    assert not (found := await violations(page)), (path, found)
    for size in (PHONE, WIDE):
        await page.set_viewport_size(size)  # type: ignore[arg-type]
        await page.screenshot(path=SHOTS / f"{name}-{language}-{size['width']}.png", full_page=True)
        if size is WIDE and language == "ja" and (drawn := _drawn(path)):
            await picture(page, drawn)
    await page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= NARROW["width"], (path, width)
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]


def _drawn(path: str) -> str:
    """The picture in the guides that shows this page."""
    if "view=month" in path:
        return "calendar"
    return {"sign-in": "sign-in", "/desk": "home", "/desk/messages": "messages"}.get(path, "")


@pytest.mark.browser
async def test_what_the_first_page_weighs(tmp_path: Path) -> None:
    """The desk's first view: at most 150 kB over the wire, style and scripts with it."""
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        a_day(desk.app)
        page = await (await browser.new_context(viewport=WIDE)).new_page()
        await page.goto(f"{desk.url}/desk/sign-in")
        session = await page.context.new_cdp_session(page)
        await session.send("Network.enable")
        weight = 0

        def count(event: dict[str, float]) -> None:
            nonlocal weight
            weight += int(event["encodedDataLength"])

        session.on("Network.loadingFinished", count)
        await session.send("Network.clearBrowserCache")
        await page.click("button[value=approver]")
        await page.wait_for_load_state("load")
        await page.wait_for_timeout(300)
        assert 20_000 < weight <= 150_000, weight
