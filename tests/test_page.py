"""The public page: what is in force and what to do, with nothing that a slow phone, a printer or a speaking machine
could stumble over."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import changes
from broadcaster.channel import Board, Page, PermanentFailure, TemporaryFailure
from broadcaster.clock import hours
from broadcaster.drill import watermarked
from broadcaster.message import LANGUAGES, Change, Message, Mode
from broadcaster.settings import Settings
from channels.page import PublicPage
from tests.makers import NOW, a_kit, a_notice, a_picture, a_sample, an_alert


@pytest.fixture
def board(settings: Settings) -> PublicPage:
    return PublicPage.built(a_kit(settings))


@pytest.fixture
def news(settings: Settings) -> list[Message]:
    return [
        a_sample(settings, "N02", now=NOW - hours(2)),
        a_sample(settings, "N08", now=NOW - hours(1)),
        an_alert(settings, "E04"),
    ]


def shown(board: PublicPage, messages: Sequence[Message], path: str = "emergency.html") -> str:
    return next(page.body.decode() for page in board.compose(messages, NOW) if page.path == path)


@dataclass
class Document(HTMLParser):
    """A page as a browser without scripts meets it: elements, attributes, and every text with its language."""

    VOID: ClassVar[frozenset[str]] = frozenset({"meta", "link", "img", "br"})

    source: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    texts: list[tuple[str, str, str]] = field(default_factory=list)  # element, language, text
    _open: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        assert len(attributes) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, attributes))
        language = attributes.get("lang", self._open[-1][1] if self._open else "")
        if alt := attributes.get("alt"):
            self.texts.append((tag, language, alt))
        if tag not in self.VOID:
            self._open.append((tag, language))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        if data.strip():
            tag, language = self._open[-1] if self._open else ("", "")
            self.texts.append((tag, language, data.strip()))

    def said(self) -> str:
        return " ".join(text for tag, _, text in self.texts if tag not in ("style", "title"))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def counted(self) -> Counter[str]:
        return Counter(tag for tag, _ in self.elements)


def in_order(text: str, *words: str) -> bool:
    at = 0
    for word in words:
        at = text.find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


# The plain case


def test_the_emergency_page_answers_in_the_order_of_the_questions(board: PublicPage, news: list[Message]) -> None:
    said = Document(shown(board, news)).said()
    assert in_order(
        said,
        "警戒レベル４",
        "避難指示（目黒川）",
        "どこ：西五反田一・二丁目、大崎一丁目",
        "してほしいこと",
        "地下にいる方は、直ちに地上へ移動してください。",
        "避難場所",
        "芳水小学校",
        "12月1日（火）午前9時",
        "12月1日（火）午後9時",
        "03-3777-2292",
    )
    assert "今週末のイベント情報" not in said


def test_the_front_page_tells_the_emergency_first_and_then_the_notices_by_date(
    board: PublicPage, news: list[Message]
) -> None:
    document = Document(shown(board, news, "index.html"))
    assert in_order(document.said(), "避難指示（目黒川）", "お知らせ", "熱中症警戒アラート", "今週末のイベント情報")
    links = [link["href"] for link in document.all("a")]
    assert "http://127.0.0.1:8000/emergency#13109-E04" in links
    assert "https://www.example.lg.jp/event/20261205" in links


def test_acts_are_numbered_and_shelters_are_listed(board: PublicPage, news: list[Message]) -> None:
    page = shown(board, news)
    assert page.count("<ol>") == 1
    assert page.split("<ol>")[1].split("</ol>")[0].count("<li>") == 3
    assert page.split('<ul class="places">')[1].split("</ul>")[0].count("<li>") == 3


@pytest.mark.parametrize("name", ["index.html", "emergency.html", "emergency.easy-ja.html", "emergency.en.html"])
def test_what_the_public_reads(
    board: PublicPage, news: list[Message], name: str, golden: Callable[[str, str], None]
) -> None:
    golden(f"page/{name}", shown(board, news, name))


def test_it_is_a_board_of_two_pages_in_seven_languages(board: PublicPage) -> None:
    assert isinstance(board, Board)
    assert board.missing() == []
    paths = [page.path for page in board.compose([], NOW)]
    assert len(paths) == len(set(paths)) == 14
    assert {"index.html", "emergency.html", "index.en.html", "emergency.zh-Hant.html"} <= set(paths)
    assert paths[0] == "emergency.html"


# What else may be in force


def test_nothing_in_force_is_said_in_full(board: PublicPage) -> None:
    assert "現在、緊急のお知らせはありません。" in shown(board, [])
    assert "No emergency messages now." in shown(board, [], "emergency.en.html")
    assert "いま出ているお知らせはありません。" in shown(board, [], "index.html")


def test_an_earthquake_has_no_level(board: PublicPage, settings: Settings) -> None:
    page = shown(board, [an_alert(settings, "E01")])
    assert 'class="level"' not in page
    assert 'class="alert g3"' in page


def test_the_gravest_stands_first(board: PublicPage, settings: Settings) -> None:
    page = shown(board, [an_alert(settings, "E03"), an_alert(settings, "E05"), an_alert(settings, "E04")])
    assert in_order(page, "緊急安全確保", "避難指示", "高齢者等避難")


def test_an_all_clear_is_grey_and_asks_for_nothing(board: PublicPage, settings: Settings) -> None:
    order = an_alert(settings)
    over = changes.changed(order, Change.ALL_CLEAR, words=settings.words, now=NOW + hours(2)).sent(NOW + hours(2))
    page = shown(board, [over])
    assert 'class="alert ended"' in page
    assert in_order(page, "【解除】警戒レベル４", "この情報は終わりました。", "解除します。", "12月1日（火）午前11時")
    assert "してほしいこと" not in page
    assert "芳水小学校" not in page


def test_a_cancel_and_a_correction_show_their_word(board: PublicPage, settings: Settings) -> None:
    order = an_alert(settings)
    for change, words in ((Change.CANCEL, "【取消】"), (Change.CORRECTION, "【訂正】"), (Change.UPDATE, "【続報】")):
        later = NOW + hours(1)
        message = changes.changed(order, change, words=settings.words, now=later, line="水位のことです。").sent(later)
        assert words in shown(board, [message])
        assert "水位のことです。" in shown(board, [message])
        assert "この情報は終わりました。" not in shown(board, [message])


def test_a_notice_without_a_summary_is_told_whole(board: PublicPage, settings: Settings) -> None:
    notice = a_notice(settings, body="本文のすべて。")
    notice = replace(notice, infos=(replace(notice.info, summary=""),))
    page = shown(board, [notice], "index.html")
    assert "<p>本文のすべて。</p>" in page
    assert "<details>" not in page


def test_a_picture_waits_until_it_is_looked_at(board: PublicPage, settings: Settings) -> None:
    picture = Document(shown(board, [a_notice(settings, images=(a_picture(),))], "index.html")).all("img")[0]
    assert picture["src"] == f"http://127.0.0.1:8000/media/{'ab' * 32}.jpg"
    assert picture["alt"] == "朝市の店先に並ぶ大根"
    assert (picture["width"], picture["height"], picture["loading"]) == ("1600", "900", "lazy")


# Languages


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_japanese_word_on_a_foreign_page_is_marked_as_japanese(
    board: PublicPage, settings: Settings, news: list[Message], language: str
) -> None:
    middle = "" if language == "ja" else f".{language}"
    expected = "ja" if language == "easy-ja" else language
    for page in ("index", "emergency"):
        document = Document(shown(board, [*news, an_alert(settings, "E03")], f"{page}{middle}.html"))
        assert document.all("html")[0]["lang"] == expected
        for tag, said_in, text in document.texts:
            if re.search("[ぁ-んァ-ヶ]", text):
                assert said_in == "ja", f"<{tag} lang={said_in}>{text}"
            if re.search("[가-힣]", text):
                assert said_in == "ko", f"<{tag} lang={said_in}>{text}"
            if re.search("[一-龠]", text):
                assert said_in in ("ja", "zh-Hans", "zh-Hant"), f"<{tag} lang={said_in}>{text}"


def test_the_language_list_names_each_in_its_own_script(board: PublicPage) -> None:
    document = Document(shown(board, [], "emergency.en.html"))
    for language, name in (("ja", "日本語"), ("ko", "한국어"), ("zh-Hans", "简体中文"), ("tl", "Tagalog")):
        assert ("a", language, name) in document.texts
    assert ("b", "en", "English") in document.texts
    assert "http://127.0.0.1:8000/emergency?lang=zh-Hant" in [link["href"] for link in document.all("a")]
    assert "http://127.0.0.1:8000/emergency" in [link["href"] for link in document.all("a")]


def test_a_missing_language_is_shown_as_missing(board: PublicPage, settings: Settings) -> None:
    notice = a_notice(settings)
    alert = replace(an_alert(settings), infos=an_alert(settings).infos[:1])
    assert "日本語だけ" not in shown(board, [notice, alert], "index.html")
    for path in ("index.ko.html", "emergency.ko.html"):
        assert "이 안내는 일본어로만 제공됩니다." in shown(board, [notice, alert], path)
    assert '<div class="acts" lang="ja">' in shown(board, [alert], "emergency.ko.html")


def test_shelters_are_listed_in_every_language(board: PublicPage, settings: Settings) -> None:
    for language in LANGUAGES[1:]:
        page = shown(board, [an_alert(settings)], f"emergency.{language}.html")
        assert page.split('<ul class="places" lang="ja">')[1].count("<li>") == 3


# A page that everybody can use


@pytest.mark.parametrize("messages", ["none", "news"])
def test_the_pages_are_whole_and_need_nothing_else(board: PublicPage, news: list[Message], messages: str) -> None:
    for page in board.compose(news if messages == "news" else [], NOW):
        document = Document(page.body.decode())
        counted = document.counted()
        assert counted["h1"] == counted["main"] == counted["title"] == counted["style"] == 1
        assert not counted.keys() & {"script", "iframe", "object", "form", "input", "button", "video", "audio", "svg"}
        assert page.body.startswith(b"<!doctype html>")
        ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for tag, attributes in document.elements:
            assert "style" not in attributes
            assert not any(name.startswith("on") for name in attributes), tag
        assert {link["rel"] for link in document.all("link")} == {"canonical", "alternate"}
        assert document.all("a")[0] == {"class": "skip", "href": "#main"}


def test_headings_go_down_one_step_at_a_time(board: PublicPage, news: list[Message]) -> None:
    for page in board.compose(news, NOW):
        levels = [int(tag[1]) for tag, _ in Document(page.body.decode()).elements if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_pages_stay_light_on_a_busy_day(board: PublicPage, settings: Settings) -> None:
    alerts = [an_alert(settings, id) for id in ("E03", "E04", "E05")]
    notices = [a_sample(settings, f"N{number:02}") for number in range(1, 17)]
    again = [replace(notice, identifier=f"{notice.identifier}-2") for notice in notices[:14]]
    for page in board.compose([*alerts, *notices, *again], NOW):
        assert len(gzip.compress(page.body)) <= 20_000, page.path
    assert len(board.style.encode()) <= 8_000


# Colours, computed from the style that is sent


def colour(text: str) -> tuple[float, float, float]:
    digits = text.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    red, green, blue = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    return red, green, blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""

    def luminance(text: str) -> float:
        weights = (0.2126, 0.7152, 0.0722)
        linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour(text))
        return sum(weight * value for weight, value in zip(weights, linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def declared(style: str, selector: str) -> dict[str, str]:
    block = re.search(rf"(?:^|[}}\s]){re.escape(selector)}\{{([^}}]*)\}}", style)
    assert block, selector
    return dict(line.split(":", 1) for line in block[1].split(";"))


def palettes(style: str) -> Iterator[dict[str, str]]:
    """By day and by night; the print's own is black on white."""
    day = declared(style, ":root")
    night = style.split("(prefers-color-scheme:dark){", 1)[1]
    yield day
    yield {**day, **declared(night, ":root")}


def test_text_can_be_read_by_day_and_by_night(board: PublicPage) -> None:
    for palette in palettes(board.style):
        for ink in ("--ink", "--quiet", "--link"):
            assert contrast(palette[ink], palette["--ground"]) >= 4.5
        assert contrast(palette["--ink"], palette["--card"]) >= 4.5
        assert contrast(palette["--line"], palette["--ground"]) >= 3
        assert contrast("#ffffff", palette["--head"]) >= 4.5


@pytest.mark.parametrize(
    ("ground", "official"),
    [
        ("g5", "#0c000c"),
        ("g4", "#aa00aa"),
        ("g3", "#ff2800"),
        ("g2", "#f2e700"),
        ("g1", "#ffffff"),
        ("ended", "#f2f2f2"),
    ],
)
def test_levels_have_their_official_colours_and_an_edge(board: PublicPage, ground: str, official: str) -> None:
    sign = declared(board.style, f".{ground} .sign")
    assert colour(sign["background"]) == colour(official)
    # All text on a sign is bold and at least 24 px: large text, 3:1 (WCAG 1.4.3). Red with white has 3.8.
    assert contrast(sign["color"], sign["background"]) >= 3
    edge = sign.get("border-color") or sign["border"].split()[-1]
    assert contrast(edge, sign["background"]) >= 3


def test_text_on_signs_is_large(board: PublicPage) -> None:
    for selector in (".level", ".sign h2", ".drill .level", ".drill .sign h2"):
        assert int(declared(board.style, selector)["font-size"].removesuffix("px")) >= 24
    assert declared(board.style, ".sign p,.sign h2")["font-weight"] == "700"


def test_marks_can_be_read(board: PublicPage) -> None:
    band = declared(board.style, ".band strong")
    assert contrast(band["color"], band["background"]) >= 7
    strip = declared(board.style, ".rehearsal")
    assert contrast(strip["color"], strip["background"]) >= 7
    assert contrast("#1a1a1a", "#ffd43d") >= 3  # the two rings of the focus


# The policy


def test_one_style_is_allowed_and_nothing_else(board: PublicPage, news: list[Message]) -> None:
    policies = set()
    for page in board.compose(news, NOW):
        style = page.body.split(b"<style>")[1].split(b"</style>")[0]
        digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
        policy = dict(page.headers)["Content-Security-Policy"]
        assert f"style-src 'sha256-{digest}'" in policy
        policies.add(policy)
    assert len(policies) == 1
    assert "default-src 'none'" in policies.pop()


# Equal bytes


def test_neither_order_nor_moment_nor_process_changes_the_bytes(settings: Settings, news: list[Message]) -> None:
    first = PublicPage.built(a_kit(settings)).compose(news, NOW)
    second = PublicPage.built(a_kit(settings)).compose(news[::-1], NOW + hours(5))
    assert first == second
    assert [page.etag for page in first] == [page.etag for page in second]


# Hostile words

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(
            ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onload='", "</style>", "<!--", "]]>"]
        ),
        st.sampled_from(["&lt;", "{{ 7*7 }}", "{% raw %}", "javascript:", "ﾊﾝｶｸ", "שלום", "👨‍👩‍👧", "𠮷", "【訓練】"]),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12),
    ),
    min_size=1,
    max_size=6,
).map(lambda parts: "x" + "".join(parts))


@examples(max_examples=30, deadline=None)
@given(words=HOSTILE)
def test_hostile_words_add_no_element(settings: Settings, words: str) -> None:
    board = PublicPage.built(a_kit(settings))
    picture = (a_picture(alt=words),)
    notice = a_notice(settings, title=words, body=words, images=picture)
    alert = replace(
        an_alert(settings),
        infos=tuple(replace(info, headline=words, description=words) for info in an_alert(settings).infos),
        slots={"shelters": words},
    )
    calm_notice = a_notice(settings, title="x", body="x", images=picture)
    calm = replace(
        alert,
        infos=tuple(replace(info, headline="x", description="x") for info in alert.infos),
        slots={"shelters": "x"},
    )
    for path in ("index.html", "emergency.html"):
        hostile = Document(shown(board, [notice, alert], path))
        plain = Document(shown(board, [calm_notice, calm], path))
        extra = hostile.counted() - plain.counted()
        assert extra.keys() <= {"li", "ul", "p", "br"}  # names of shelters, and no more
        names = {name for _, attributes in hostile.elements for name in attributes}
        assert names == {name for _, attributes in plain.elements for name in attributes}


# Drill and rehearsal


def test_a_drill_looks_like_a_drill_from_top_to_bottom(settings: Settings, golden: Callable[[str, str], None]) -> None:
    board = PublicPage.built(a_kit(settings, mode=Mode.DRILL))
    drill = watermarked(an_alert(settings, mode=Mode.DRILL), settings.words)
    for messages in ([drill], []):
        for page in board.compose(messages, NOW):
            text = page.body.decode()
            assert '<body class="drill">' in text
            assert "<title>【訓練】" in text
            assert text.count('<p class="band"><strong><span lang="ja">訓練</span>') == 2
            assert 'href="http://127.0.0.1:8000/drill/' in text
            assert 'href="http://127.0.0.1:8000/emergency' not in text
    page = shown(board, [drill])
    assert '<p class="level">【訓練】警戒レベル４</p>' in page
    assert "<h2>【訓練】避難指示（目黒川）</h2>" in page
    golden("page/drill/emergency.html", page)


def test_a_live_page_never_speaks_of_a_drill(board: PublicPage, news: list[Message]) -> None:
    for page in board.compose(news, NOW):
        body = page.body.decode().split("</style>")[1]
        assert "訓練" not in body
        assert "drill" not in body


def test_a_rehearsal_says_so(settings: Settings) -> None:
    board = PublicPage.built(a_kit(settings, is_rehearsal=True))
    for page in board.compose([], NOW):
        assert b'<p class="rehearsal">' in page.body
        assert b'content="noindex"' in page.body
    assert "練習環境" in shown(board, [])
    assert "練習環境" not in shown(PublicPage.built(a_kit(settings)), [])


# Delivery


async def test_a_page_is_put_where_the_public_reads_it(settings: Settings) -> None:
    shelf: list[Page] = []
    board = PublicPage.built(a_kit(settings, publish=shelf.append))
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

    board = PublicPage.built(a_kit(settings, publish=refuse))
    with pytest.raises(failure):
        await board.deliver(board.compose([], NOW)[0])
