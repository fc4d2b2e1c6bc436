"""Nothing on a screen is ever cut: every real text in every language, both ways up, measured in the browser.

The pictures that this draws stay in tests/.artifacts/player, to be looked at.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from broadcaster.message import LANGUAGES, Info, Message, Mode, Section
from broadcaster.settings import Settings
from tests.glass import SIZES, Document, Kiosk, Service, a_document, a_kiosk, a_service, painted
from tests.makers import a_notice, a_sample, an_alert, sample_notices

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
ARTIFACTS = Path(__file__).parent / ".artifacts" / "player"

SETS = """
  // Sets every section of a document, and tells what of it does not stand whole on the glass.
  window.sections = (document_) => {
    const [kind, things] = document_.takeover ? ['takeover', document_.takeover.alerts] : ['items', document_.items];
    return things.flatMap((thing, at) => thing.languages.map((told, place) => (
      {kind, group: '', round: 0, place, thing, told, isFirst: place === 0, number: at + 1, of: things.length})));
  };
  window.outside = (leaf) => {
    const wrong = [];
    const stage = document.querySelector(leaf.id === 'foot' ? '#stage' : '#leaves').getBoundingClientRect();
    const glass = {left: 0, top: 0, right: innerWidth, bottom: innerHeight};
    const isIn = (inner, outer) => inner.left >= outer.left - 2 && inner.top >= outer.top - 2
      && inner.right <= outer.right + 2 && inner.bottom <= outer.bottom + 2;
    const walker = document.createTreeWalker(leaf, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode;
      const range = document.createRange();
      range.selectNodeContents(text);
      if (!text.data.trim() || !text.parentElement.checkVisibility()) continue;
      const box = text.parentElement.closest('.body, .headline, .head, .leaf, #foot').getBoundingClientRect();
      const em = parseFloat(getComputedStyle(text.parentElement).fontSize);
      for (const whole of range.getClientRects()) {
        // A font's own box is higher than its letters; what is drawn lies within one em about the middle.
        const middle = (whole.top + whole.bottom) / 2;
        const rect = {left: whole.left, right: whole.right, width: whole.width, top: middle - em / 2, bottom: middle + em / 2};
        if (rect.width > 0 && !(isIn(rect, box) && isIn(rect, stage) && isIn(rect, glass))) wrong.push(text.data);
      }
    }
    return wrong;
  };
  window.sizes = (leaf) => [...leaf.querySelectorAll('.phrase, .caption')].filter((e) => e.checkVisibility())
      .map((e) => parseFloat(getComputedStyle(e).fontSize) / (Math.min(innerWidth, innerHeight) / 1080));
"""

MEASURES = """
async (document_) => {
  const base = document.querySelector('script[type=module]').src.replace('player.js', '');
  const { Show } = await import(base + 'show.js');
  const { Clock } = await import(base + 'clock.js');
  const words = JSON.parse(document.documentElement.dataset.words);
  document.querySelector('#leaves').replaceChildren();
  const show = new Show({words, pictures: {of: () => null}, clock: new Clock()});
  show.frame(document_);
  const found = [];
  for (const section of window.sections(document_)) {
    const leaves = [];
    for (let seconds = show.begin(section, null); seconds !== null; seconds = show.turn()) {
      const node = [...document.querySelectorAll('.leaf:not(.leaving)')].at(-1);
      leaves.push({
        seconds,
        outside: window.outside(node).concat(window.outside(document.querySelector('#foot'))),
        smallest: Math.min(...window.sizes(node)),
        body: node.querySelector('.body').textContent,
        headline: node.querySelector('.headline:not([hidden])')?.textContent ?? '',
        head: node.querySelector('.head')?.textContent ?? '',
      });
    }
    found.push({id: section.thing.id, language: section.told.language, isFirst: section.isFirst, leaves});
  }
  return found;
}
"""


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    async with a_service(settings) as service:
        yield service


@pytest.fixture
async def kiosk() -> AsyncIterator[Kiosk]:
    async with a_kiosk() as kiosk:
        yield kiosk


def address(mode: Mode) -> str:
    return "/drill/signage/S01" if mode is Mode.DRILL else "/signage/S01"


async def a_glass(service: Service, kiosk: Kiosk, settings: Settings, mode: Mode, size: Any) -> Page:
    """A screen with its own fonts, on which anything may be set. It shows nothing by itself any more."""
    etag = service.put(a_document(settings, [], mode=mode))
    page = await kiosk.opens(service.url + address(mode), size=size, scripts=[SETS])
    await painted(page, etag)
    await page.evaluate("Promise.all([...document.fonts].map((font) => font.load()))")
    await page.clock.pause_at(await page.evaluate("Date.now() + 1000"))
    return page


def without_blanks(text: str) -> str:
    return "".join(text.split())


def told_of(document: Document, id: str, language: str) -> Document:
    things = document["takeover"]["alerts"] if document["takeover"] else document["items"]
    thing = next(thing for thing in things if thing["id"] == id)
    return next(told for told in thing["languages"] if told["language"] == language)


async def is_whole(page: Page, document: Document) -> int:
    """Sets everything that this document says and measures it. Gives the number of leaves."""
    leaves = 0
    for section in await page.evaluate(MEASURES, document):
        told = told_of(document, section["id"], section["language"])
        where = f"{section['id']} {section['language']}"
        for leaf in section["leaves"]:
            assert leaf["outside"] == [], where
            assert leaf["smallest"] >= 48, f"{where}: smaller than can be read from 5 m"
            assert 8 <= leaf["seconds"] <= 20, where
        shown = without_blanks("".join(leaf["body"] for leaf in section["leaves"]))
        above = without_blanks(section["leaves"][0]["head"] + section["leaves"][0]["headline"])
        if document["takeover"]:
            for line in map(without_blanks, told["lines"]):
                assert line in shown or line in above, f"{where}: all of it is shown"
        else:
            body = "".join("".join(page["phrases"]) for page in told["pages"])
            assert shown.endswith(without_blanks(body)), f"{where}: all of it is shown, in its order"
            assert without_blanks(told["headline"]) in above + shown, where
        leaves += len(section["leaves"])
    return leaves


def notices(settings: Settings, mode: Mode) -> list[Message]:
    return [a_sample(settings, id, mode=mode) for id in sample_notices(settings)]


@pytest.mark.parametrize("orientation", list(SIZES))
@pytest.mark.parametrize("mode", list(Mode))
async def test_every_real_text_stands_whole_on_the_glass(
    service: Service, kiosk: Kiosk, settings: Settings, mode: Mode, orientation: str
) -> None:
    page = await a_glass(service, kiosk, settings, mode, SIZES[orientation])
    told = a_document(settings, notices(settings, mode), mode=mode, screen="S01")
    assert await is_whole(page, told) > 30
    for id, preset in settings.presets.items():
        if preset.is_drill_only and mode is Mode.LIVE:
            continue
        alert = a_document(settings, [an_alert(settings, id, mode=mode)], mode=mode)
        if alert["takeover"]:
            assert await is_whole(page, alert) >= len(LANGUAGES)
    assert page.problems == []  # type: ignore[attr-defined]


LONG = {
    "ja": "東京都品川区にお住まいの皆さまへ、" * 12,
    "easy-ja": "品川区に すんでいる みなさんに おしらせです。" * 10,
    "en": "Residents of Shinagawa City are asked to leave dangerous places at once. " * 6,
    "zh-Hans": "请住在危险场所的居民立即全部避难，" * 12,
    "zh-Hant": "請住在危險場所的居民立即全部避難，" * 12,
    "ko": "위험한 장소에 있는 사람은 모두 즉시 대피하십시오. " * 10,
    "tl": "Lahat ng nasa mapanganib na lugar ay lumikas na ngayon din. " * 8,
}


@pytest.mark.parametrize("orientation", list(SIZES))
@pytest.mark.parametrize("size", [1, 1.35], ids=["43-inch", "32-inch"])
async def test_texts_longer_than_any_real_one_take_more_leaves_and_are_not_cut(
    service: Service, kiosk: Kiosk, settings: Settings, orientation: str, size: float
) -> None:
    page = await a_glass(service, kiosk, settings, Mode.LIVE, SIZES[orientation])
    await page.evaluate("size => document.documentElement.style.setProperty('--k', size)", size)
    infos = tuple(
        Info(
            language=language,
            headline=text[:120],
            summary=text,
            description=text,
            spoken=text,
            display=(text[:60], text),
        )
        for language, text in LONG.items()
    )
    await is_whole(
        page, a_document(settings, [a_notice(settings, infos=infos, web="https://www.example.lg.jp/" + "a" * 60)])
    )
    long_word = a_notice(settings, title="W" * 80, body="W" * 80)
    assert await is_whole(page, a_document(settings, [long_word])) >= 2
    alert = an_alert(settings, "E04")
    document = a_document(settings, [alert])
    for told in document["takeover"]["alerts"][0]["languages"][1:]:
        told["lines"] = [LONG[told["language"]]]
    document["takeover"]["alerts"][0]["languages"][0]["lines"] = [
        "警戒レベル４",
        "避難指示（目黒川・立会川・呑川の氾濫）",
        LONG["ja"],
    ]
    await is_whole(page, document)


# Pictures to be looked at


@pytest.mark.parametrize("orientation", list(SIZES))
async def test_pictures_of_screens_are_kept(
    service: Service, kiosk: Kiosk, settings: Settings, orientation: str
) -> None:
    """Normal, emergency and drill, in all languages: each as it stands on the glass."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    for mode in Mode:
        page = await a_glass(service, kiosk, settings, mode, SIZES[orientation])
        documents = {
            "normal": a_document(settings, [a_notice_to_all(settings)], mode=mode),
            "emergency": a_document(settings, [an_alert(settings, "E04", mode=mode)], mode=mode),
        }
        if mode is Mode.DRILL:
            documents = {"drill": documents["emergency"]}
        for name, document in documents.items():
            for language in LANGUAGES:
                await page.evaluate(ONE_LEAF, [document, language])
                file = ARTIFACTS / f"{name}-{language}-{orientation}.png"
                await page.screenshot(path=file, animations="disabled")
                assert file.stat().st_size > 10_000
        await page.context.close()


ONE_LEAF = """
async ([document_, language]) => {
  const base = document.querySelector('script[type=module]').src.replace('player.js', '');
  const { Show } = await import(base + 'show.js');
  const { Clock } = await import(base + 'clock.js');
  document.querySelector('#leaves').replaceChildren();
  const words = JSON.parse(document.documentElement.dataset.words);
  const show = new Show({words, pictures: {of: () => null}, clock: new Clock()});
  show.frame(document_);
  show.begin(window.sections(document_).find((section) => section.told.language === language), null);
  show.tick();
}
"""


def a_notice_to_all(settings: Settings) -> Message:
    section = Section(name="広報広聴課", phone="03-3777-1111")
    web = "https://www.example.lg.jp/water/20261201"
    return a_notice(settings, infos=in_all_languages(settings), section=section, web=web)


def in_all_languages(settings: Settings) -> tuple[Info, ...]:
    """A notice made of reviewed phrases."""
    keys = [key for key in ("boil_water", "water_outage", "more_on_web") if key in settings.words.phrases]
    keys += [key for key in settings.words.phrases if key not in keys and "{" not in settings.words.phrases[key]["ja"]]
    chosen = [key for key in keys if len(settings.words.phrases[key]["ja"]) > 14][:4]
    area = "西品川一丁目"
    said = {language: [settings.words.phrase(key, language, area=area) for key in chosen] for language in LANGUAGES}
    return tuple(
        Info(
            language=language,
            headline=said[language][0],
            summary="",
            description="\n".join(said[language][1:]),
            spoken="",
        )
        for language in LANGUAGES
    )
