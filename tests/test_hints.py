"""A screen is told that its document has become another one, and nothing else; what is lost it finds by asking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from broadcaster.message import Area, Message, Mode
from broadcaster.web import hints
from tests.desk import DeskUnderTest, a_desk_server
from tests.house import STAFF
from tests.makers import a_notice, an_alert

EVENT = "event: changed"


@asynccontextmanager
async def listening(url: str, path: str) -> AsyncIterator[asyncio.Queue[str]]:
    """The lines of a stream as they come; the first two are its beginning."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with httpx2.AsyncClient(base_url=url, timeout=30) as client, AsyncExitStack() as stack:
        answer = await an_answer(client, path, stack)
        assert answer.headers["content-type"] == "text/event-stream"

        async def hear() -> None:
            async for line in answer.aiter_lines():
                if line:
                    heard.put_nowait(line)

        task = asyncio.create_task(hear())
        try:
            assert await asyncio.wait_for(heard.get(), 20) == "retry: 3000"
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def an_answer(client: httpx2.AsyncClient, path: str, stack: AsyncExitStack) -> httpx2.Response:
    """As a browser does: where it is told to come again, it does."""
    async with asyncio.timeout(20):
        while (answer := await stack.enter_async_context(client.stream("GET", path))).status_code == 503:
            await asyncio.sleep(0.02)
    assert answer.status_code == 200
    return answer


async def next_event(heard: asyncio.Queue[str]) -> str:
    async with asyncio.timeout(20):
        while (line := await heard.get()) == ":":
            pass
    return line


def issued(desk: DeskUnderTest, message: Message) -> None:
    desk.app.pipeline.hand_in(replace(message, sent_at=None), STAFF)


async def etag_of(url: str, screen: str) -> str:
    async with httpx2.AsyncClient(base_url=url) as client:
        answer = await client.get(f"/signage/{screen}.json")
        return str(answer.headers["etag"])


async def test_a_change_is_told_and_the_document_is_the_new_one_by_then(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, listening(desk.url, "/signage/S01/events") as heard:
        before = await etag_of(desk.url, "S01")
        await asyncio.to_thread(issued, desk, an_alert(desk.app.settings, now=desk.app.clock.now()))
        assert await next_event(heard) == EVENT
        assert await etag_of(desk.url, "S01") != before


async def test_a_drill_is_told_to_screens_of_drills_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "STILL_HERE_S", 0.05)
    async with (
        a_desk_server(tmp_path) as desk,
        listening(desk.url, "/signage/S01/events") as live,
        listening(desk.url, "/drill/signage/S01/events") as drill,
    ):
        now = desk.app.clock.now()
        await asyncio.to_thread(issued, desk, an_alert(desk.app.settings, "E02", now=now, mode=Mode.DRILL))
        assert await next_event(drill) == EVENT
        await says_nothing(live)


async def test_a_notice_for_one_district_wakes_no_other_district(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "STILL_HERE_S", 0.05)
    async with a_desk_server(tmp_path) as desk:
        screens = {screen.id: screen.district for screen in desk.app.settings.ward.screens if screen.district}
        inside, district = next(iter(screens.items()))
        outside = next(id for id, other in screens.items() if other != district)
        async with (
            listening(desk.url, f"/signage/{inside}/events") as there,
            listening(desk.url, f"/signage/{outside}/events") as elsewhere,
        ):
            area = Area(description="この地区", geocodes=(district,))
            notice = replace(a_notice(desk.app.settings, now=desk.app.clock.now()), areas=(area,))
            await asyncio.to_thread(issued, desk, notice)
            assert await next_event(there) == EVENT
            await says_nothing(elsewhere)


async def says_nothing(heard: asyncio.Queue[str]) -> None:
    """Three signs of life after the change, and nothing but them."""
    for _ in range(3):
        assert await asyncio.wait_for(heard.get(), 20) == ":"


async def test_nobody_hears_of_a_screen_that_is_not_there(tmp_path: Path) -> None:
    async with a_desk_server(tmp_path) as desk, httpx2.AsyncClient(base_url=desk.url) as client:
        async with listening(desk.url, "/signage/S01/events"):  # the boards are there by then
            answer = await client.get("/signage/S99/events")
        assert answer.status_code == 404


async def test_one_too_many_is_told_when_to_come_again_and_whoever_goes_leaves_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "MOST_STREAMS", 1)
    async with a_desk_server(tmp_path) as desk, httpx2.AsyncClient(base_url=desk.url) as client:
        async with listening(desk.url, "/signage/S01/events"):
            answer = await client.get("/signage/S02/events")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
        async with listening(desk.url, "/signage/S02/events"):
            pass
