"""The emergency line: what is heard at 3 a.m., by whom, in how many seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import boards, changes
from broadcaster.channel import Board, Page, PermanentFailure, TemporaryFailure
from broadcaster.clock import hours, minutes
from broadcaster.drill import carries_mark, watermarked
from broadcaster.message import LANGUAGES, WHOLE_WARD, Area, Change, Info, Message, Mode, Severity, Urgency
from broadcaster.settings import Settings
from broadcaster.speech import seconds
from channels.dial import SHORTEST, Dial, Script
from tests.makers import GOLDEN, NOW, a_kit, a_notice, an_alert

SSML = "{http://www.w3.org/2001/10/synthesis}"
LANG = "{http://www.w3.org/XML/1998/namespace}lang"
LIVE_PRESETS = [f"E{number:02}" for number in range(1, 12)]


def a_line(settings: Settings, *, mode: Mode = Mode.LIVE, **options: Any) -> Dial:
    return Dial.built(a_kit(settings, mode=mode, options={**settings.channel_options["dial"], **options}))


@pytest.fixture
def line(settings: Settings) -> Dial:
    return a_line(settings)


@pytest.fixture
def drill_line(settings: Settings) -> Dial:
    return a_line(settings, mode=Mode.DRILL)


def a_drill(settings: Settings, id: str = "E04") -> Message:
    return watermarked(an_alert(settings, id, mode=Mode.DRILL), settings.words)


def changed(message: Message, change: Change, settings: Settings, line: str = "") -> Message:
    later = NOW + hours(2)
    new = changes.changed(message, change, words=settings.words, now=later, line=line).sent(later)
    return replace(new, identifier=f"{message.identifier}-{change}")


def heard(line: Dial, messages: Sequence[Message], path: str = "dial/current.txt") -> str:
    return next(page.body.decode() for page in line.compose(messages, NOW) if page.path == path)


def length(line: Dial, messages: Sequence[Message], language: str = "ja") -> float:
    """Seconds, counted from the published text: a blank line is a pause."""
    middle = "" if language == "ja" else f".{language}"
    text = heard(line, messages, f"dial/current{middle}.txt")
    return seconds_of(text, language)


def seconds_of(text: str, language: str) -> float:
    return sum(seconds(sentence, language) for sentence in text.splitlines()) + 0.6 * text.count("\n\n")


def document(page: Page) -> ElementTree.Element:
    return ElementTree.fromstring(page.body)


# The plain case


def test_the_line_says_who_when_what_where_and_what_to_do(line: Dial, settings: Settings) -> None:
    assert heard(line, [an_alert(settings)]).startswith(
        "品川区の、緊急のお知らせです。\n"
        "12月1日、午前9時現在です。\n"
        "\n"
        "緊急放送、緊急放送、警戒レベル４、避難開始。\n"
        "緊急放送、緊急放送、警戒レベル４、避難開始。\n"
        "西五反田一丁目、二丁目、大崎一丁目に、洪水に関する警戒レベル４、避難指示を発令しました。\n"
        "危険な場所にいる方は、速やかに全員避難してください。\n"
        "\n"
        "くりかえします。\n"
    )


def test_nothing_in_force_is_said_in_full(line: Dial) -> None:
    assert heard(line, []) == "品川区です。\nただいま、緊急のお知らせはありません。\n"
    assert "There are no emergency messages now." in heard(line, [], "dial/current.en.txt")
    assert "지금은 긴급 안내가 없습니다." in heard(line, [], "dial/current.ko.txt")


def test_it_is_a_board_of_a_text_and_a_score_in_seven_languages(line: Dial) -> None:
    assert isinstance(line, Board)
    assert line.shows_all
    pages = line.compose([], NOW)
    kinds = {page.path: page.content_type for page in pages}
    assert len(kinds) == len(pages) == 14
    assert kinds["dial/current.txt"] == "text/plain; charset=utf-8"
    assert kinds["dial/current.zh-Hant.ssml"] == "application/ssml+xml"


def test_notices_are_not_spoken(line: Dial, settings: Settings) -> None:
    assert heard(line, [a_notice(settings)]) == heard(line, [])


@pytest.mark.parametrize("id", LIVE_PRESETS)
@pytest.mark.parametrize("language", ["ja", "en"])
def test_what_is_heard(
    line: Dial, settings: Settings, id: str, language: str, golden: Callable[[str, str], None]
) -> None:
    ending = "txt" if language == "ja" else f"{language}.txt"
    golden(f"dial/{id}.{ending}", heard(line, [an_alert(settings, id)], f"dial/current.{ending}"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_heard_in_every_language(
    line: Dial, settings: Settings, language: str, golden: Callable[[str, str], None]
) -> None:
    middle = "" if language == "ja" else f".{language}"
    golden(f"dial/none{middle}.txt", heard(line, [], f"dial/current{middle}.txt"))
    over = changed(an_alert(settings), Change.ALL_CLEAR, settings)
    news = [over, an_alert(settings, "E03", now=NOW - hours(10)), an_alert(settings, "E05")]
    golden(f"dial/several{middle}.txt", heard(line, news, f"dial/current{middle}.txt"))
    golden(f"dial/E04{middle}.ssml", heard(line, [an_alert(settings)], f"dial/current{middle}.ssml"))


@pytest.mark.parametrize("id", ["E04", "E12"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_heard_in_a_drill(
    drill_line: Dial, settings: Settings, id: str, language: str, golden: Callable[[str, str], None]
) -> None:
    middle = "" if language == "ja" else f".{language}"
    golden(f"dial/drill-{id}{middle}.txt", heard(drill_line, [a_drill(settings, id)], f"dial/current{middle}.txt"))


@pytest.mark.parametrize("change", Change)
@pytest.mark.parametrize("language", ["ja", "easy-ja", "en"])
def test_what_is_heard_of_a_change(
    line: Dial, settings: Settings, change: Change, language: str, golden: Callable[[str, str], None]
) -> None:
    ending = "txt" if language == "ja" else f"{language}.txt"
    told = changed(an_alert(settings), change, settings, "水位は、下がり始めています。")
    golden(f"dial/{change}.{ending}", heard(line, [told], f"dial/current.{ending}"))


# Several at once


def test_the_gravest_is_heard_first(line: Dial, settings: Settings) -> None:
    said = heard(line, [an_alert(settings, "E03"), an_alert(settings, "E05"), an_alert(settings, "E02")])
    assert said.index("緊急安全確保") < said.index("津波警報") < said.index("高齢者等避難")
    assert "お知らせは、3件あります。" in said


def test_each_alert_is_heard_with_its_own_time(line: Dial, settings: Settings) -> None:
    yesterday = an_alert(settings, "E05", now=NOW - hours(10))
    earlier = an_alert(settings, "E02", now=NOW - minutes(55))
    said = heard(line, [an_alert(settings, "E09"), yesterday, earlier])
    assert "12月1日、午前9時現在です。" in said
    assert "11月30日、午後11時のお知らせです。\n緊急放送、緊急放送、警戒レベル５" in said
    assert "次は、午前8時5分のお知らせです。\n津波警報。" in said
    assert "次のお知らせです。\n大井、西大井地域で停電しています。" in said


def test_what_there_is_no_time_for_is_counted(line: Dial, settings: Settings) -> None:
    said = heard(line, [an_alert(settings, id) for id in LIVE_PRESETS])
    assert "お知らせは、11件あります。" in said
    assert "緊急放送、緊急放送、警戒レベル５、緊急安全確保。" in said
    assert "直ちに、命を守るための最善の行動をとってください。" in said
    told = 1 + said.count("次のお知らせです。")
    assert f"ほかに、{11 - told}件のお知らせがあります。\n詳しくは区ホームページをご覧ください。" in said
    assert "くりかえします。" not in said
    english = heard(line, [an_alert(settings, id) for id in LIVE_PRESETS], "dial/current.en.txt")
    assert re.search(r"There are \d more messages\.\nSee the city website for details\.", english)


def test_an_order_is_never_heard_without_its_place(line: Dial, settings: Settings) -> None:
    """Shortened to fit, 「警戒レベル４、避難指示。」 alone would send everybody out."""
    said = heard(line, [an_alert(settings, id) for id in LIVE_PRESETS])
    assert "警戒レベル４、避難指示、目黒川。\n地域は、西五反田一丁目、二丁目、大崎一丁目です。" in said
    assert "危険な場所にいる方は" not in said


def test_of_a_long_text_the_level_the_place_and_the_act_stay(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    words = "".join(f"川の様子を、{number}回、見に行きました。" for number in range(1, 40))
    spoken = order.info.spoken.replace("危険な場所", f"{words}危険な場所")
    said = heard(line, [replace(order, infos=(replace(order.info, spoken=spoken),))])
    assert "警戒レベル４" in said
    assert "西五反田一丁目、二丁目、大崎一丁目に" in said
    assert "速やかに全員避難してください。" in said
    assert "39回" not in said
    assert "詳しくは区ホームページをご覧ください。" in said


def test_of_one_endless_sentence_the_headline_stays(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    endless = replace(order, infos=(replace(order.info, spoken="川が、" * 300 + "あふれます。"),))
    said = heard(line, [endless])
    assert "警戒レベル４、避難指示、目黒川。\n地域は、西五反田一丁目、二丁目、大崎一丁目です。" in said
    assert length(line, [endless]) <= 90


def test_a_long_list_of_towns_is_cut_between_two_names(line: Dial, settings: Settings) -> None:
    towns = "、".join(f"{town.name}" for town in settings.ward.towns[:40])
    order = an_alert(settings)
    endless = replace(
        order,
        areas=(Area(description=towns, geocodes=("D01",)),),
        infos=(replace(order.info, spoken="川が、" * 300 + "あふれます。"),),
    )
    place = re.search("地域は、(.*)などです。", heard(line, [endless]))
    assert place
    assert set(place[1].split("、")) <= {town.name for town in settings.ward.towns}


# Changes, and what is over


def test_the_end_of_an_order_names_what_has_ended_and_where(line: Dial, settings: Settings) -> None:
    said = heard(line, [changed(an_alert(settings), Change.ALL_CLEAR, settings)])
    assert "解除のお知らせです。\n終わったのは、避難指示、目黒川の氾濫のお知らせです。\n地域は、西五反田" in said
    assert "先ほどのお知らせの危険はなくなりました。\n解除します。" in said
    assert "避難してください" not in said
    assert "緊急放送" not in said


def test_an_update_and_a_correction_say_so_first(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    assert "続報です。\n水位のことです。\n緊急放送" in heard(
        line, [changed(order, Change.UPDATE, settings, "水位のことです。")]
    )
    correction = changed(order, Change.CORRECTION, settings)
    assert "訂正、先ほどのお知らせに誤りがありました。\n緊急放送" in heard(line, [correction])
    english = heard(line, [correction], "dial/current.en.txt")
    assert "contained an error.\nAlert Level 4, Evacuation Order.\n" in english


# Languages


def test_the_level_is_heard_in_every_language(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    expected = {
        "easy-ja": "レベル４",
        "en": "Alert Level 4",
        "zh-Hans": "警戒等级4",
        "ko": "경보 레벨 4",
        "tl": "Antas 4",
    }
    for language, level in expected.items():
        assert heard(line, [order], f"dial/current.{language}.txt").count(level) == 2, "once, and once repeated"


def test_a_missing_language_is_said_and_the_japanese_is_spoken_by_a_japanese_voice(
    line: Dial, settings: Settings
) -> None:
    order = an_alert(settings)
    japanese = replace(order, infos=order.infos[:1])
    said = heard(line, [japanese], "dial/current.ko.txt")
    assert "이 안내는 일본어로만 제공됩니다.\n緊急放送、緊急放送、警戒レベル４、避難開始。" in said
    assert '<s xml:lang="ja">危険な場所にいる方は、' in heard(line, [japanese], "dial/current.ko.ssml")
    assert "日本語" not in heard(line, [japanese])


def test_an_alert_that_is_not_in_japanese_is_spoken_in_its_own_language(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    english = order.in_language("en")
    assert english
    only = replace(order, infos=(english,))
    assert "このお知らせは、ほかの言語でお伝えします。\nAlert Level 4, Evacuation Order." in heard(line, [only])
    assert '<s xml:lang="en">Alert Level 4' in heard(line, [only], "dial/current.ssml")


def test_names_are_read_by_a_japanese_voice_in_every_language(line: Dial, settings: Settings) -> None:
    said = heard(line, [an_alert(settings)], "dial/current.en.ssml")
    assert 'The <lang xml:lang="ja">目黒川</lang> may overflow.' in said
    assert '<lang xml:lang="ja">西五反田一丁目、二丁目、大崎一丁目</lang>' in said, "as a Japanese voice is given it"
    shelters = heard(line, [an_alert(settings, "E06")], "dial/current.en.ssml")
    assert "ダイサンヒノショーガッコー" in shelters
    assert "第三日野小学校" not in shelters


# A drill


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("ids", [(), ("E04",), ("E12",), ("E03", "E04", "E05", "E12")])
def test_a_drill_begins_and_ends_as_one(
    drill_line: Dial, settings: Settings, ids: tuple[str, ...], language: str
) -> None:
    middle = "" if language == "ja" else f".{language}"
    messages = [a_drill(settings, id) for id in ids]
    said = heard(drill_line, messages, f"dial/current{middle}.txt")
    assert said.startswith("訓練、訓練。\n")
    assert said.endswith("\n訓練、訓練。\n")
    this_is_a_drill = drill_line.kit.read_aloud(settings.words.phrase("drill", language), language)
    told = [part for part in said.split("\n\n") if "緊急放送" in part or "Alert Level" in part]
    for part in (part for part in told[1:] if part != told[0]):
        assert part.startswith(this_is_a_drill)
    assert all(carries_mark(page.body.decode()) for page in boards.pages_of(drill_line, messages, NOW))


def test_the_mark_of_a_message_is_not_said_again_and_again(drill_line: Dial, settings: Settings) -> None:
    said = heard(drill_line, [a_drill(settings)])
    assert said.count("訓練、訓練。") == 2
    assert said.count("これは訓練です。") == 3, "first, before the repetition, and last"
    assert "緊急放送、緊急放送、警戒レベル４、避難開始。\n緊急放送" in said


def test_a_mark_that_is_not_recognised_stays(drill_line: Dial, settings: Settings) -> None:
    odd = an_alert(settings, mode=Mode.DRILL)
    odd = replace(odd, infos=(replace(odd.info, spoken="これは訓練である。避難してください。"),))
    assert "これは訓練である。\n避難してください。" in heard(drill_line, [odd])


def test_no_live_line_says_drill(line: Dial, settings: Settings) -> None:
    for page in line.compose([an_alert(settings, id) for id in LIVE_PRESETS], NOW):
        assert "訓練" not in page.body.decode(), page.path


# What an ear can take


def test_every_kept_text_is_short_and_made_for_the_ear() -> None:
    kept = sorted((GOLDEN / "dial").glob("*.txt"))
    assert len(kept) > 40
    for file in kept:
        text = file.read_text(encoding="utf-8")
        parts = file.name.split(".")
        language = parts[1] if parts[1] in LANGUAGES else "ja"
        assert seconds_of(text, language) <= 90, file.name
        assert not re.search(r"https?:|www|@|[（）()「」【】＜＞《》｜※～／]", text), file.name
        assert not re.search(r"\d{2,}[-－]\d", text), file.name
        assert not re.search(r"[、，]{2}|[、，。]。|^[、。]|、$", text, re.M), file.name


def test_sentences_for_the_ear_are_short(line: Dial, settings: Settings) -> None:
    for id in LIVE_PRESETS:
        for sentence in heard(line, [an_alert(settings, id)]).splitlines():
            assert seconds(sentence, "ja") <= 13, sentence


def test_a_telephone_number_is_heard_twice_digit_by_digit(line: Dial, settings: Settings) -> None:
    order = an_alert(settings)
    called = replace(order, infos=(replace(order.info, spoken="防災課、03-5742-6695へ電話してください。"),))
    said = heard(line, [called])
    assert said.count("ゼロ、サンの、ゴー、ナナ、ヨン、ニーの、ロク、ロク、キュー、ゴー") == 4, "twice, and repeated"


# The score for a voice


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_and_score_say_the_same(line: Dial, settings: Settings, language: str) -> None:
    messages = [an_alert(settings, "E05"), an_alert(settings, "E07")]
    pages = {page.path: page for page in line.compose(messages, NOW)}
    middle = "" if language == "ja" else f".{language}"
    root = document(pages[f"dial/current{middle}.ssml"])
    assert root.tag == f"{SSML}speak"
    assert root.attrib["version"] == "1.1"
    assert root.attrib[LANG] == ("ja" if language == "easy-ja" else language)
    spoken = ["".join(sentence.itertext()) for sentence in root.iter(f"{SSML}s")]
    written = pages[f"dial/current{middle}.txt"].body.decode().split("\n")
    if language in ("ja", "easy-ja"):
        assert spoken == [sentence for sentence in written if sentence]
    else:  # a Japanese name is written for a Japanese voice there
        assert len(spoken) == len([sentence for sentence in written if sentence])
    prosody = root.find(f"{SSML}prosody")
    assert prosody is not None
    assert [child.tag for child in prosody][:3] == [f"{SSML}p", f"{SSML}break", f"{SSML}p"]


HOSTILE = (
    """</s><audio src="https://www.example.com/x.wav"/>&amp;<!-- ' " ]]> & < > \x00\x1b\ufffe\u202e{{ 7*7 }}{% if %}"""
)


@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_words_are_only_words(line: Dial, settings: Settings, language: str) -> None:
    order = an_alert(settings)
    infos = tuple(replace(info, spoken=HOSTILE, headline=HOSTILE) for info in order.infos)
    hostile = replace(order, infos=infos, event=HOSTILE, slots={"area": HOSTILE, "river": "<&>"})
    for message in (hostile, replace(hostile, change=Change.CANCEL)):
        for page in line.compose([message], NOW):
            if page.path.endswith(".ssml"):
                tags = {element.tag.removeprefix(SSML) for element in document(page).iter()}
                assert tags <= {"speak", "prosody", "p", "s", "break", "lang"}
            assert "example.com" not in page.body.decode()
            assert "49" not in page.body.decode()


# Always


TEXTS = st.text(st.sampled_from("あア亜ー0９aA가请請。、.!?（）()「」【】・～<>&\"'\n　 -@:/"), max_size=400)


@st.composite
def alerts(draw: st.DrawFn) -> list[Message]:
    messages = []
    for number in range(draw(st.integers(0, 6))):
        infos = [
            Info(language=language, headline=draw(TEXTS)[:100], description="", spoken=draw(TEXTS))
            for language in draw(st.sampled_from([LANGUAGES, ("ja",), ("en",), ("ja", "zh-Hans")]))
        ]
        messages.append(
            Message(
                identifier=f"13109-{number}",
                mode=Mode.LIVE,
                category="emergency",
                infos=tuple(infos),
                areas=(Area(description=draw(TEXTS), geocodes=(draw(st.sampled_from([WHOLE_WARD, "D01"])),)),),
                channels=("dial",),
                effective_at=NOW - timedelta(minutes=draw(st.integers(0, 3_000))),
                expires_at=NOW + hours(1),
                urgency=Urgency.IMMEDIATE,
                severity=draw(st.sampled_from(Severity)),
                level=draw(st.sampled_from([None, 3, 4, 5])),
                change=draw(st.sampled_from([None, *Change])),
                event=draw(TEXTS)[:60],
            )
        )
    return messages


@given(messages=alerts(), turn=st.randoms(use_true_random=False))
@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_mix_of_alerts_fits_and_its_order_does_not_matter(
    settings: Settings, messages: list[Message], turn: Any
) -> None:
    line = a_line(settings)
    pages = line.compose(messages, NOW)
    turned = list(messages)
    turn.shuffle(turned)
    assert [page.body for page in line.compose(turned, NOW + hours(3))] == [page.body for page in pages]
    for language in LANGUAGES:
        script = Script(kit=line.kit, language=language, alerts=line.gravest_first(messages))
        assert script.length(script.paragraphs) <= 90
    for page in pages:
        if page.path.endswith(".ssml"):
            document(page)
        else:
            assert not re.search(r"https?://|www\.", page.body.decode())


@pytest.mark.parametrize("mode", Mode)
def test_the_barest_form_fits_into_the_shortest_time(settings: Settings, mode: Mode) -> None:
    """The slowest that can be: Chinese, a level, a place, an update of yesterday, no pause to cut at."""
    line = a_line(settings, mode=mode, seconds_max=SHORTEST)
    order = an_alert(settings, mode=mode, now=NOW - hours(20))
    slow = replace(
        order,
        infos=tuple(replace(info, headline="险" * 100, spoken="险" * 1_000) for info in order.infos),
        areas=(Area(description="品" * 100, geocodes=("D01",)),),
        change=Change.UPDATE,
    )
    cancelled = replace(slow, identifier="13109-cancelled", change=Change.CANCEL, event="险" * 100)
    recent = replace(order, identifier="13109-recent", severity=Severity.MINOR).sent(NOW)
    for messages in ([slow, recent], [cancelled]):
        for language in LANGUAGES:
            script = Script(kit=line.kit, language=language, alerts=line.gravest_first(messages))
            assert script.length(script.paragraphs) <= SHORTEST, language


def test_many_alerts_are_composed_at_once(line: Dial, settings: Settings) -> None:
    many = [
        replace(an_alert(settings, LIVE_PRESETS[number % 11]), identifier=f"13109-{number:03}") for number in range(200)
    ]
    said = heard(line, many)
    told = 1 + said.count("次のお知らせです。")
    assert f"ほかに、{200 - told}件のお知らせがあります。" in said


# Configuration and the place where it lies


def test_the_shipped_configuration_is_complete(line: Dial) -> None:
    assert line.missing() == []


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"seconds_max": 20}, "seconds_max"),
        ({"seconds_max": "90"}, "seconds_max"),
        ({"seconds_max": True}, "seconds_max"),
        ({"characters_per_minute": 0}, "characters_per_minute"),
        ({"said_once": "品川区です。"}, "said_once"),
        ({"said_once": [1]}, "said_once"),
    ],
)
def test_a_wrong_option_is_named(settings: Settings, options: dict[str, Any], word: str) -> None:
    sentences = a_line(settings, **options).missing()
    assert len(sentences) == 1
    assert word in sentences[0]


def test_a_slower_voice_says_less(settings: Settings) -> None:
    alerts = [an_alert(settings, id) for id in ("E02", "E04", "E05")]
    assert len(heard(a_line(settings, characters_per_minute=160), alerts)) < len(heard(a_line(settings), alerts))


async def test_a_page_is_put_where_the_exchange_fetches_it(settings: Settings) -> None:
    put: list[Page] = []
    line = Dial.built(a_kit(settings, publish=put.append))
    page = line.compose([], NOW)[0]
    receipt = await line.deliver(page)
    assert put == [page]
    assert receipt.evidence == page.etag
    await line.close()


@pytest.mark.parametrize(
    ("error", "failure"), [(PermissionError(), PermanentFailure), (OSError(28, "full"), TemporaryFailure)]
)
async def test_a_place_that_cannot_be_written_says_so(
    settings: Settings, error: OSError, failure: type[Exception]
) -> None:
    def refuse(page: Page) -> None:
        raise error

    line = Dial.built(a_kit(settings, publish=refuse))
    with pytest.raises(failure, match="電話の文の置き場"):
        await line.deliver(line.compose([], NOW)[0])
