"""The first page: what is in force, what comes, what needs me; and the stream that says "changed"."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.async_api import expect

from broadcaster import app as assembly
from broadcaster import settings as configuration
from broadcaster.clock import FrozenClock
from broadcaster.delivery import State
from broadcaster.message import Change
from broadcaster.rehearsal import seed
from tests.browser import a_browser
from tests.desk import a_day, a_desk, a_desk_of, a_desk_server
from tests.house import STAFF
from tests.makers import NOW, a_notice
from tests.test_desk_sent import ends, one_of


async def test_nothing_in_force_is_said_in_full_size(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        text = (await (await desk.person("viewer")).get("/desk")).text
        assert "いま出ているものはありません。" in text
        assert "いま、あなたがすることはありません。" in text
        assert "/desk/emergency/live" not in text  # a viewer has no door


async def test_a_day_is_seen_at_a_glance(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        text = (await (await desk.person("approver")).get("/desk")).text
        assert text.index("本番（練習）") < text.index("/desk/emergency/live")  # what is in force comes first
        assert "/desk/sent/13109-E04/cancel" in text
        assert 'href="/desk/approvals/13109-today-1"' in text
        assert "承認待ち" in text
        assert "訓練" in text


async def test_a_writer_is_offered_no_change_and_no_live_door(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        text = (await (await desk.person("writer")).get("/desk")).text
        assert "/desk/sent/13109-E04/cancel" not in text
        assert "/desk/emergency/live" not in text
        assert "/desk/emergency/drill" in text
        assert "/desk/messages/new" in text


async def test_english_and_night_are_remembered(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        person = await desk.person("viewer")
        await person.get("/desk?lang=en&night=on")
        text = (await person.get("/desk")).text
        assert '<html lang="en" class="night">' in text
        assert "Nothing is in force." in text


async def test_what_may_still_be_posted_today_is_said_when_it_runs_low(tmp_path: Path) -> None:
    shipped = configuration.load({"BROADCASTER_HOME": str(tmp_path / "home")})
    few = {**shipped.channel_options, "x": {**shipped.channel_options["x"], "posts_per_day": 5}}
    app = assembly.assemble(
        replace(shipped, channel_options=few), clock=FrozenClock(NOW), standins={"email": 1, "x": 1}
    )
    app.database.upgrade()
    with app.database.write() as connection:
        seed.add_sample_staff(connection, NOW)
    async with a_desk_of(app) as desk:
        viewer = await desk.person("viewer")
        for number in range(4):
            assert "出せる残りの件数" not in (await viewer.get("/desk")).text, number
            name = f"13109-{number}"
            notice = a_notice(app.settings, now=NOW, identifier=name, channels=("x",))
            app.pipeline.hand_in(replace(notice, sent_at=None), STAFF)
            ends(desk, one_of(desk, name, "x"), State.DELIVERED)
        text = (await viewer.get("/desk")).text
        assert "Xに出せる残りの件数（きょう）" in text
        assert "きょう4件、上限5件。緊急用の1件は別に取ってあります。" in text


@pytest.mark.browser
async def test_the_page_renews_itself_when_something_happens(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        page = await (await browser.new_context()).new_page()
        await page.goto(f"{desk.url}/desk/sign-in")
        await page.click("button[value=approver]")
        await page.get_by_text("いま出ているものはありません。").wait_for()
        await page.wait_for_function(
            "document.querySelector('[data-sse-connect]')['htmx-internal-data']?.sseEventSource?.readyState === 1"
        )
        assert await page.locator("#told").text_content() == "", "nothing has changed yet, so nothing is said"
        await asyncio.to_thread(a_day, desk.app)
        await page.get_by_role("link", name="避難指示（目黒川）").wait_for(timeout=8_000)
        await expect(page.get_by_role("status")).to_contain_text("出ている緊急のお知らせ 3件、承認待ち 2件")
        await asyncio.to_thread(desk.app.pipeline.change, "13109-E04", Change.CANCEL, STAFF)
        await page.get_by_text("【取消】").first.wait_for(timeout=8_000)


@pytest.mark.browser
async def test_without_scripts_the_page_is_whole_and_asks_again_by_itself(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        a_day(desk.app)
        page = await (await browser.new_context(java_script_enabled=False)).new_page()
        await page.goto(f"{desk.url}/desk/sign-in")
        await page.click("button[value=duty]")
        assert await page.get_by_role("link", name="避難指示（目黒川）").count() == 1
        assert 'http-equiv="refresh"' in await page.content()
