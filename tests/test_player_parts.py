"""The parts of the player that decide: what is shown now and what comes next, and what time it is. In a browser, alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Page

from broadcaster.clock import hours, minutes, stamp
from broadcaster.settings import Settings
from tests.glass import Document, Kiosk, Service, a_document, a_kiosk, a_service
from tests.makers import NOW, a_notice, an_alert

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

PARTS = """
window.part = (name) => import(document.querySelector('script[type=module]').src.replace('player.js', name));
"""


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with a_service(settings) as service:
        yield service


@pytest.fixture
async def page(service: Service) -> AsyncIterator[Page]:
    async with a_kiosk() as kiosk:
        kiosk_page = await opened(kiosk, service)
        yield kiosk_page


async def opened(kiosk: Kiosk, service: Service) -> Page:
    """A page that has the parts and shows nothing: that of a screen without a name."""
    return await kiosk.opens(f"{service.url}/signage", scripts=[PARTS])


def millis(at: datetime) -> float:
    return at.timestamp() * 1000


async def told(page: Page, document: Document | None, at: datetime, *, steps: int = 1, last: Any = None) -> list[str]:
    """The next sections: `13109-E04/ja`."""
    return await page.evaluate(
        """async ([document_, now, steps, last]) => {
             const { next } = await part('schedule.js');
             const said = [];
             for (let step = 0; step < steps; step += 1) {
               last = next(document_, now, last);
               if (last === null) break;
               said.push(`${last.thing.id}/${last.told.language}`);
             }
             return said;
           }""",
        [document, millis(at), steps, last],
    )


async def section(page: Page, document: Document, at: datetime, number: int = 1) -> Any:
    return await page.evaluate(
        """async ([document_, now, number]) => {
             const { next } = await part('schedule.js');
             let last = null;
             for (let step = 0; step < number; step += 1) last = next(document_, now, last);
             return last;
           }""",
        [document, millis(at), number],
    )


async def call(page: Page, name: str, *arguments: Any) -> Any:
    return await page.evaluate(
        "async ([name, given]) => (await part('schedule.js'))[name](...given)", [name, list(arguments)]
    )


def in_languages(document: Document, *languages: str) -> Document:
    """Every notice of it in each of these."""
    items = [
        {**item, "languages": [{**item["languages"][0], "language": each, "lang": each} for each in languages]}
        for item in document["items"]
    ]
    return {**document, "items": items}


# What is shown


async def test_everything_is_told_in_its_first_language_each_time_and_in_one_other(
    page: Page, settings: Settings
) -> None:
    two = [a_notice(settings), a_notice(settings, identifier="13109-b")]
    document = in_languages(a_document(settings, two), "ja", "en", "ko")
    first, second = (item["id"] for item in document["items"])
    assert await told(page, document, NOW, steps=9) == [
        f"{first}/ja", f"{first}/en", f"{second}/ja", f"{second}/en",
        f"{first}/ja", f"{first}/ko", f"{second}/ja", f"{second}/ko",
        f"{first}/ja",
    ]  # fmt: skip


async def test_what_has_not_begun_and_what_is_over_is_not_told(page: Page, settings: Settings) -> None:
    document = a_document(settings, [a_notice(settings, lasts=hours(2))])
    assert await told(page, document, NOW - timedelta(seconds=1)) == []
    assert await told(page, document, NOW) == ["13109-a-notice/ja"]
    assert await told(page, document, NOW + hours(2)) == [], "until its end, and not at it"
    kinds = [await call(page, "kindAt", document, millis(NOW + hours(number))) for number in (1, 3)]
    assert kinds == ["items", "empty"]
    assert await call(page, "kindAt", None, millis(NOW)) == "waiting"


async def test_an_emergency_stands_alone_and_each_alert_ends_by_itself(page: Page, settings: Settings) -> None:
    document = a_document(settings, [a_notice(settings), an_alert(settings, "E04"), an_alert(settings, "E03")])
    order, elderly = document["takeover"]["alerts"]
    order["expires"] = stamp(NOW + hours(1))
    both = await told(page, document, NOW, steps=4)
    assert [id.split("/")[0] for id in both] == ["13109-E04", "13109-E04", "13109-E03", "13109-E03"]
    alone = await told(page, document, NOW + hours(1), steps=2)
    assert {id.split("/")[0] for id in alone} == {elderly["id"]}
    elderly["expires"] = stamp(NOW + hours(9))  # the takeover's own end counts for all of it
    assert await told(page, document, NOW + hours(3)) == ["13109-a-notice/ja"]


async def test_a_section_stays_as_long_as_it_is_true_and_said_in_the_same_words(page: Page, settings: Settings) -> None:
    notice = a_notice(settings, lasts=hours(2))
    document = a_document(settings, [notice])
    shown = await section(page, document, NOW)
    assert await call(page, "stays", shown, document, millis(NOW + hours(1)))
    assert not await call(page, "stays", shown, document, millis(NOW + hours(2)))
    more = a_document(settings, [notice, a_notice(settings, identifier="13109-b")])
    assert await call(page, "stays", shown, more, millis(NOW)), "a second one does not disturb it"
    corrected = a_document(settings, [a_notice(settings, title="図書館は開館します", lasts=hours(2))])
    assert not await call(page, "stays", shown, corrected, millis(NOW))
    assert (await call(page, "instead", shown, corrected, millis(NOW)))["told"]["headline"] == "図書館は開館します"
    alert = a_document(settings, [notice, an_alert(settings, "E04")])
    assert not await call(page, "stays", shown, alert, millis(NOW))
    assert (await call(page, "instead", shown, alert, millis(NOW)))["kind"] == "takeover"


async def test_when_a_notice_is_taken_away_its_successor_follows(page: Page, settings: Settings) -> None:
    three = [a_notice(settings, identifier=f"13109-{name}", title=name) for name in "abc"]
    document = a_document(settings, three)
    names = [item["id"] for item in document["items"]]
    second = await section(page, document, NOW, number=2)
    assert second["thing"]["id"] == names[1]
    without = {**document, "items": [document["items"][0], document["items"][2]]}
    assert (await call(page, "instead", second, without, millis(NOW)))["thing"]["id"] == names[2]
    assert await call(page, "instead", second, {**document, "items": []}, millis(NOW)) is None


async def test_only_a_notice_that_was_not_there_before_is_news(page: Page, settings: Settings) -> None:
    old, new = a_notice(settings), a_notice(settings, identifier="13109-b")
    before, after = a_document(settings, [old]), a_document(settings, [old, new])
    assert (await call(page, "fresh", after, before, millis(NOW)))["thing"]["id"] == "13109-b"
    assert await call(page, "fresh", before, after, millis(NOW)) is None
    alert = a_document(settings, [old, new, an_alert(settings, "E04")])
    assert await call(page, "fresh", alert, before, millis(NOW)) is None, "the emergency covers it"


async def test_an_update_begins_the_takeover_anew(page: Page, settings: Settings) -> None:
    document = a_document(settings, [an_alert(settings, "E04")])
    third = await section(page, document, NOW, number=3)
    update = {**document, "takeover": {**document["takeover"], "id": "0123456789abcdef"}}
    assert not await call(page, "stays", third, update, millis(NOW))
    assert (await call(page, "instead", third, update, millis(NOW)))["place"] == 0


# What time it is


async def clock(page: Page, body: str, **given: Any) -> Any:
    return await page.evaluate(
        f"async (given) => {{ const {{ Clock }} = await part('clock.js'); {body} }}", {"now": millis(NOW), **given}
    )


async def test_the_clock_is_what_the_service_says(page: Page) -> None:
    await page.clock.pause_at(NOW + hours(30))
    body = "const c = new Clock(); c.heard(given.date, performance.now()); return c.now() - given.now;"
    assert abs(await clock(page, body, date="Tue, 01 Dec 2026 00:00:00 GMT")) <= 500
    body = "const c = new Clock(); c.heard('soon', performance.now()); return c.now() - given.now;"
    assert await clock(page, body) == hours(30).total_seconds() * 1000


async def test_after_a_restart_it_goes_on_from_what_was_kept(page: Page) -> None:
    await page.clock.pause_at(NOW + hours(24))
    day = hours(24).total_seconds() * 1000
    body = "return new Clock({offset: -given.day, seen: given.now}).now() - given.now;"
    assert await clock(page, body, day=day) == 0


async def test_a_machine_that_forgot_the_date_is_not_believed(page: Page) -> None:
    """Its battery is empty and it thinks that it is 2020: time is not earlier than when it was last looked at."""
    await page.clock.pause_at(NOW + hours(1))
    body = "return new Clock({offset: -365 * 86400e3, seen: given.now}).now() - given.now;"
    assert await clock(page, body) == 0


async def test_a_machine_that_slept_lets_nothing_stay_and_one_that_was_set_back_neither(page: Page) -> None:
    await page.clock.pause_at(NOW + minutes(5))
    body = """
      const c = new Clock({offset: 0, seen: 0});
      const real = Date.now;
      Date.now = () => real() + given.by;
      const leapt = c.hasLeapt;
      c.settle();
      const ahead = c.now() - real();
      Date.now = real;
      return [leapt, ahead, c.hasLeapt];
    """
    assert await clock(page, body, by=3_600_000) == [True, 3_600_000, True]
    assert await clock(page, body, by=-3_600_000) == [True, 0, True]
    assert await clock(page, body, by=2_000) == [False, 0, False]
