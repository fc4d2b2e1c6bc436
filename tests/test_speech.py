"""Text for an ear: what is written otherwise, what is never spoken, how long it takes."""

from __future__ import annotations

import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import speech
from broadcaster.message import LANGUAGES
from broadcaster.problems import Refused
from broadcaster.settings import Settings
from broadcaster.speech import Speech, seconds
from tests.makers import sample_notices

FOREIGN = [language for language in LANGUAGES if language not in speech.JAPANESE]


@pytest.fixture(scope="session")
def said(settings: Settings) -> Speech:
    return speech.load(settings.config)


# The plain case


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("12月5日（土）の午前0時", "12月5日、土曜日の午前0時"),
        ("12月5日（土）・6日（日）は", "12月5日、土曜日、6日、日曜日は"),
        ("【訓練】警戒レベル４　避難指示（目黒川）", "訓練。警戒レベル４、避難指示、目黒川"),
        ("震度５強、M7.3", "震度5強、マグニチュード7.3"),
        ("震度5-または震度6+", "震度5弱または震度6強"),
        ("西五反田一・二丁目、東品川一～四丁目", "西五反田一丁目、二丁目、東品川一丁目から四丁目"),
        ("18:30～20:00", "18時30分から20時"),
        ("2026/12/05と1/6、R8.11.22", "2026年12月05日と1月6日、令和8年11月22日"),
        ("3日と1日に開きます。1日に3回です。", "3日とついたちに開きます。1日に3回です。"),
        ("ＦＡＸ、FAX、ＨＰ", "ファックス、ファックス、ホームページ"),
        ("①②※満員", "1、2、なお、満員"),
        ("○か×", "まる、かばつ"),
        ("Ｊアラート", "ジェイアラート"),
        ("「避難指示」", "避難指示"),
        ("＜避難場所＞芳水小学校", "避難場所、芳水小学校"),
        ("・一つ\n・二つ。\n\n三つ", "一つ。二つ。三つ"),
        ("171か#7119へ", "いち、なな、いちかシャープ、ナナ、イチ、イチ、キューへ"),
    ],
)
def test_it_is_written_to_be_heard(said: Speech, written: str, spoken: str) -> None:
    assert said.read_aloud(written, "ja") == spoken


def test_a_telephone_number_is_said_digit_by_digit_and_twice(said: Speech) -> None:
    once = "ゼロ、サンの、サン、ナナ、ナナ、ナナの、ニー、ニー、キュー、ニー"
    for written in ("03-3777-2292", "０３－３７７７－２２９２", "03（3777）2292", "03(3777)2292"):
        assert said.read_aloud(f"電話{written}", "ja") == f"電話、{once}、くり返します、{once}"
    for language in FOREIGN:
        assert said.read_aloud("03-3777-2292", language) == "0 3, 3 7 7 7, 2 2 9 2, 0 3, 3 7 7 7, 2 2 9 2"


def test_what_is_no_telephone_number_stays_a_number(said: Speech) -> None:
    for written in ("12,000戸", "2500円", "171人", "1171", "3階", "110番"):
        assert said.read_aloud(written, "ja") == written


def test_an_address_on_the_web_is_never_spoken(said: Speech) -> None:
    assert said.read_aloud("詳しくはhttps://www.example.jp/a?b=1をご覧ください。", "ja") == (
        "詳しくは区のホームページをご覧ください。"
    )
    assert said.read_aloud("See https://www.example.jp/a, please.", "en") == "See the city website, please."
    assert said.read_aloud("www.example.jp", "ko") == "구 홈페이지"
    assert said.read_aloud("お問い合わせはbosai@example.jpまで", "ja") == "お問い合わせはメールまで"


def test_names_of_the_ward_are_said_as_they_are_said_there(said: Speech) -> None:
    assert said.read_aloud("第二延山小学校と延山小学校", "ja") == "ダイニエンザンショーガッコーとエンザンショーガッコー"
    assert said.read_aloud("豊町一丁目", "easy-ja") == "ユタカチョー一丁目"
    assert said.read_aloud("豊町", "en") == "豊町", "a Japanese reading is no help to an English voice"


def test_a_reading_that_is_not_confirmed_is_not_used(said: Speech) -> None:
    assert said.read_aloud("浅間台小学校", "ja") == "浅間台小学校"


def test_furigana_is_read_once(said: Speech) -> None:
    assert said.read_aloud("｜津波《つなみ》が ｜来《き》ます。", "easy-ja") == "つなみが きます。"
    assert said.read_aloud("津波（つなみ）が 来（き）ます。", "easy-ja") == "津波が 来ます。"
    assert said.read_aloud("開設（あす）", "ja") == "開設、あす", "in ordinary Japanese kana in brackets may be news"


def test_other_languages_lose_brackets_and_keep_their_words(said: Speech) -> None:
    assert said.read_aloud("Alert Level 4 (Evacuation Order). Go.", "en") == "Alert Level 4, Evacuation Order. Go."
    assert said.read_aloud("[Update] 12,000 homes", "en") == "Update. 12,000 homes"
    assert said.read_aloud("警戒等级3（暴潮）。", "zh-Hans") == "警戒等级3，暴潮。"
    assert said.read_aloud("目黒川이(가) 범람", "ko") == "目黒川가 범람"
    assert said.read_aloud("One line\nand another", "tl") == "One line. and another"


# Whatever is written


PIECES = st.one_of(
    st.sampled_from(
        "あ漢ー09０９a。、.,・（）()「」【】[]｜《》～＜＞※①○×M震度#＃-－:：/／月日時分@ \u3000\n\t&<>\"'wht"
    ),
    st.sampled_from(["https://", "www.", "03-3777-2292", "｜漢《かん》", "（土）", "第二延山小学校", "\u200b", "\x00"]),
    st.characters(),
)


@given(text=st.lists(PIECES, max_size=40).map("".join), language=st.sampled_from(LANGUAGES))
@examples(max_examples=500, deadline=None)
def test_nothing_unspeakable_is_left_and_twice_is_once(said: Speech, text: str, language: str) -> None:
    spoken = said.read_aloud(text, language)
    assert not [char for char in spoken if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]
    assert not re.search(r"(?i)https?://|www\.", spoken)
    assert not re.search(r"[｜《》]", spoken)
    if language in speech.JAPANESE:
        assert not re.search(r"[（）()「」【】※～]", spoken)
    assert said.read_aloud(spoken, language) == spoken


def test_every_sample_notice_can_be_spoken(said: Speech, settings: Settings) -> None:
    for id, notice in sample_notices(settings).items():
        spoken = said.read_aloud(notice["body"], "ja")
        assert not re.search(r"[（）「」【】※～■・＜＞]|https?:", spoken), id
        assert "、、" not in spoken, id


def test_a_long_text_takes_no_time(said: Speech) -> None:
    for unit in ("a", "あ", "（", "｜", "1", "1-", "、 ", ", ", "a@", "https://"):
        spoken = said.read_aloud(unit * 4_000, "ja")
        assert said.read_aloud(spoken, "ja") == spoken


# How long it takes


MEASURED = [
    (
        15.5,
        "ja",
        "西五反田一丁目、二丁目、大崎一丁目に、洪水に関する警戒レベル４、避難指示を発令しました。"
        "危険な場所にいる方は、速やかに全員避難してください。",
    ),
    (
        11.1,
        "ja",
        "海岸や川の近くにいる方は、直ちに、高い所へ避難してください。警報が解除されるまで、戻らないでください。",
    ),
    (10.0, "ja", "電話、ゼロ、サンの、サン、ナナ、ナナ、ナナの、ニー、ニー、キュー、ニー。"),
    (6.5, "easy-ja", "がけが くずれます。とても あぶないです。いますぐ 命を 守って ください。"),
    (
        10.7,
        "en",
        "Alert Level 5, Emergency Safety Measures. Take the best immediate action to save your life. "
        "If you cannot go out, move to an upstairs room away from the slope.",
    ),
    (16.5, "zh-Hans", "警戒等级5，紧急确保安全。请立即保护生命。无法外出时，请转移到远离山崖的二楼房间。"),
    (
        12.7,
        "ko",
        "경보 레벨 5, 긴급 안전 확보. 즉시 목숨을 지키는 최선의 행동을 하십시오. "
        "나갈 수 없으면 비탈에서 먼 2층 방으로 이동하십시오.",
    ),
]
"""Seconds of sound: Japanese by pyopenjtalk-plus 0.4.1 at speed 0.9, the others by espeak-ng 1.51 at 157 words."""


@pytest.mark.parametrize(("sound", "language", "text"), MEASURED)
def test_the_count_agrees_with_a_voice(sound: float, language: str, text: str) -> None:
    assert seconds(text, language) == pytest.approx(sound, rel=0.2)


def test_easy_japanese_is_faster_by_the_letter_because_it_has_few_kanji() -> None:
    assert seconds("いますぐ 逃げて ください。", "easy-ja") < seconds("直ちに避難を開始願います。", "ja")


def test_pauses_take_time_and_small_kana_do_not() -> None:
    assert seconds("きゃ", "ja") == seconds("き", "ja") < seconds("き、", "ja") == seconds("き。", "ja")


def test_a_slower_voice_takes_longer() -> None:
    assert seconds("避難してください。", "ja", 117.5) == pytest.approx(2 * seconds("避難してください。", "ja"))


def test_nothing_takes_no_time() -> None:
    assert seconds("", "ja") == 0


# How the configuration can be wrong


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    shutil.copytree(settings.config / "speech", tmp_path / "speech")
    return tmp_path


def refused(folder: Path, rule: str) -> str:
    (folder / "speech" / "rules.yaml").write_text(f"before_reading:\n  - {rule}\n", encoding="utf-8")
    with pytest.raises(Refused) as refusal:
        speech.load(folder)
    assert len(refusal.value.problems) == 1
    problem = refusal.value.problems[0]
    assert problem.where.endswith("rules.yaml")
    return problem.ja


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{id: odd, pattern: '[', replace: a}", "規則「odd」の pattern を直してください"),
        ("{id: odd, replace: a}", "規則「odd」の pattern を書いてください"),
        ("{pattern: a, replace: b}", "規則「1」の id を書いてください"),
        ("just words", "規則「1」の id を書いてください"),
        (
            "{id: odd, pattern: a, handler: shout}",
            "handler は digits, sharp_digits, halfwidth, circled_number のどれか",
        ),
        (r"{id: odd, pattern: a, replace: '\1'}", "replace を直してください"),
        (r"{id: odd, pattern: a, replace: '\g<x>'}", "replace を直してください"),
        ("{id: odd, pattern: a}", "replace に ja, easy-ja の文を書いてください"),
        ("{id: odd, pattern: a, languages: all, replace: {ja: b, en: c}}", "replace に easy-ja, zh-Hans, zh-Hant"),
        ("{id: odd, pattern: a, replace: b, languages: [fr]}", "languages には ja, easy-ja, en"),
        ("{id: odd, pattern: a, replace: b, languages: ja}", "languages には"),
    ],
)
def test_a_rule_that_cannot_work_is_refused_with_what_to_do(folder: Path, rule: str, words: str) -> None:
    assert words in refused(folder, rule)


def test_rules_that_are_no_yaml_are_refused_with_the_line(folder: Path) -> None:
    (folder / "speech" / "rules.yaml").write_text("before_reading:\n  - {id: a\n", encoding="utf-8")
    with pytest.raises(Refused, match=r"rules\.yaml, line"):
        speech.load(folder)


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "speech" / "readings.csv").unlink()
    with pytest.raises(Refused, match=r"readings\.csv cannot be read"):
        speech.load(folder)


@pytest.mark.parametrize("row", ["名だけ,,,,,,,,", "名,ナ,ナ,1,町名,x,maybe,,", ",ナ,ナ,1,町名,x,yes,,"])
def test_a_reading_that_lacks_something_is_refused_with_its_line(folder: Path, row: str) -> None:
    readings = folder / "speech" / "readings.csv"
    head = readings.read_text(encoding="utf-8").splitlines()[0]
    readings.write_text(f"{head}\n{row}\n", encoding="utf-8")
    with pytest.raises(Refused) as refusal:
        speech.load(folder)
    assert "readings.csv の 2 行目に、surface・pronunciation・apply" in refusal.value.problems[0].ja


def test_without_rules_and_readings_a_text_is_only_tidied(folder: Path) -> None:
    (folder / "speech" / "rules.yaml").write_text("{}\n", encoding="utf-8")
    readings = folder / "speech" / "readings.csv"
    readings.write_text(readings.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    assert speech.load(folder).read_aloud("第一日野小学校（避難所）", "ja") == "第一日野小学校（避難所）"
