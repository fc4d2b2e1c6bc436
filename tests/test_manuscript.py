"""What PR staff hand in, and what is refused: all of it at once, a sentence each."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from broadcaster import manuscript
from broadcaster import settings as configuration
from broadcaster.message import Message
from broadcaster.problems import Problem, Refused
from broadcaster.settings import Settings
from tests.makers import MEDIA, NOW, a_picture, sample_notices


def source(**changes: Any) -> dict[str, Any]:
    notice = {
        "title": "図書館の休館",
        "category": "区からのお知らせ",
        "area": "whole",
        "issued_at": "2026-12-01T10:00:00+09:00",
        "expires_at": "2026-12-03T17:00:00+09:00",
        "summary": "12月3日は休館します。",
        "body": "12月3日は、設備の点検のため休館します。",
        "channels": ["email", "rss"],
        **changes,
    }
    return {key: value for key, value in notice.items() if value is not None}


def read(settings: Settings, **changes: Any) -> Message:
    return manuscript.read(
        source(**changes), ward=settings.ward, media=MEDIA, now=NOW, fetch=lambda file, alt: a_picture(file, alt)
    )


def problems(settings: Settings, **changes: Any) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        read(settings, **changes)
    return {problem.where: problem.ja for problem in refused.value.problems}


def test_a_plain_notice_is_taken(settings: Settings) -> None:
    message = read(settings)
    assert message.category == "notice"
    assert message.info.headline == "図書館の休館"
    assert message.is_for_whole_ward
    assert message.identifier.startswith("13109-")


def test_all_sixteen_sample_notices_are_taken(settings: Settings) -> None:
    for id, notice in sample_notices(settings).items():
        moved = manuscript.moved_manuscript(notice, NOW)
        assert manuscript.read(
            moved, ward=settings.ward, media=MEDIA, now=NOW, fetch=lambda file, alt: a_picture(file, alt)
        ), id


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"titel": "x"}, "titel", "欄はありません"),
        ({"title": None}, "title", "書いてください"),
        ({"summary": None}, "summary", "書いてください"),
        ({"area": None}, "area", "選ばないと出せません"),
        ({"area": []}, "area", "選ばないと出せません"),
        ({"area": ["大井八丁目"]}, "area", "町丁目はありません"),
        ({"area": "Atlantis"}, "area", "町丁目はありません"),
        ({"category": "宣伝"}, "category", "区分を次から選んで"),
        ({"channels": []}, "channels", "選んでください"),
        ({"channels": ["telepathy"]}, "channels", "媒体はありません"),
        (
            {"expires_at": "2026-11-30T17:00:00+09:00", "issued_at": "2026-11-29T17:00:00+09:00"},
            "expires_at",
            "過ぎています",
        ),
        ({"expires_at": "2026-12-01T09:30:00+09:00"}, "expires_at", "より後に"),
        ({"expires_at": "あした"}, "expires_at", "読めません"),
        ({"expires_at": None}, "expires_at", "日時を書いて"),
        ({"body": "{time}から休館します。"}, "body", "埋めていない欄"),
        ({"title": "○○のお知らせ"}, "title", "埋めていない欄"),
        ({"title": "休館\nBcc: all@example.jp"}, "title", "一行で"),
        ({"title": "休館\rBcc: x"}, "title", "使えない文字"),
        ({"body": "見えない\u200b文字"}, "body", "使えない文字"),
        ({"body": "逆\u202eさま"}, "body", "使えない文字"),
        ({"body": "こわれた\ud800"}, "body", "使えない文字"),
        ({"body": "外字\ue000"}, "body", "使えない文字"),
        ({"body": "e" + "\u0301" * 9}, "body", "使えない文字"),
        ({"body": "あ" * 20_001}, "body", "字多い"),
        ({"link": "http://www.example.lg.jp/"}, "link", "https://"),
        ({"link": "https://evil.example.com/"}, "link", "https://"),
        ({"link": "https://www.example.lg.jp@evil.test/"}, "link", "https://"),
        ({"link": "javascript:alert(1)"}, "link", "https://"),
        ({"language": "fr"}, "language", "扱っていません"),
        ({"languages": {"fr": {"title": "a", "body": "b"}}}, "languages.fr", "使えない言葉"),
        ({"languages": {"en": {"title": "a"}}}, "languages.en.body", "書いてください"),
        ({"languages": {"en": {"title": "a", "body": "b", "colour": "red"}}}, "languages.en.colour", "欄はありません"),
        ({"image": {"file": "a.jpg"}}, "image.alt", "画像の説明"),
        ({"section": {"name": "広報課"}}, "section", "担当課と電話"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    settings: Settings, changes: dict[str, Any], where: str, says: str
) -> None:
    assert says in problems(settings, **changes)[where]


def test_every_problem_is_said_at_once(settings: Settings) -> None:
    found = problems(settings, area="x", category="y", channels=["z"], title=None, expires_at="w")
    assert {"area", "category", "channels", "title", "expires_at"} <= set(found)


def test_twenty_four_o_clock_is_the_next_midnight(settings: Settings) -> None:
    assert read(settings, expires_at="2026-12-06T24:00+09:00").expires_at.isoformat().startswith("2026-12-07T00:00")


def test_an_unknown_area_is_never_widened(settings: Settings) -> None:
    assert read(settings, area=["二葉一丁目"]).geocodes == ("D12",)
    assert read(settings, area=["東品川一～四丁目"]).geocodes == ("D01", "D02")
    assert "area" in problems(settings, area=["東品川一～九丁目"])


def test_moving_a_sample_keeps_how_long_it_lasts(settings: Settings) -> None:
    notice = sample_notices(settings)["N02"]
    moved = manuscript.moved_manuscript(notice, NOW)
    length = manuscript.read_instant(moved["expires_at"]) - manuscript.read_instant(moved["issued_at"])  # type: ignore[operator]
    assert length == timedelta(days=2, hours=5)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@examples(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=5))
def test_whatever_is_handed_in_ends_in_a_message_or_in_sentences(noise: dict[str, Any]) -> None:
    settings = shipped()
    spoiled = ({**source(), key: value} for key in source() for value in noise.values())
    for handed_in in (noise, {**source(), **noise}, *spoiled):
        for problem in said_about(settings, handed_in):
            assert problem.ja
            assert problem.en


def said_about(settings: Settings, handed_in: dict[str, Any]) -> tuple[Problem, ...]:
    try:
        manuscript.read(handed_in, ward=settings.ward, media=MEDIA, now=NOW)
    except Refused as refused:
        return refused.problems
    return ()


@cache
def shipped() -> Settings:
    return configuration.load({"BROADCASTER_HOME": "unused"})
