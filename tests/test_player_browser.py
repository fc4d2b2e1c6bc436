"""A signage screen in a real browser: what stands on the glass, when it changes, and what happens when something fails."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import segno
from PIL import Image as Pillow
from playwright.async_api import Page

from broadcaster.clock import SystemClock, hours, minutes, stamp
from broadcaster.message import Mode
from broadcaster.settings import Settings
from tests.desk import a_day, a_desk_server
from tests.glass import (
    PORTRAIT,
    Document,
    Kiosk,
    Service,
    a_document,
    a_kiosk,
    a_service,
    bytes_of,
    etag_of,
    is_kept,
    painted,
    text_of,
)
from tests.makers import NOW, a_notice, a_sample, an_alert

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with a_service(settings) as service:
        yield service


@pytest.fixture
async def kiosk() -> AsyncIterator[Kiosk]:
    async with a_kiosk() as kiosk:
        yield kiosk


def a_jpeg(colour: str = "green") -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (320, 180), colour).save(file, "JPEG")
    return file.getvalue()


def with_picture(document: Document, picture: bytes, *, url: str = "") -> Document:
    """The first notice has this picture, under the address of another host as configurations have it."""
    digest = hashlib.sha256(picture).hexdigest()
    image = {
        "url": url or f"https://www.example.lg.jp/media/{digest}.jpg",
        "alt": "朝市の店先",
        "width": 320,
        "height": 180,
        "type": "image/jpeg",
        "digest": digest,
    }
    first, *others = document["items"]
    return {**document, "items": [{**first, "image": image}, *others]}


async def view(page: Page) -> str:
    return await page.evaluate("document.body.dataset.view")


async def shows(page: Page, text: str) -> None:
    await page.wait_for_function("text => document.body.innerText.replace(/\\s/g, '').includes(text)", arg=text)


async def turns_until(service: Service, page: Page, condition: str, *, leaves: int = 40) -> None:
    """Leaf after leaf, each at its time, until this holds."""
    for _ in range(leaves):
        if await page.evaluate(condition):
            return
        await service.later(page, by=timedelta(seconds=21))
    raise AssertionError(f"never: {condition}")


# The plain case


async def test_a_screen_shows_the_notices_its_place_and_the_time(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    etag = service.put(a_document(settings, [a_notice(settings)]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    said = await text_of(page)
    for text in ("図書館の休館のお知らせ", "設備の点検のため", "本庁舎　総合案内横", "09:00"):
        assert text in said
    assert await view(page) == "items"
    assert await page.title() == "品川区 区の案内画面"
    assert page.problems == []  # type: ignore[attr-defined]


async def test_the_real_service_and_the_real_screen_understand_each_other(tmp_path: Path, kiosk: Kiosk) -> None:
    """Both modes, from what is in force in the database to the glass."""
    async with a_desk_server(tmp_path) as desk:
        a_day(desk.app)
        now = SystemClock().now()
        live = await kiosk.opens(f"{desk.url}/signage/S01", at=now)
        await shows(live, "避難指示（目黒川）")
        drill = await kiosk.opens(f"{desk.url}/drill/signage/S01", at=now)
        await shows(drill, "【訓練】津波警報")
        assert "訓練　これは訓練です" in await text_of(drill)
        assert "訓練" not in await text_of(live)


async def test_a_picture_stands_after_the_text_and_the_link_is_a_code_that_leads_there(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    picture = a_jpeg()
    link = "https://www.example.lg.jp/event/20261205/1"  # 42 letters fill a version 3: encoders differ in what they pad with
    document = with_picture(a_document(settings, [a_notice(settings, web=link)]), picture)
    service.media[f"/media/{hashlib.sha256(picture).hexdigest()}.jpg"] = picture
    etag = service.put(document)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    assert "くわしくは" in await text_of(page)
    drawn = await page.evaluate(
        """() => { const code = document.querySelector('.qr svg');
             const size = code.viewBox.baseVal.width - 8;
             const dots = [...code.querySelector('path').getAttribute('d').matchAll(/M(\\d+) (\\d+)/g)];
             const rows = Array.from({length: size}, () => Array(size).fill(0));
             dots.forEach(([, x, y]) => { rows[y - 4][x - 4] = 1; });
             return {rows, label: code.getAttribute('aria-label'), module: code.getBoundingClientRect().width / (size + 8)}; }"""
    )
    assert drawn["label"] == link
    assert drawn["module"] >= 8, "a phone reads it from some steps away"
    codes = [segno.make(link, error="m", micro=False, boost_error=False, mask=mask) for mask in range(8)]
    assert drawn["rows"] in [[list(map(int, row)) for row in code.matrix] for code in codes]
    await turns_until(service, page, "document.querySelector('.picture img')?.complete === true")
    assert await page.evaluate("document.querySelector('.picture img').naturalWidth") == 320
    assert await page.evaluate("document.querySelector('.picture img').alt") == "朝市の店先"


async def test_languages_take_turns_and_the_first_one_comes_back_each_time(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    etag = service.put(a_document(settings, [an_alert(settings, "E04")]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    seen: list[str] = []
    for _ in range(60):
        seen.append(await page.evaluate("document.querySelector('#mark').innerText.split('　').at(-1)"))
        assert "避難指示（目黒川）" in (await page.evaluate("document.querySelector('.name').innerText")).replace(
            "\n", ""
        )
        await service.later(page, by=timedelta(seconds=21))
        if len(set(seen)) == 7:
            break
    assert set(seen) == {"日本語", "やさしい", "English", "简体中文", "繁體中文", "한국어", "Filipino"}
    others = [language for language in seen if language != "日本語"]
    assert seen.count("日本語") >= len(set(others)) - 1


# A change


async def test_a_change_is_on_the_glass_as_soon_as_the_service_hints_at_it(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await kiosk.opens(f"{service.url}/signage/S01")
    assert "登録されていません" in await text_of(page), "not yet"
    service.put(a_document(settings, []))
    await page.goto(f"{service.url}/signage/S01")
    await shows(page, "緊急のときは")
    while not service.listening:
        await asyncio.sleep(0.02)
    under_way: set[Any] = set()
    page.on("request", lambda request: under_way.add(request) if request.url.endswith(".json") else None)
    for end in ("requestfinished", "requestfailed"):
        page.on(end, lambda request: under_way.discard(request))
    await page.clock.pause_at(NOW + timedelta(seconds=60))  # no poll falls due any more
    while under_way:
        await asyncio.sleep(0.02)
    etag = service.put(a_document(settings, [an_alert(settings, "E04")]))
    while service.asked[-1][1]:
        await asyncio.sleep(0.02)
    await page.clock.resume()
    await painted(page, etag)
    assert await view(page) == "takeover"


async def test_without_hints_it_is_on_the_glass_with_the_next_question(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    service.has_hints = False
    first = a_document(settings, [a_notice(settings)])
    service.put(first)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag_of(first))
    etag = service.put(a_document(settings, [an_alert(settings, "E04")]))
    await service.later(page, by=timedelta(seconds=first["poll_s"] + 1))
    await painted(page, etag)
    assert "避難指示" in await text_of(page)
    await service.later(page, by=timedelta(seconds=first["poll_s"] + 1))
    while not service.asked[-1][1]:
        await asyncio.sleep(0.02)


async def test_a_new_notice_is_told_at_once_and_the_round_goes_on(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    old = a_notice(settings)
    service.put(a_document(settings, [old]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await shows(page, "図書館の休館のお知らせ")
    new = a_notice(settings, identifier="13109-b", title="断水のお知らせ", body="午後2時から4時まで断水します。")
    await painted(page, service.put(a_document(settings, [old, new])))
    await shows(page, "断水のお知らせ")
    await turns_until(service, page, "document.body.innerText.includes('図書館の休館')")


async def test_the_network_goes_and_comes_back(service: Service, kiosk: Kiosk, settings: Settings) -> None:
    service.put(a_document(settings, [a_notice(settings)]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await shows(page, "図書館の休館のお知らせ")
    await service.go_offline()
    await service.later(page, by=minutes(20))
    await service.later(page, by=timedelta(seconds=21))
    await shows(page, "更新09:00")
    assert "図書館の休館のお知らせ" in await text_of(page), "it goes on without one"
    etag = service.put(a_document(settings, [an_alert(settings, "E04")]))
    await service.go_online()
    await service.later(page, by=timedelta(seconds=31))
    await painted(page, etag)
    assert "更新" not in await text_of(page)


async def test_26_screens_show_an_alert_after_one_hint(service: Service, kiosk: Kiosk, settings: Settings) -> None:
    """How fast stands in docs/benchmarks.md; here only that none is left out."""
    screens = [screen.id for screen in settings.ward.screens]
    assert len(screens) == 26
    for screen in screens:
        service.put(a_document(settings, [a_notice(settings)], screen=screen))
    pages = [
        await kiosk.opens(f"{service.url}/signage/{screen}", size={"width": 480, "height": 270}) for screen in screens
    ]
    while service.listening < len(screens):
        await asyncio.sleep(0.05)
    alerts = {screen: a_document(settings, [an_alert(settings, "E01")], screen=screen) for screen in screens}
    for document in alerts.values():
        service.put(document)
    for screen, page in zip(screens, pages, strict=True):
        await painted(page, etag_of(alerts[screen]))
        assert await view(page) == "takeover"


# An emergency


async def test_an_alert_covers_everything_and_says_when_it_was_issued(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    document = a_document(settings, [a_notice(settings), an_alert(settings, "E04")])
    assert document["items"], "there is something that could stand beside it"
    etag = service.put(document)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    for _ in range(6):
        said = await text_of(page)
        assert "午前9時発表　品川区" in said
        assert "警戒レベル４" in said
        assert "図書館" not in said
        assert await page.evaluate("document.querySelectorAll('.leaf').length") == 1, "nothing fades beside it"
        await service.later(page, by=timedelta(seconds=21))
    ground = await page.evaluate("getComputedStyle(document.querySelector('.alert .head')).backgroundColor")
    assert ground == "rgb(170, 0, 170)", "the official colour, from the document"


async def test_two_alerts_take_turns_and_each_says_which_it_is(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    etag = service.put(a_document(settings, [an_alert(settings, "E04"), an_alert(settings, "E03")]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    assert "避難指示" in await text_of(page), "the gravest first"
    assert "1／2" in await text_of(page)
    await turns_until(service, page, "document.querySelector('.name').innerText.includes('高齢者等避難')")
    assert (await page.evaluate("document.querySelector('#mark').innerText")).startswith("2／2")


async def test_a_takeover_ends_at_its_end_without_a_network(service: Service, kiosk: Kiosk, settings: Settings) -> None:
    document = a_document(settings, [a_notice(settings), an_alert(settings, "E04")])
    etag = service.put(document)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    await service.go_offline()
    await service.later(page, by=hours(2) + minutes(59))
    assert await view(page) == "takeover"
    await service.later(page, by=minutes(2))
    await page.wait_for_selector("body[data-view='items']")
    assert "図書館の休館のお知らせ" in await text_of(page)
    await service.later(page, by=hours(45))
    await page.wait_for_selector("body[data-view='empty']")
    assert "緊急のときは" in await text_of(page), "what has ended is gone, two days later"


async def test_48_hours_without_a_network_what_is_still_true_is_still_shown(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    long, short = (
        a_notice(settings, lasts=hours(72)),
        a_notice(settings, identifier="13109-b", title="朝市", lasts=hours(5)),
    )
    service.put(a_document(settings, [long, short]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await shows(page, "図書館の休館")
    await service.go_offline()
    await service.later(page, by=hours(48))
    for _ in range(6):
        assert "朝市" not in await text_of(page)
        assert "図書館の休館" in await text_of(page)
        await service.later(page, by=timedelta(seconds=21))


async def test_an_alert_appears_by_one_cut_and_nothing_moves_for_those_who_asked_for_rest(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    service.put(a_document(settings, [a_notice(settings), a_sample(settings, "N02")]))
    page = await kiosk.opens(f"{service.url}/signage/S01", reduced_motion="reduce")
    await page.wait_for_selector(".leaf.notice")
    assert await page.evaluate("document.getAnimations().length") == 0
    await service.later(page, by=timedelta(seconds=21))
    assert await page.evaluate("document.querySelectorAll('.leaf').length") == 1
    await painted(page, service.put(a_document(settings, [an_alert(settings, "E04")])))
    assert await page.evaluate("document.getAnimations().length") == 0
    other = await kiosk.opens(f"{service.url}/signage/S01")
    await other.wait_for_selector(".leaf.alert.cut")
    moving = "document.getAnimations().map(a => [a.animationName, a.effect.getTiming().iterations])"
    assert all(name == "thicken" and often == 1 for name, often in await other.evaluate(moving)), "nothing flashes"


RECORDS_SOUND = """
  window.heard = [];
  window.speechSynthesis.speak = (said) => window.heard.push([said.lang, said.text]);
  const tone = AudioContext.prototype.createOscillator;
  AudioContext.prototype.createOscillator = function () { window.heard.push(["tone"]); return tone.call(this); };
"""


@pytest.mark.parametrize("mode", list(Mode))
async def test_a_screen_with_sound_is_heard_and_a_drill_says_so_first(
    service: Service, kiosk: Kiosk, settings: Settings, mode: Mode
) -> None:
    base = "/drill/signage/S01" if mode is Mode.DRILL else "/signage/S01"
    etag = service.put(a_document(settings, [an_alert(settings, "E04", mode=mode)], mode=mode))
    page = await kiosk.opens(f"{service.url}{base}?sound=1", scripts=[RECORDS_SOUND])
    await painted(page, etag)
    await page.wait_for_function("() => window.heard.some(([lang]) => lang === 'en-US')")
    heard = await page.evaluate("window.heard")
    spoken = next(text for lang, *text in heard if lang == "ja-JP")[0]
    if mode is Mode.DRILL:
        assert ["tone"] not in heard, "no chime of an emergency"
        assert spoken.startswith("訓練、訓練。これは訓練です。")
    else:
        assert heard[0] == ["tone"]
        assert spoken.startswith("緊急放送、緊急放送。 警戒レベル４。避難指示（目黒川）。")
    silent = await kiosk.opens(f"{service.url}{base}", scripts=[RECORDS_SOUND])
    await painted(silent, etag)
    await service.later(silent, by=timedelta(seconds=21))
    assert await silent.evaluate("window.heard") == []


# A drill


@pytest.mark.parametrize("ids", [("E04",), ("N02",), ()], ids=["alert", "notice", "nothing"])
async def test_a_drill_is_framed_at_every_moment(
    service: Service, kiosk: Kiosk, settings: Settings, ids: tuple[str, ...]
) -> None:
    messages = [
        an_alert(settings, id, mode=Mode.DRILL) if id.startswith("E") else a_sample(settings, id, mode=Mode.DRILL)
        for id in ids
    ]
    document = a_document(settings, messages, mode=Mode.DRILL)
    service.put(document)
    # Looked at with every picture that the browser draws, from the first on, not only now and then.
    watch = """
      window.unframed = [];
      const look = () => {
        const leaf = document.querySelector('.leaf:not(.measured)');
        const framed = [...document.querySelectorAll('.band')].every((band) => !band.hidden && band.innerText.includes('訓練'));
        if (leaf && !framed) window.unframed.push(leaf.className);
        requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    """
    page = await kiosk.opens(f"{service.url}/drill/signage/S01", scripts=[watch])
    await painted(page, etag_of(document))
    for _ in range(8):
        said = await text_of(page)
        assert said.count("訓練　これは訓練です") == 2
        assert "これは訓練です。避難の必要はありません。" in said.replace("\n", "")
        assert "DRILL" in said
        await service.later(page, by=timedelta(seconds=21))
    assert await page.evaluate("window.unframed") == []
    grounds = await page.evaluate(
        "[...document.querySelectorAll('.alert .head')].map((head) => getComputedStyle(head).backgroundColor)"
    )
    assert set(grounds) <= {"rgb(255, 255, 255)"}, "no filled colour in a drill"


# What is not shown


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"version": "1"},
        {"mode": "drill", "drill": {"band": "訓練", "band_other": "DRILL", "foot": "訓練"}},
        {"drill": {"band": "訓練", "band_other": "DRILL", "foot": "訓練"}},
        {"screen": {"id": "S02", "site": "", "place": "", "orientation": "landscape"}},
        {"items": [{"id": "x"}]},
        {"takeover": {"id": "x", "expires": "soon", "alerts": [], "drill": None}},
        {"poll_s": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_document_that_is_not_understood_changes_nothing(
    service: Service, kiosk: Kiosk, settings: Settings, wrong: Document
) -> None:
    right = a_document(settings, [a_notice(settings)])
    service.put(right)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag_of(right))
    bad = {**a_document(settings, [an_alert(settings, "E04")]), **wrong}
    service.documents["/signage/S01.json"] = bytes_of(bad)
    asked = len(service.asked)
    for _ in range(3):
        await service.later(page, by=timedelta(seconds=31))
    while len(service.asked) < asked + 2:
        await asyncio.sleep(0.02)
    assert await view(page) == "items"
    assert "図書館の休館のお知らせ" in await text_of(page)
    service.put(a_document(settings, [an_alert(settings, "E01")]))
    await shows(page, "火の元を確認")


async def test_a_picture_that_is_not_what_its_hash_says_is_not_shown_and_the_text_is(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    picture = a_jpeg()
    document = with_picture(a_document(settings, [a_notice(settings)]), picture)
    path = f"/media/{hashlib.sha256(picture).hexdigest()}.jpg"
    service.media[path] = picture[:-40]  # half a picture
    etag = service.put(document)
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    for _ in range(4):
        assert "図書館の休館のお知らせ" in await text_of(page)
        assert await page.evaluate("document.querySelector('.picture')") is None
        await service.later(page, by=timedelta(seconds=21))
    service.media[path] = picture
    await turns_until(service, page, "document.querySelector('.picture img') !== null")


async def test_markup_in_a_notice_is_text(service: Service, kiosk: Kiosk, settings: Settings) -> None:
    attack = "<img src=x onerror=alert(1)><script>window.broken = 1</script>"
    etag = service.put(a_document(settings, [a_notice(settings, title=attack, body=attack)]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    await shows(page, "onerror=alert(1)")
    assert await page.evaluate("[document.querySelectorAll('#stage img, #stage script').length, window.broken]") == [
        0,
        None,
    ]


# The clock


@pytest.mark.parametrize("wrong_by", [timedelta(days=-1), timedelta(days=1)], ids=["slow", "fast"])
async def test_a_clock_that_is_wrong_by_a_day_is_put_right(
    service: Service, kiosk: Kiosk, settings: Settings, wrong_by: timedelta
) -> None:
    etag = service.put(a_document(settings, [a_notice(settings, lasts=hours(5))]))
    page = await kiosk.opens(f"{service.url}/signage/S01", at=NOW + wrong_by)
    await painted(page, etag)
    assert "図書館の休館のお知らせ" in await text_of(page)
    assert "09:0" in await page.evaluate("document.querySelector('#time').textContent")
    await service.go_offline()
    await service.later(page, by=hours(5))
    await page.wait_for_selector("body[data-view='empty']")


async def test_a_clock_that_is_set_while_the_screen_runs_drops_nothing(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    etag = service.put(a_document(settings, [an_alert(settings, "E04")]))
    page = await kiosk.opens(f"{service.url}/signage/S01")
    await painted(page, etag)
    asked = len(service.asked)
    await page.clock.set_system_time(NOW + timedelta(days=1))
    while len(service.asked) == asked:
        await asyncio.sleep(0.02)
    await service.later(page, by=timedelta(seconds=21))
    assert await view(page) == "takeover"
    assert "09:0" in await page.evaluate("document.querySelector('#time').textContent")


# A restart


async def test_after_a_restart_without_a_network_the_last_verified_content_is_shown(
    service: Service, kiosk: Kiosk, settings: Settings, tmp_path: Path
) -> None:
    picture = a_jpeg()
    service.media[f"/media/{hashlib.sha256(picture).hexdigest()}.jpg"] = picture
    lasting = with_picture(
        a_document(
            settings, [a_notice(settings), a_notice(settings, identifier="13109-b", title="朝市", lasts=hours(1))]
        ),
        picture,
    )
    url = f"{service.url}/signage/S01"
    service.put(lasting)
    async with kiosk.restarted(tmp_path, url) as page:
        await painted(page, etag_of(lasting))
        await is_kept(page)
        await page.wait_for_function(
            "async () => (await caches.keys()).some((name) => name.startsWith('signage-pictures'))"
        )
    await service.go_offline()
    async with kiosk.restarted(tmp_path, url, at=NOW + hours(2)) as page:
        await painted(page, etag_of(lasting))
        assert "図書館の休館のお知らせ" in await text_of(page)
        assert await page.evaluate("document.fonts.check('700 80px Signage', '図')"), "with its own fonts"
        await turns_until(service, page, "document.querySelector('.picture img') !== null")
        assert "朝市" not in await text_of(page)
        assert "更新" in await text_of(page), "it is old, and says so"
        assert page.problems == []  # type: ignore[attr-defined]
    async with kiosk.restarted(tmp_path, url, at=NOW + hours(49)) as page:
        await page.wait_for_selector("body[data-view='empty']")
        assert "緊急のときは" in await text_of(page)


async def test_a_restart_in_the_middle_of_a_takeover_shows_it_and_ends_it_in_time(
    service: Service, kiosk: Kiosk, settings: Settings, tmp_path: Path
) -> None:
    document = a_document(settings, [an_alert(settings, "E04")])
    url = f"{service.url}/signage/S01"
    service.put(document)
    async with kiosk.restarted(tmp_path, url) as page:
        await painted(page, etag_of(document))
        await is_kept(page)
    await service.go_offline()
    async with kiosk.restarted(tmp_path, url, at=NOW + hours(1)) as page:
        await painted(page, etag_of(document))
        assert "午前9時発表" in await text_of(page)
        await page.clock.fast_forward("02:01:00")
        await page.wait_for_selector("body[data-view='empty']")


# What the desk is told


async def test_heartbeats_say_what_is_on_the_glass_and_plays_wait_for_the_network(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await a_paired_screen(service, kiosk, settings)
    notice = a_document(settings, [a_notice(settings)])
    await painted(page, service.put(notice))
    await beats_until(service, page, lambda beat: beat["showing"]["item"] == "13109-a-notice")
    beat = service.beats[-1]
    assert (beat["player"], beat["etag"], beat["viewport"]) == ("1", etag_of(notice), [1920, 1080])
    assert beat["showing"]["kind"] == "items"
    assert beat["showing"]["language"] == "ja"
    assert beat["showing"]["rendered_at"] >= stamp(NOW)[:10]
    await service.go_offline()
    for _ in range(5):
        await service.later(page, by=timedelta(seconds=21))
        await page.wait_for_selector("body[data-painted]")
    before = len(service.taken)
    await service.go_online()
    await beats_until(service, page, lambda beat: len(service.taken) >= before + 3)
    numbers = sorted(service.taken)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "none is missing, none twice"
    plays = [service.taken[number] for number in numbers]
    assert all(play["item"] == "13109-a-notice" and play["from"] < play["until"] for play in plays)
    assert [play["until"] for play in plays] == sorted(play["until"] for play in plays)


async def test_a_takeover_is_acknowledged_as_soon_as_it_is_painted(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await a_paired_screen(service, kiosk, settings)
    document = a_document(settings, [an_alert(settings, "E04")])
    await painted(page, service.put(document))
    await beats_until(service, page, lambda beat: (beat["takeover"] or {}).get("state") == "showing", every_s=3)
    beat = service.beats[-1]
    assert beat["takeover"]["id"] == document["takeover"]["id"]
    assert (beat["showing"]["kind"], beat["showing"]["item"]) == ("takeover", "13109-E04")
    assert beat["online_since"] is not None
    service.put(a_document(settings, []))
    await beats_until(
        service, page, lambda beat: beat["takeover"] is None and beat["showing"]["kind"] == "empty", every_s=3
    )


async def test_a_screen_whose_token_was_taken_away_shows_on_and_tells_nothing(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await a_paired_screen(service, kiosk, settings)
    await beats_until(service, page, lambda beat: beat["showing"]["kind"] == "empty")
    service.tokens.clear()
    for _ in range(3):
        await service.later(page, by=timedelta(seconds=31))
    await painted(page, service.put(a_document(settings, [an_alert(settings, "E04")])))
    await page.wait_for_function(
        """() => new Promise((resolve) => { const request = indexedDB.open('signage');
             request.onsuccess = () => { request.result.transaction('kept').objectStore('kept').get('screen').onsuccess =
               (event) => { request.result.close(); resolve(event.target.result === undefined); }; }; })"""
    )
    beats = len(service.beats)
    for _ in range(3):
        await service.later(page, by=timedelta(seconds=31))
    await painted(page, service.put(a_document(settings, [an_alert(settings, "E01")])))
    assert len(service.beats) == beats


async def a_paired_screen(service: Service, kiosk: Kiosk, settings: Settings) -> Page:
    service.put(a_document(settings, []))
    page = await kiosk.opens(f"{service.url}/signage")
    await shows(page, "K7Q-4M2")
    service.claimed = "S01"
    await page.clock.run_for(2_000)
    await page.wait_for_url("**/signage/S01")
    await page.wait_for_selector("body[data-painted]")
    return page


async def beats_until(service: Service, page: Page, condition: Any, *, every_s: int = 31) -> None:
    """Beat after beat, until the newest says so."""
    while not (service.beats and condition(service.beats[-1])):
        await service.later(page, by=timedelta(seconds=every_s))
        await asyncio.sleep(0.2)  # real time for the answer: the browser's network is not the browser's clock


# A screen without a name


async def test_a_new_screen_shows_a_code_and_becomes_what_the_desk_says(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await a_paired_screen(service, kiosk, settings)
    assert "緊急のときは" in await text_of(page)
    await page.goto(f"{service.url}/signage?sound=1")
    await page.wait_for_url("**/signage/S01?sound=1"), "it knows its name from now on"


async def test_a_code_that_nobody_types_is_followed_by_another(
    service: Service, kiosk: Kiosk, settings: Settings
) -> None:
    page = await kiosk.opens(f"{service.url}/signage")
    await shows(page, "K7Q-4M2")
    assert "この番号をデスクの「画面」に入れてください" in await text_of(page)
    service.codes.append("older codes are over")
    await page.clock.run_for(3_000)
    await shows(page, "K7Q-4M4")


# The player's own renewal


async def test_the_worker_keeps_the_player_and_nothing_else(service: Service, kiosk: Kiosk, settings: Settings) -> None:
    etag = service.put(a_document(settings, [a_notice(settings)]))
    page = await kiosk.opens(f"{service.url}/signage/S01", size=PORTRAIT)
    await painted(page, etag)
    await is_kept(page)
    kept = await page.evaluate(
        """async () => (await Promise.all((await caches.keys()).map(async (name) =>
             (await (await caches.open(name)).keys()).map((request) => new URL(request.url).pathname)))).flat()"""
    )
    assert "/signage/S01" in kept
    assert all(path == "/signage/S01" or path.startswith(("/signage/player/", "/signage/fonts/")) for path in kept)
