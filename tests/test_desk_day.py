"""The whole day in a browser, with a real sender, a real scheduler and the outside world's own protocols: write, look,
ask, approve, wait, sent, correct, cancel. And three o'clock in the morning: on a telephone, by touch, by keyboard alone,
and without scripts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from broadcaster.lifecycle import State
from broadcaster.message import Mode
from tests.browser import a_browser
from tests.desk import DeskUnderTest, a_whole_desk, picture
from tests.test_desk_pages import PHONE, SHOTS, WIDE
from tests.waiting import until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

READERS = 40


async def signed_in(desk: DeskUnderTest, browser: Browser, name: str, **context: Any) -> Page:
    page = await (await browser.new_context(**context)).new_page()
    page.set_default_timeout(15_000)
    await page.goto(f"{desk.url}/desk/sign-in")
    await page.click(f"button[value={name}]")
    return page


async def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SHOTS / f"day-{name}.png", full_page=True)


async def test_the_whole_day(tmp_path: Path) -> None:
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        desk.readers(READERS)
        writer = await signed_in(desk, browser, "writer", viewport=WIDE)
        approver = await signed_in(desk, browser, "approver", viewport=WIDE)

        # Write, and see it change
        await writer.get_by_role("link", name="お知らせを書く").click()
        await writer.fill("#title", "図書館の休館のお知らせ")
        await writer.fill("#body", "設備の点検のため、休館します。")
        await writer.fill("#expires_at", "2027-12-05 17:00")
        await writer.fill("#section-name", "品川図書館")
        await writer.fill("#section-phone", "03-3471-4667")
        await expect(writer.locator("article[data-medium=x] .post")).to_contain_text("図書館の休館のお知らせ")
        await expect(writer.locator("article[data-medium=email] .phone")).to_contain_text("設備の点検のため")
        await shot(writer, "1-write")
        await writer.evaluate("scrollTo(0, 0)")
        await picture(writer, "compose")
        await writer.get_by_role("button", name="承認を頼む").first.click()
        await writer.get_by_role("heading", name="図書館の休館のお知らせ").first.wait_for()
        await expect(writer.locator("main")).to_contain_text("自分の書いたものは承認できません。")
        kept = desk.newest()
        assert kept is not None
        identifier = kept.message.identifier

        # Approve: seen, counted, thirty seconds
        await approver.goto(f"{desk.url}/desk/approvals")
        await approver.get_by_role("link", name="図書館の休館のお知らせ").click()
        await expect(approver.locator("main")).to_contain_text(f"メール {READERS}人")
        await shot(approver, "2-approve")
        await picture(approver, "approval")
        await approver.get_by_role("button", name="承認する").click()
        await expect(approver.locator("main")).to_contain_text("秒で出ます")
        await shot(approver, "3-undo")

        # Sent, on every medium
        await until(lambda: desk.kept(identifier).state is State.ISSUED, 40)
        await until(lambda: len(desk.mails_of(identifier)) == READERS)
        await approver.goto(f"{desk.url}/desk/sent/{identifier}")
        await expect(approver.locator("main")).to_contain_text("図書館の休館のお知らせ")
        await expect(approver.locator("main")).to_contain_text(f"{READERS}")
        await shot(approver, "4-sent")
        await picture(approver, "sent")

        # Correct, and cancel
        await approver.get_by_role("link", name="訂正を出す").click()
        await approver.fill("#line", "休館は12月6日です。")
        await approver.locator("#texts").get_by_text("休館は12月6日です。").first.wait_for()
        await shot(approver, "5-correct")
        await approver.locator("form#change button[class]").last.click()
        await approver.wait_for_url(lambda url: "/desk/sent/" in url and identifier not in url)
        corrected = approver.url.rpartition("/")[2]
        await until(lambda: len(desk.mails_of(corrected)) == READERS)
        await approver.get_by_role("link", name="取消を出す").click()
        await shot(approver, "6-cancel")
        await approver.locator("form#change button[class]").last.click()
        await approver.wait_for_url(lambda url: "/desk/sent/" in url and corrected not in url)
        cancelled = approver.url.rpartition("/")[2]
        await until(lambda: len(desk.mails_of(cancelled)) == READERS)
        await shot(approver, "7-cancelled")
        assert desk.kept(corrected).state is State.CANCELLED
        await approver.goto(f"{desk.url}/desk")
        await expect(approver.locator("main")).to_contain_text("【取消】図書館の休館のお知らせ")


async def test_three_in_the_morning_by_touch(tmp_path: Path) -> None:
    """From the sign-in page to the last medium's first attempt: three acts, and less than a second of our own."""
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        desk.readers(READERS)
        began = time.monotonic()
        page = await signed_in(desk, browser, "duty", viewport=PHONE, has_touch=True, is_mobile=True)
        await page.goto(f"{desk.url}/desk/emergency/live")
        await shot(page, "night-1-choose")
        await page.get_by_role("link", name="弾道ミサイル").tap()
        button = page.locator("[data-hold]")
        await button.wait_for()
        await shot(page, "night-2-confirm")
        await page.evaluate("scrollTo(0, 0)")
        await picture(page, "emergency")

        await held(page, button, 0.4)  # let go too early
        await expect(page.locator("#hold-said")).to_have_text("手が離れました。送っていません。")
        assert desk.newest() is None

        pressed = time.monotonic()
        await held(page, button, 1.7)
        await page.wait_for_url("**/desk/sent/**")
        on_board = time.monotonic() - pressed - 1.5
        kept = desk.newest()
        assert kept is not None
        await until(lambda: attempted(desk, kept.message.identifier))
        told = time.monotonic()
        await until(lambda: len(desk.mails_of(kept.message.identifier)) == READERS)
        await expect(page.locator("h1")).to_contain_text("ミサイル")
        await shot(page, "night-3-board")
        assert told - began < 20
        assert on_board < 5  # of which the hold is not a part; the true figure stands in docs/benchmarks.md


async def held(page: Page, button: Any, seconds: float) -> None:
    box = await button.bounding_box()
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await page.mouse.down()
    await page.wait_for_timeout(seconds * 1_000)
    await page.mouse.up()


def attempted(desk: DeskUnderTest, identifier: str) -> bool:
    """Whether every medium has made its first attempt."""
    report = desk.report(identifier)
    named = [d for d in report["deliveries"] if d["kind"] != "mailing" or d["counts"]["total"]]
    return bool(named) and all(d["first_attempt_at"] or d["settled_at"] for d in named)


async def test_three_in_the_morning_by_keyboard_alone(tmp_path: Path) -> None:
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        page = await signed_in(desk, browser, "duty", viewport=WIDE)
        await page.goto(f"{desk.url}/desk/emergency")
        await pressed(page, "本番（練習）")
        await page.wait_for_url("**/emergency/live")
        await pressed(page, "弾道ミサイル")
        await page.wait_for_url("**/confirm")
        await pressed(page, "■ 長押し")  # a press without a hold asks
        assert desk.newest() is None
        await page.keyboard.press("Space")  # the box has the focus
        assert await page.locator("input[name=checked]").is_checked()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/desk/sent/**")
        kept = desk.newest()
        assert kept is not None
        assert kept.state is State.ISSUED


async def pressed(page: Page, words: str) -> None:
    """Tab until this has the focus, then Enter."""
    for _ in range(60):
        await page.keyboard.press("Tab")
        focused = await page.evaluate("document.activeElement.textContent")
        if words in focused:
            await page.keyboard.press("Enter")
            return
    raise AssertionError(f"no way to {words} by keyboard")


async def test_three_in_the_morning_without_scripts(tmp_path: Path) -> None:
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        page = await signed_in(desk, browser, "duty", viewport=PHONE, java_script_enabled=False)
        await page.goto(f"{desk.url}/desk/emergency/live")
        await page.get_by_role("link", name="地震").click()
        await page.fill("[name=slot-intensity]", "５強")
        await page.get_by_role("button", name="確かめる").click()
        assert await page.locator("[data-hold]").is_hidden()
        await page.locator("summary").filter(has_text="長押しできないとき").click()
        await page.check("input[name=checked]")
        await page.get_by_role("button", name="本番（練習）で送る").click()
        await page.wait_for_url("**/desk/sent/**")
        kept = desk.newest()
        assert kept is not None
        assert kept.message.slots["intensity"] == "５強"


async def test_a_drill_is_another_place(tmp_path: Path) -> None:
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        desk.readers(READERS)
        desk.readers(12, is_drill=True)
        page = await signed_in(desk, browser, "writer", viewport=PHONE)
        await page.goto(f"{desk.url}/desk/emergency/drill")
        await page.get_by_role("link", name="弾道ミサイル").click()
        await shot(page, "drill-confirm")
        assert "訓練" in await page.title()
        await page.get_by_role("button", name="訓練で送る").click()
        await page.wait_for_url("**/desk/sent/**")
        kept = desk.newest(Mode.DRILL)
        assert kept is not None
        await until(lambda: len(desk.mails_of(kept.message.identifier)) == 12)
        assert desk.newest() is None
        assert all("訓練" in str(mail.parsed()["Subject"]) for mail in desk.mails())


async def test_two_people_and_then_one(tmp_path: Path) -> None:
    async with a_whole_desk(tmp_path) as desk, a_browser() as browser:
        desk.readers(READERS)
        duty = await signed_in(desk, browser, "duty", viewport=PHONE)
        await duty.goto(f"{desk.url}/desk/emergency/live/E04/fill")
        for slot, words in (("river", "目黒川"), ("area", "大崎一丁目"), ("shelters", "芳水小学校")):
            await duty.fill(f"[name=slot-{slot}]", words)
        await duty.get_by_role("button", name="確かめる").click()
        await held(duty, duty.locator("[data-hold]"), 1.7)
        await duty.wait_for_url("**/waiting/**")
        await shot(duty, "night-4-waiting")
        loaded = await duty.evaluate("performance.timeOrigin")
        async with duty.expect_response(lambda answer: "/waiting/" in answer.url):
            pass  # it looks again, in place: whoever has it read aloud is not sent back to its beginning
        assert await duty.evaluate("performance.timeOrigin") == loaded
        kept = desk.newest()
        assert kept is not None
        await until(lambda: sum("緊急・要承認" in str(m.parsed()["Subject"]) for m in desk.mails()) == 4)
        approver = await signed_in(desk, browser, "approver", viewport=PHONE)
        await approver.goto(f"{desk.url}/desk/approvals/{kept.message.identifier}")
        await approver.get_by_role("button", name="承認する").click()
        await approver.wait_for_url("**/desk/sent/**")
        await duty.wait_for_url("**/desk/sent/**")  # by itself
        await until(lambda: len(desk.mails_of(kept.message.identifier)) == READERS)
