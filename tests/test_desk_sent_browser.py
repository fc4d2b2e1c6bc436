"""After sending, in a real browser: the board goes on by itself while a real sender sends, then correct, then cancel; it
is whole without scripts; everybody can use it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page

from broadcaster import app as assembly
from broadcaster.clock import SystemClock
from broadcaster.delivery import Lane, State
from broadcaster.message import Mode
from broadcaster.rehearsal import smtp, x
from broadcaster.rehearsal.faults import Fault, Faults, Kind
from broadcaster.store import notes, subscribers
from broadcaster.store.audit import Actor
from tests.browser import ARTIFACTS, a_browser
from tests.desk import DeskUnderTest, a_desk, a_desk_server, violations
from tests.makers import a_notice, a_reader, an_alert
from tests.test_desk_sent import ALERT, DRILL, NOTICE, ends, letters_end, of, one_of

pytestmark = pytest.mark.browser

SHOTS = ARTIFACTS / "desk-sent"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
DUTY = Actor(name="duty", via="desk")


@asynccontextmanager
async def a_sender(desk: DeskUnderTest, folder: Path) -> AsyncIterator[Faults]:
    """Beside the server: the process that sends, and the world outside as stand-ins."""
    faults = Faults(folder / "faults.json")
    mail = await smtp.start(folder / "mail", faults, clock=SystemClock())
    social = await x.start(folder / "x", faults, clock=SystemClock())
    app = assembly.assemble(
        desk.app.settings, credentials=True, standins={"email": mail.port, "x": social.port}, clock=SystemClock()
    )
    await app.signals.start()
    task = asyncio.create_task(app.sender(list(Lane)).run())
    try:
        yield faults
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await app.close()
        await mail.close()
        await social.close()


async def signed_in(browser: Browser, desk: DeskUnderTest, name: str, **options: Any) -> BrowserContext:
    """Without a page: the one on which somebody signed in would keep a stream of the session open."""
    context = await browser.new_context(**options)
    answer = await context.request.post(
        f"{desk.url}/desk/sign-in/as", form={"name": name}, headers={"origin": desk.url}, max_redirects=0
    )
    assert answer.status == 303, await answer.text()
    return context


def an_order(desk: DeskUnderTest) -> None:
    now = desk.app.clock.now()
    desk.app.pipeline.hand_in(replace(an_alert(desk.app.settings, now=now), sent_at=None), DUTY)


async def test_the_board_goes_on_by_itself_then_it_is_corrected_then_cancelled(tmp_path: Path) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        desk.readers(60)
        context = await signed_in(browser, desk, "duty", viewport=WIDE)
        await asyncio.to_thread(an_order, desk)
        page = await context.new_page()
        await page.goto(f"{desk.url}/desk/sent/{ALERT}")
        await page.get_by_text("まだ、どの媒体にも届いていません。").first.wait_for()
        assert (await page.title()).startswith("◔ 0/6")
        await page.locator("#parts > summary").click()
        async with a_sender(desk, tmp_path):
            await page.get_by_text("6媒体すべてに出ました。メールは中継に渡しました。").first.wait_for(timeout=20_000)
            assert (await page.title()).startswith("✓ 6/6")
            assert await page.locator("#parts").get_attribute("open") is not None, "what was opened stays open"
            assert await page.get_by_text("60／60人").count() >= 1
            assert "6媒体すべてに" in (await page.locator("#told").text_content() or "")
            await page.screenshot(path=SHOTS / "sent-live-1280.png", full_page=True)
            # Correct
            await page.get_by_role("link", name="訂正を出す").click()
            await page.get_by_label("どこへ").fill("大崎二丁目")
            await page.locator("#texts").get_by_text("大崎二丁目").first.wait_for(timeout=5_000)
            await page.screenshot(path=SHOTS / "correcting-1280.png", full_page=True)
            await page.get_by_role("button", name="本番（練習）で訂正を出す").click()
            await page.get_by_text("これは前のものの訂正です。").wait_for()
            await page.get_by_text("6媒体すべてに").first.wait_for(timeout=20_000)
            # Cancel
            await page.get_by_role("link", name="取消を出す").click()
            assert "すでに 60人に届いています。残り 0人には送りません。" in await page.locator("main").inner_text()
            await page.get_by_role("button", name="本番（練習）で取消を出す").click()
            await page.get_by_text("これは前のものの取消です。").wait_for()
            await page.get_by_text("6媒体すべてに").first.wait_for(timeout=20_000)
        await page.go_back()
        assert "/cancel" in page.url
        assert await page.get_by_role("button", name="取消を出す").count() == 0, "the form is not offered again"
        await page.goto(f"{desk.url}/desk/sent/{ALERT}")
        await page.get_by_role("link", name="替わったもの").click()
        assert "【訂正】" in await page.locator("h1").inner_text()


async def test_a_refusing_relay_then_only_the_rest_again(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        desk.readers(8)
        context = await signed_in(browser, desk, "duty", viewport=WIDE)
        async with a_sender(desk, tmp_path) as faults:
            faults.set("email", Fault(kind=Kind.PERMANENT, stage="rcpt"))
            await asyncio.to_thread(an_order, desk)
            page = await context.new_page()
            await page.goto(f"{desk.url}/desk/sent/{ALERT}")
            await page.get_by_text("メール 8人には届きませんでした。").first.wait_for(timeout=20_000)
            faults.set("email", None)
            await page.get_by_role("link", name="届かなかった8件だけ再送").first.click()
            await page.get_by_role("button", name="本番（練習）の8件だけ再送する").click()
            await page.get_by_text("6媒体すべてに出ました。").first.wait_for(timeout=20_000)
            assert len(list(smtp.received(tmp_path / "mail"))) == 8


async def test_without_scripts_the_board_asks_again_until_it_is_settled_and_a_change_works(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        desk.readers(3)
        await asyncio.to_thread(an_order, desk)
        context = await signed_in(browser, desk, "duty", viewport=PHONE, java_script_enabled=False)
        page = await context.new_page()
        await page.goto(f"{desk.url}/desk/sent/{ALERT}")
        async with page.expect_navigation():
            pass  # by itself
        still = await page.goto(f"{desk.url}/desk/sent/{ALERT}?still=1")
        assert still is not None
        assert 'http-equiv="refresh"' not in await still.text()
        await page.get_by_role("link", name="解除を出す").click()
        await page.get_by_label("足す一文").fill("水位が下がりました。")
        await page.get_by_role("button", name="出る文を新しくする").click()
        assert "水位が下がりました。" in await page.locator("#texts").inner_text()
        await page.get_by_role("button", name="本番（練習）で解除を出す").click()
        await page.get_by_text("これは前のものの解除です。").wait_for()


def everything_there_is(desk: DeskUnderTest) -> None:
    """An order with every end, a notice, a drill, a review that is open, something to decide."""
    app, now = desk.app, desk.app.clock.now()
    wide = app.settings.ward.all_district_bits
    rows = [
        a_reader(number, domain=domain, districts=wide if number % 3 else 1 << (number % 13 + 1) | 8)
        for number in range(120)
        for domain in [("docomo.ne.jp", "ezweb.ne.jp", "gmail.com", "mail.example")[number % 4]]
    ]
    with app.database.write() as connection:
        subscribers.put(connection, rows)
    desk.readers(5, is_drill=True)
    app.pipeline.hand_in(replace(an_alert(app.settings, now=now), sent_at=None), DUTY)
    app.pipeline.hand_in(replace(a_notice(app.settings, now=now), sent_at=None), DUTY)
    drill = replace(an_alert(app.settings, now=now, mode=Mode.DRILL), sent_at=None, identifier=DRILL)
    app.pipeline.hand_in(drill, DUTY)
    total = one_of(desk, ALERT, "email").counts.total
    delivered = total * 3 // 4
    letters_end(desk, one_of(desk, ALERT, "email"), delivered=delivered, failed=total // 10, unknown=total // 15)
    for delivery in of(desk, ALERT):
        if delivery.kind == "board":
            ends(desk, delivery, State.DELIVERED, evidence='12 pages, "3fa8c1d2e5"')
    ends(desk, one_of(desk, ALERT, "x"), State.UNKNOWN, "12秒待って返事がありませんでした。")
    ends(desk, one_of(desk, DRILL, "x"), State.FAILED, "相手が断りました（403）。")
    with app.database.write() as connection:
        notes.open_review(connection, ALERT, by="duty", at=now, reason="夜中で、ほかにだれもいませんでした。")


PAGES = (
    f"/desk/sent/{ALERT}",
    f"/desk/sent/{ALERT}/where",
    f"/desk/sent/{ALERT}/resend",
    f"/desk/sent/{ALERT}/correction",
    f"/desk/sent/{ALERT}/cancel",
    f"/desk/sent/{ALERT}/all_clear",
    f"/desk/sent/{ALERT}/report",
    f"/desk/sent/{DRILL}",
    f"/desk/sent/{DRILL}/update",
    f"/desk/sent/{DRILL}/report",
    f"/desk/sent/{NOTICE}",
    f"/desk/sent/{NOTICE}/correction",
    "/desk/decisions",
)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", ["ja", "en"])
async def test_every_page_after_sending_is_usable_by_everybody(tmp_path: Path, language: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        await asyncio.to_thread(everything_there_is, desk)
        for night in (False, True) if language == "ja" else (False,):
            context = await signed_in(browser, desk, "approver", viewport=PHONE)
            page = await context.new_page()
            complaints: list[str] = []
            page.on("console", lambda said, to=complaints: to.append(said.text) if said.type == "error" else None)
            await page.goto(f"{desk.url}/desk?lang={language}&night={'on' if night else 'off'}")
            for path in PAGES:
                await page.goto(desk.url + path)
                await _is_fine(page, path, language, is_night=night)
            assert complaints == []


async def _is_fine(page: Page, path: str, language: str, *, is_night: bool) -> None:
    assert not (found := await violations(page)), (path, found)
    name = re.sub(r"[^a-z0-9A-Z-]+", "-", path).strip("-") + f"-{language}" + ("-night" if is_night else "")
    for size in (PHONE, WIDE):
        await page.set_viewport_size(size)  # type: ignore[arg-type]
        await page.screenshot(path=SHOTS / f"{name}-{size['width']}.png", full_page=True)
    await page.set_viewport_size({"width": 320, "height": 640})
    width = await page.evaluate("document.documentElement.scrollWidth")
    assert width <= 320, (path, width)
    small = await page.evaluate(
        """[...document.querySelectorAll("main button, main .button, main summary")]
           .filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 44)
           .map(e => e.outerHTML.slice(0, 120))"""
    )
    assert small == [], (path, small)
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type]


async def test_a_board_weighs_little_and_a_chart_is_small(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        everything_there_is(desk)
        viewer = await desk.person("viewer")
        board = (await viewer.get(f"/desk/sent/{ALERT}")).text
        assert len(board.encode()) <= 30_000
        charts = re.findall(r'<svg\b[^>]*\bclass="chart\b.*?</svg>', board, re.DOTALL)
        assert charts
        assert max(map(len, charts)) <= 12_000
