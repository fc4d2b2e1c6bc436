"""The feeds: the same news in three formats and seven languages, and nothing that is no longer so."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import feedparser
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from lxml import etree

from broadcaster import changes
from broadcaster.channel import Board, Page, PermanentFailure, TemporaryFailure
from broadcaster.clock import hours
from broadcaster.drill import watermarked
from broadcaster.message import LANGUAGES, Change, Message, Mode
from broadcaster.settings import Settings
from broadcaster.text import BlockKind, blocks, runs
from channels.rss import Rss
from tests.makers import NOW, a_kit, a_notice, a_sample, an_alert

SCHEMA = Draft202012Validator(json.loads((Path(__file__).parent / "data" / "jsonfeed-schema.json").read_text()))
ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
def board(settings: Settings) -> Rss:
    return Rss.built(a_kit(settings))


@pytest.fixture
def news(settings: Settings) -> list[Message]:
    """Two notices of the morning and an evacuation order."""
    return [
        a_sample(settings, "N02", now=NOW - hours(2)),
        a_sample(settings, "N08", now=NOW - hours(1)),
        an_alert(settings, "E04"),
    ]


def pages(board: Rss, messages: Sequence[Message]) -> dict[str, Page]:
    return {page.path: page for page in board.compose(messages, NOW)}


def body(board: Rss, messages: Sequence[Message], path: str) -> bytes:
    return pages(board, messages)[path].body


def items(board: Rss, messages: Sequence[Message], path: str = "feeds/all.json") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(body(board, messages, path))["items"]
    return found


def indented(page: Page) -> str:
    """The same document, laid out for an editor's eyes."""
    if page.path.endswith(".json"):
        return json.dumps(json.loads(page.body), ensure_ascii=False, indent=1) + "\n"
    root = etree.fromstring(page.body)
    etree.indent(root)
    return etree.tostring(root, encoding="unicode") + "\n"


def titles(page: Page) -> list[str]:
    if page.path.endswith(".json"):
        return [item["title"] for item in json.loads(page.body)["items"]]
    return [entry.title for entry in feedparser.parse(page.body).entries]


# The plain case


def test_a_feed_tells_what_is_in_force_newest_first(board: Rss, news: list[Message]) -> None:
    for ending in ("rss", "atom", "json"):
        assert titles(pages(board, news)[f"feeds/all.{ending}"]) == [
            "警戒レベル４　避難指示（目黒川）",
            "熱中症警戒アラートが発表されています",
            "今週末のイベント情報（12月5日・6日）",
        ]


@pytest.mark.parametrize("name", ["all.rss", "all.atom", "all.json", "all.en.atom", "emergency.ko.json"])
def test_what_readers_see(board: Rss, news: list[Message], name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"rss/{name}", indented(pages(board, news)[f"feeds/{name}"]))


def test_every_category_has_its_feeds_and_the_gravest_are_written_first(board: Rss, news: list[Message]) -> None:
    paths = list(pages(board, news))
    assert len(paths) == 7 * 7 * 3
    assert paths[:3] == ["feeds/all.rss", "feeds/all.atom", "feeds/all.json"]
    assert paths[21:24] == ["feeds/emergency.rss", "feeds/emergency.atom", "feeds/emergency.json"]
    assert titles(pages(board, news)["feeds/weekend.rss"]) == ["今週末のイベント情報（12月5日・6日）"]


def test_it_is_a_board_that_needs_no_more_than_its_options(board: Rss, settings: Settings) -> None:
    assert isinstance(board, Board)
    assert board.missing() == []
    for wrong in (0, "many"):
        assert Rss.built(a_kit(settings, options={"entries": wrong})).missing() != []


# Other people's readers


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("ending", ["rss", "atom"])
def test_feedparser_reads_every_language_without_complaint(
    board: Rss, news: list[Message], ending: str, language: str
) -> None:
    path = f"feeds/all.{ending}" if language == "ja" else f"feeds/all.{language}.{ending}"
    feed = feedparser.parse(body(board, news, path))
    assert not feed.bozo
    assert feed.feed.language == ("ja" if language == "easy-ja" else language)
    for entry in feed.entries:
        assert entry.id
        assert entry.published_parsed
        assert entry.summary
        assert entry.content[0].value


@pytest.mark.parametrize("ending", ["rss", "atom"])
def test_links_lead_where_they_say(board: Rss, news: list[Message], ending: str) -> None:
    feed = feedparser.parse(body(board, news, f"feeds/all.{ending}"))
    assert feed.feed.link == "http://127.0.0.1:8000/"
    selves = [link.href for link in feed.feed.links if link.rel == "self"]
    assert selves == [f"http://127.0.0.1:8000/feeds/all.{ending}"]
    assert [entry.link for entry in feed.entries] == [
        "http://127.0.0.1:8000/emergency#13109-E04",
        "http://127.0.0.1:8000/#13109-N08",
        "https://www.example.lg.jp/event/20261205",
    ]


@pytest.mark.parametrize("ending", ["rss", "atom"])
def test_a_picture_is_an_enclosure_and_its_description_stands_in_the_text(
    board: Rss, news: list[Message], ending: str
) -> None:
    weekend = feedparser.parse(body(board, news, f"feeds/weekend.{ending}")).entries[0]
    assert [(picture.href, picture.type) for picture in weekend.enclosures] == [
        (f"http://127.0.0.1:8000/media/{'ab' * 32}.jpg", "image/jpeg")
    ]
    assert 'alt="朝市の店先に並ぶ大根やみかんと、品物を選ぶ来場者"' in weekend.content[0].value


def test_an_atom_entry_has_one_address_of_each_kind(board: Rss, news: list[Message]) -> None:
    root = etree.fromstring(body(board, news, "feeds/weekend.atom"))
    links = [link.attrib["rel"] for link in root.iterfind(f"{ATOM}entry/{ATOM}link")]
    assert links == ["alternate", "enclosure"]


def test_json_feeds_keep_to_the_specification(board: Rss, news: list[Message]) -> None:
    for page in board.compose(news, NOW):
        if page.path.endswith(".json"):
            SCHEMA.validate(json.loads(page.body))


def test_programs_find_what_cap_says(board: Rss, news: list[Message]) -> None:
    facts = items(board, news)[0]["_cap"]
    assert facts["urgency"] == "Immediate"
    assert facts["level"] == 4
    assert facts["expires"] == "2026-12-01T21:00:00+09:00"
    assert "urgency" not in items(board, news)[1]["_cap"]


# Ids


def test_no_two_messages_and_no_two_languages_share_an_id(board: Rss, news: list[Message]) -> None:
    known: dict[str, tuple[str, str]] = {}
    for page in board.compose(news, NOW):
        if not page.path.endswith(".json"):
            continue
        asked = page.path.split(".")[1] if page.path.count(".") == 2 else "ja"
        for item in json.loads(page.body)["items"]:
            told = (item["_cap"]["identifier"], asked)
            assert known.setdefault(item["id"], told) == told
    assert len(known) == len(news) * len(LANGUAGES)


def test_the_three_formats_name_an_entry_alike(board: Rss, news: list[Message]) -> None:
    for language in ("", ".en"):
        ids = [item["id"] for item in items(board, news, f"feeds/all{language}.json")]
        for ending in ("rss", "atom"):
            feed = feedparser.parse(body(board, news, f"feeds/all{language}.{ending}"))
            assert [entry.id for entry in feed.entries] == ids


def test_an_id_does_not_follow_the_words_or_the_address(board: Rss, settings: Settings) -> None:
    before = a_notice(settings)
    after = replace(before, web="https://www.example.lg.jp/new", infos=(replace(before.info, headline="新しい題"),))
    assert items(board, [before])[0]["id"] == items(board, [after])[0]["id"]
    assert items(board, [before])[0]["id"] == "tag:city.shinagawa.example.jp,2026:13109-a-notice"


@pytest.mark.parametrize("ending", ["rss", "atom"])
def test_an_update_is_an_entry_of_its_own_that_names_the_earlier_one(
    board: Rss, settings: Settings, ending: str
) -> None:
    order = an_alert(settings)
    later = NOW + hours(1)
    update = changes.changed(order, Change.UPDATE, words=settings.words, now=later, line="水位が上がっています。")
    update = replace(update, identifier="13109-update").sent(later)
    feed = feedparser.parse(body(board, [update], f"feeds/all.{ending}"))
    assert [entry.id for entry in feed.entries] == ["tag:city.shinagawa.example.jp,2026:13109-update"]
    assert feed.entries[0].title.startswith("【続報】")
    earlier = [link.href for link in feed.entries[0].links if link.rel == "predecessor-version"]
    assert earlier == ["tag:city.shinagawa.example.jp,2026:13109-E04"]
    assert feed.entries[0].link == "http://127.0.0.1:8000/emergency#13109-update"


# What is not there


def test_what_is_no_longer_in_force_is_in_no_feed(board: Rss, news: list[Message]) -> None:
    without_the_order = news[:2]
    for page in board.compose(without_the_order, NOW + hours(13)):
        assert "避難指示".encode() not in page.body
        assert b"13109-E04" not in page.body


def test_a_feed_without_news_is_still_a_feed(board: Rss) -> None:
    for ending in ("rss", "atom"):
        feed = feedparser.parse(body(board, [], f"feeds/emergency.{ending}"))
        assert not feed.bozo
        assert feed.entries == []
    SCHEMA.validate(json.loads(body(board, [], "feeds/all.json")))


def test_newer_notices_do_not_push_an_alert_out_of_a_full_feed(settings: Settings) -> None:
    board = Rss.built(a_kit(settings, options={"entries": 3}))
    later = [a_notice(settings, identifier=f"13109-{n}", now=NOW + timedelta(minutes=n)) for n in range(1, 6)]
    shown = [item["_cap"]["identifier"] for item in items(board, [an_alert(settings), *later])]
    assert shown == ["13109-5", "13109-4", "13109-E04"]


def test_a_message_whose_category_was_taken_away_is_still_told(board: Rss, settings: Settings) -> None:
    orphan = a_notice(settings, category="festival")
    assert items(board, [orphan])[0]["tags"] == ["festival"]


# Languages


def test_a_missing_language_is_shown_as_missing(board: Rss, settings: Settings) -> None:
    item = items(board, [a_notice(settings)], "feeds/all.en.json")[0]
    assert item["language"] == "ja"
    assert item["title"] == "図書館の休館のお知らせ"
    assert "This notice is available in Japanese only." in item["summary"]
    assert '<div lang="ja"><p>12月3日は、' in item["content_html"]


def test_japanese_names_in_another_language_are_marked(board: Rss, settings: Settings) -> None:
    content = items(board, [an_alert(settings)], "feeds/emergency.en.json")[0]["content_html"]
    assert 'The <span lang="ja">目黒川</span> may overflow' in content


# Equal bytes


def test_neither_order_nor_moment_nor_process_changes_the_bytes(settings: Settings, news: list[Message]) -> None:
    first = Rss.built(a_kit(settings)).compose(news, NOW)
    second = Rss.built(a_kit(settings)).compose(news[::-1], NOW + hours(5))
    assert [(page.path, page.body, page.etag) for page in first] == [(p.path, p.body, p.etag) for p in second]


def test_messages_of_the_same_second_keep_one_order(board: Rss, settings: Settings) -> None:
    same = [a_notice(settings, identifier=f"13109-{n}") for n in range(5)]
    assert pages(board, same) == pages(board, same[2:] + same[:2])


# Hostile words


HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            ["&", "<script>alert(1)</script>", '"', "'", "]]>", "<![CDATA[", "&amp;", "&#x0;", "<!--", "</div>", "\n"]
        ),
        st.sampled_from(["ﾊﾝｶｸｶﾅ", "שלום", "مرحبا", "👨‍👩‍👧", "𠮷野家", "🗾", "髙﨑", "・一つ", "■題", "＜頭＞"]),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
    ),
    min_size=1,
    max_size=8,
).map("".join)


class Tags(HTMLParser):
    """The elements of a piece of HTML and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


@examples(max_examples=30, deadline=None)
@given(title=HOSTILE, text=HOSTILE)
def test_hostile_words_stay_words(settings: Settings, title: str, text: str) -> None:
    board = Rss.built(a_kit(settings))
    notice = a_notice(settings, title=title, body=text)
    shown = pages(board, [notice])
    item = json.loads(shown["feeds/notice.json"].body)["items"][0]
    for path in ("feeds/notice.rss", "feeds/notice.atom"):
        root = etree.fromstring(shown[path].body)
        names = [element.text for element in root.iter() if etree.QName(element).localname == "title"]
        assert names[1:] == [item["title"]]
    content = Tags(item["content_html"])
    assert content.found <= {"div", "p", "br", "ul", "li", "strong", "span"}
    assert content.attributes <= {"lang"}


def test_a_description_in_rss_cannot_become_an_element(board: Rss, settings: Settings) -> None:
    notice = a_notice(settings, title="<b>1 < 2</b> & ]]>")
    entry = feedparser.parse(body(board, [notice], "feeds/all.rss"), sanitize_html=False).entries[0]
    assert entry.summary == "&lt;b&gt;1 &lt; 2&lt;/b&gt; &amp; ]]&gt;"


def test_a_broken_character_does_not_take_the_alerts_off_the_feed(board: Rss, settings: Settings) -> None:
    broken = a_notice(settings, title="壊れた\x0b題\ud800", body="本文\x00")
    shown = pages(board, [broken, an_alert(settings)])
    for ending in ("rss", "atom"):
        feed = feedparser.parse(shown[f"feeds/all.{ending}"].body)
        assert not feed.bozo
        assert {"壊れた 題\ufffd", "警戒レベル４　避難指示（目黒川）"} == {entry.title for entry in feed.entries}


# Drills


def test_every_feed_of_a_drill_carries_the_mark(settings: Settings) -> None:
    board = Rss.built(a_kit(settings, mode=Mode.DRILL))
    drill = watermarked(an_alert(settings, mode=Mode.DRILL), settings.words)
    for messages in ([drill], []):
        for page in board.compose(messages, NOW):
            assert "【訓練】".encode() in page.body
            assert b"http://127.0.0.1:8000/drill/" in page.body
            assert b"http://127.0.0.1:8000/feeds/" not in page.body
    assert json.loads(body(board, [drill], "feeds/all.en.json"))["title"].startswith("【訓練】")


def test_the_ids_of_a_drill_are_none_of_the_live_feeds(settings: Settings) -> None:
    live, drill = Rss.built(a_kit(settings)), Rss.built(a_kit(settings, mode=Mode.DRILL))
    live_ids = {feedparser.parse(page.body).feed.id for page in live.compose([], NOW) if page.path.endswith(".atom")}
    drill_ids = {feedparser.parse(page.body).feed.id for page in drill.compose([], NOW) if page.path.endswith(".atom")}
    assert len(live_ids) == len(drill_ids) == 49
    assert not live_ids & drill_ids


# Delivery


async def test_a_page_is_put_where_the_public_reads_it(settings: Settings) -> None:
    shelf: list[Page] = []
    board = Rss.built(a_kit(settings, publish=shelf.append))
    page = board.compose([], NOW)[0]
    receipt = await board.deliver(page)
    await board.close()
    assert shelf == [page]
    assert receipt.evidence == page.etag


@pytest.mark.parametrize(
    ("error", "failure"), [(PermissionError("x"), PermanentFailure), (OSError("x"), TemporaryFailure)]
)
async def test_a_shelf_that_fails_is_told_as_what_it_is(
    settings: Settings, error: OSError, failure: type[Exception]
) -> None:
    def refuse(page: Page) -> None:
        raise error

    board = Rss.built(a_kit(settings, publish=refuse))
    with pytest.raises(failure):
        await board.deliver(board.compose([], NOW)[0])


# The parts of a description


def test_lines_become_paragraphs_headings_and_lists() -> None:
    text = "始めの文。\n続き。\n\n■土曜日\n・朝市\n　雨天中止\n・教室\n＜避難場所＞第一小、第二小"
    assert [(block.kind, block.lines) for block in blocks(text)] == [
        (BlockKind.PARAGRAPH, ("始めの文。", "続き。")),
        (BlockKind.HEADING, ("土曜日",)),
        (BlockKind.LIST, ("朝市\n雨天中止", "教室")),
        (BlockKind.HEADING, ("避難場所",)),
        (BlockKind.PARAGRAPH, ("第一小、第二小",)),
    ]
    assert blocks("") == ()
    assert [block.lines for block in blocks("＜＞\n■")] == [("＜＞", "■")]


@examples(max_examples=50, deadline=None)
@given(HOSTILE)
def test_no_word_of_a_description_is_lost(text: str) -> None:
    said = "".join(line for block in blocks(text) for line in block.lines)
    marks = set("・■＜＞")
    kept = [char for char in said if not char.isspace() and char not in marks]
    assert kept == [char for char in text if not char.isspace() and char not in marks]


def test_the_longest_name_is_marked_first() -> None:
    assert list(runs("Go to 大崎一丁目 in 大崎.", ["大崎", "大崎一丁目"])) == [
        ("Go to ", False),
        ("大崎一丁目", True),
        (" in ", False),
        ("大崎", True),
        (".", False),
    ]
    assert list(runs("plain", [])) == [("plain", False)]
