"""The calendar: what goes out when, by keyboard and by drag, and never moved without being asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broadcaster.clock import local
from broadcaster.store.audit import Actor
from tests.browser import a_browser
from tests.desk import DeskUnderTest, a_day, a_desk, a_desk_server
from tests.makers import a_notice
from tests.test_desk_pages import WIDE


def planned(desk: DeskUnderTest) -> str:
    """A notice in the middle of next month, approved."""
    now = desk.app.clock.now()
    at = (local(now).replace(day=1, hour=9, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=15)
    message = a_notice(desk.app.settings, now=now, identifier="13109-planned", title="図書館の休館")
    message = replace(message, sent_at=None, effective_at=at, expires_at=at + timedelta(days=1))
    desk.app.pipeline.propose(message, Actor(name="writer", via="desk"))
    desk.app.pipeline.approve("13109-planned", Actor(name="approver", via="desk"))
    return f"{at:%Y-%m-%d}"


async def test_each_view_shows_what_goes_out_and_what_waits(tmp_path: Path) -> None:
    async with a_desk(tmp_path) as desk:
        a_day(desk.app)
        day = planned(desk)
        viewer = await desk.person("viewer")
        for view in ("month", "week", "list"):
            text = (await viewer.get(f"/desk/calendar?view={view}&day={day}")).text
            assert "図書館の休館" in text, view
            assert "定例・事前承認" in text, view
            assert "draggable" not in text  # a viewer moves nothing
        today = f"{local(desk.app.clock.now()):%Y-%m-%d}"
        assert "承認待ち" in (await viewer.get(f"/desk/calendar?view=list&day={today}")).text


@pytest.mark.parametrize("day", ["", "きのう", "2026-02-30", "0001-01-01", "9999-12-31", "2026-12-04'--"])
async def test_a_strange_day_is_today(tmp_path: Path, day: str) -> None:
    async with a_desk(tmp_path) as desk:
        viewer = await desk.person("viewer")
        for view in ("month", "week", "list", "century"):
            answer = await viewer.client.get("/desk/calendar", params={"view": view, "day": day})
            assert answer.status_code == 200


@pytest.mark.browser
async def test_by_keyboard_alone_and_by_drag(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        day = await asyncio.to_thread(planned, desk)
        page = await (await browser.new_context(viewport=WIDE)).new_page()
        await page.goto(f"{desk.url}/desk/sign-in")
        await page.click("button[value=approver]")
        await page.goto(f"{desk.url}/desk/calendar?view=month&day={day[:-2]}01")
        cells = page.locator("td[data-day]")
        await cells.first.focus()
        first = await cells.first.get_attribute("data-day")
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowDown")
        focused = await page.evaluate("document.activeElement.dataset.day")
        assert focused != first
        await page.locator(f"td[data-day='{day}']").focus()
        await page.keyboard.press("m")
        await page.wait_for_url("**/desk/messages/13109-planned/move")
        assert await page.get_by_role("heading", name="日時を変える").count() == 1

        await page.goto(f"{desk.url}/desk/calendar?view=month&day={day}")
        target = f"{day[:-2]}20"
        await page.locator("[data-move]").first.drag_to(page.locator(f"td[data-day='{target}']"))
        await page.wait_for_url("**/desk/messages/13109-planned/move?at=*")
        assert (await page.input_value("#at")).startswith(target)
        before = desk.kept("13109-planned").message.effective_at
        assert f"{local(before):%Y-%m-%d}" == day  # dropping alone has moved nothing
        if await page.locator(".fault").count():  # the office is closed on that day, which was said: press again
            assert "閉庁日" in await page.locator(".fault").inner_text()
        await page.get_by_role("button", name="日時を変える").click()
        await page.wait_for_url("**/desk/messages/13109-planned")
        assert f"{local(desk.kept('13109-planned').message.effective_at):%Y-%m-%d %H:%M}" == f"{target} 09:00"


@pytest.mark.browser
async def test_in_the_week_an_hour_is_dropped_on(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, a_browser() as browser:
        day = await asyncio.to_thread(planned, desk)
        page = await (await browser.new_context(viewport={"width": 1280, "height": 1600})).new_page()
        await page.goto(f"{desk.url}/desk/sign-in")
        await page.click("button[value=approver]")
        await page.goto(f"{desk.url}/desk/calendar?view=week&day={day}")
        where = page.locator(f"td[data-day='{day}']")
        await page.locator("[data-move]").drag_to(where.and_(page.locator("[data-hour='15']")))
        await page.wait_for_url("**/desk/messages/13109-planned/move?at=*")
        assert await page.input_value("#at") == f"{day} 15:00"
