"""The signage feed: what each screen shows, what stands above everything else, and when it goes away by itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from broadcaster import changes
from broadcaster.channel import Board, Page, PermanentFailure, TemporaryFailure
from broadcaster.clock import hours, minutes, parse_instant, stamp
from broadcaster.drill import watermarked
from broadcaster.message import LANGUAGES, Area, Change, Message, Mode
from broadcaster.settings import Settings
from channels.signage import MOST_CHARACTERS, Signage, pages_of, poll_s
from tests.makers import NOW, a_kit, a_notice, a_picture, a_sample, an_alert

SCHEMA = Draft202012Validator(
    json.loads((Path(__file__).parent / "data" / "signage-schema.json").read_text(encoding="utf-8"))
)
CITY_HALL, GOTANDA, FUTABA = "S01", "S20", "S26"  # the whole ward, D03 and D12


@pytest.fixture
def board(settings: Settings) -> Signage:
    return Signage.built(a_kit(settings, options=settings.channel_options["signage"]))


@pytest.fixture
def news(settings: Settings) -> list[Message]:
    """The weekend for everybody, a water cut in Futaba, and an evacuation order along the Meguro river."""
    return [
        a_sample(settings, "N02", now=NOW - hours(2)),
        a_sample(settings, "N09", now=NOW - hours(1)),
        an_alert(settings, "E04"),
    ]


def everything(settings: Settings) -> list[Message]:
    notices = [a_sample(settings, f"N{number:02}") for number in range(1, 17)]
    return [*notices, *(an_alert(settings, f"E{number:02}") for number in range(1, 12))]


def shown(board: Signage, messages: Sequence[Message], screen: str = CITY_HALL, at: datetime = NOW) -> dict[str, Any]:
    page = next(page for page in board.compose(messages, at) if page.path == f"signage/{screen}.json")
    document: dict[str, Any] = json.loads(page.body)
    return document


def ids(document: dict[str, Any]) -> list[str]:
    return [item["id"] for item in document["items"]]


def alert_ids(document: dict[str, Any]) -> list[str]:
    return [alert["id"] for alert in (document["takeover"] or {"alerts": []})["alerts"]]


# The plain case


def test_a_screen_shows_notices_and_the_emergency_above_them(board: Signage, news: list[Message]) -> None:
    document = shown(board, news)
    assert ids(document) == ["13109-N02"]
    told = document["items"][0]["languages"][0]
    assert told["headline"] == "今週末のイベント情報（12月5日・6日）"
    assert told["pages"][0]["phrases"][:4] == ["今週末の", "イベントを", "お知らせします。\n", "■12月5日（土）\n"]
    alert = document["takeover"]["alerts"][0]
    assert alert["lines"] == [
        "警戒レベル４",
        "避難指示（目黒川）",
        "西五反田一・二丁目、大崎一丁目",
        "危険な場所から全員避難",
    ]
    assert alert["colour"] == {"name": "紫", "hex": "#AA00AA", "text": "#FFFFFF"}
    assert alert["issued"] == "午前9時発表　品川区"
    assert [said["language"] for said in alert["languages"]] == list(LANGUAGES)


@pytest.mark.parametrize("screen", [CITY_HALL, GOTANDA, FUTABA])
def test_what_players_receive(
    board: Signage, news: list[Message], screen: str, golden: Callable[[str, str], None]
) -> None:
    golden(
        f"signage/{screen}.json", json.dumps(shown(board, news, screen), ensure_ascii=False, indent=1, sort_keys=True)
    )


def test_it_is_a_board_with_one_page_for_each_screen(board: Signage, settings: Settings) -> None:
    assert isinstance(board, Board)
    pages = board.compose([], NOW)
    assert [page.path for page in pages] == [f"signage/S{number:02}.json" for number in range(1, 27)]
    assert {page.content_type for page in pages} == {"application/json"}
    quiet = shown(board, [])
    assert (quiet["items"], quiet["takeover"], quiet["drill"]) == ([], None, None)
    assert quiet["screen"] == {"id": "S01", "site": "本庁舎", "place": "総合案内横", "orientation": "landscape"}


@pytest.mark.parametrize(
    "options",
    [
        {"poll_s": 0},
        {"poll_s": 60},
        {"characters_per_second": "four"},
        {"seconds_min": 30},
        {"takeover_hours": -1},
        {"seconds_max": True},
        {"takeover_hours": float("inf")},
        {"never_broken": "しながわ"},
    ],
)
def test_options_that_no_screen_can_follow_are_told(settings: Settings, options: dict[str, Any]) -> None:
    assert Signage.built(a_kit(settings)).missing() == []
    (sentence,) = Signage.built(a_kit(settings, options=options)).missing()
    assert next(iter(options)) in sentence


@pytest.mark.parametrize("mode", list(Mode))
def test_every_sample_keeps_to_the_schema(settings: Settings, mode: Mode) -> None:
    board = Signage.built(a_kit(settings, mode=mode))
    for messages in (everything(settings), []):
        for page in board.compose(messages, NOW):
            SCHEMA.validate(json.loads(page.body))


# Notices


def test_dangers_and_corrections_stand_first_and_then_the_newest(board: Signage, settings: Settings) -> None:
    old = a_notice(settings, identifier="old", now=NOW - hours(5))
    new = a_notice(settings, identifier="new", now=NOW - hours(1))
    danger = replace(a_notice(settings, identifier="danger", now=NOW - hours(9)), category="emergency")
    corrected = a_notice(settings, identifier="corrected", now=NOW - hours(7), change=Change.CORRECTION)
    document = shown(board, [old, danger, new, corrected])
    assert ids(document) == ["corrected", "danger", "new", "old"]
    assert [item["priority"] for item in document["items"]] == [1, 1, 2, 2]


def test_an_item_says_when_it_begins_and_ends_and_who_answers(board: Signage, settings: Settings) -> None:
    notice = replace(a_sample(settings, "N05"), images=(a_picture(),))
    item = shown(board, [notice])["items"][0]
    assert item["start"] == "2026-12-01T09:00:00+09:00"
    assert item["end"] == "2026-12-18T08:30:00+09:00"
    assert item["section"] == {"name": "広報広聴課", "phone": "03-3777-1111"}
    assert item["link"] == "https://www.example.lg.jp/nenmatsu"
    assert item["image"] == {
        "url": f"http://127.0.0.1:8000/media/{'ab' * 32}.jpg",
        "alt": "朝市の店先に並ぶ大根",
        "width": 1600,
        "height": 900,
        "type": "image/jpeg",
        "digest": "ab" * 32,
    }
    assert [(said["lang"], said["language"]) for said in item["languages"]] == [
        ("ja", "ja"),
        ("ja", "easy-ja"),
        ("en", "en"),
    ]
    bare = shown(board, [a_notice(settings)])["items"][0]
    assert (bare["image"], bare["link"], bare["section"]) == (None, None, None)


def test_a_notice_of_a_district_is_shown_in_that_district_only(board: Signage, news: list[Message]) -> None:
    assert ids(shown(board, news, FUTABA)) == ["13109-N09", "13109-N02"]
    assert ids(shown(board, news, GOTANDA)) == ["13109-N02"]
    assert ids(shown(board, news, CITY_HALL)) == ["13109-N02"]


def test_an_alert_of_a_district_is_shown_there_and_where_everybody_comes(board: Signage, news: list[Message]) -> None:
    assert alert_ids(shown(board, news, GOTANDA)) == ["13109-E04"]
    assert alert_ids(shown(board, news, CITY_HALL)) == ["13109-E04"]
    assert alert_ids(shown(board, news, FUTABA)) == []


def test_an_alert_for_the_whole_ward_is_on_every_screen(board: Signage, settings: Settings) -> None:
    for page in board.compose([an_alert(settings, "E01")], NOW):
        assert alert_ids(json.loads(page.body)) == ["13109-E01"]


def test_a_code_of_a_district_that_has_no_screen_is_still_seen_at_the_city_hall(
    board: Signage, settings: Settings
) -> None:
    alert = replace(an_alert(settings), areas=(Area(description="飛び地", geocodes=("D99",)),))
    screens = [page.path for page in board.compose([alert], NOW) if json.loads(page.body)["takeover"]]
    assert "signage/S01.json" in screens
    assert "signage/S20.json" not in screens


# Reading


def test_a_page_stays_as_long_as_it_takes_to_read(board: Signage, settings: Settings) -> None:
    def seconds(body: str) -> list[int]:
        item = shown(board, [a_notice(settings, body=body)])["items"][0]
        return [page["seconds"] for page in item["languages"][0]["pages"]]

    assert seconds("あ" * 8) == [8]
    assert seconds("あ" * 41) == [11]
    assert seconds("あ" * 80) == [20]
    assert seconds("あ" * 100) == [20, 8]


def test_the_pace_is_configured(settings: Settings) -> None:
    pace = {"characters_per_second": 2, "seconds_min": 5, "seconds_max": 15}
    board = Signage.built(a_kit(settings, options=pace))
    for body, seconds in (("あ" * 6, 5), ("あ" * 20, 10), ("あ" * 80, 15)):
        item = shown(board, [a_notice(settings, body=body)])["items"][0]
        assert item["languages"][0]["pages"][0]["seconds"] == seconds


@pytest.mark.parametrize(
    "whole",
    [
        "12月29日（火）",
        "6日（日）",
        "午後6時55分",
        "正午",
        "８時半",
        "18:30",
        "03-3777-2292",
        "03（3777）2292",
        "2,500円",
        "西五反田一・二丁目",
        "https://www.example.lg.jp/event/20261205",
    ],
)
def test_what_belongs_together_is_in_one_phrase(whole: str) -> None:
    for lead in ("", "会場は", "図書館の休みは、", "あ" * 75):
        phrases = [phrase for page in pages_of(f"{lead}{whole}から、区役所で受け付けます。", "ja") for phrase in page]
        assert any(whole in phrase for phrase in phrases), phrases


def test_names_that_the_model_does_not_know_are_configured(board: Signage, settings: Settings) -> None:
    text = "しなメールは、しながわ中央公園のことも伝えます。"
    assert board.missing() == []
    phrases = shown(board, [a_notice(settings, body=text)])["items"][0]["languages"][0]["pages"][0]["phrases"]
    for name in ("しなメール", "しながわ"):
        assert any(name in phrase for phrase in phrases), phrases


def test_lines_begin_and_end_as_print_demands(settings: Settings) -> None:
    for message in everything(settings):
        for info in message.infos:
            for page in pages_of(info.description, info.language):
                for phrase in page:
                    assert phrase.strip()
                    assert phrase[0] not in "、。）」』】～ 　\n"
                    assert phrase.strip()[-1] not in "（「『【"
                    assert phrase.strip() != "・"


def test_a_sentence_and_a_heading_with_its_item_are_not_torn_apart() -> None:
    first, second = "あ" * 59 + "。", "い" * 39 + "。"
    assert ["".join(page) for page in pages_of(first + second, "ja")] == [first, second]
    item = "・" + "う" * 30
    assert ["".join(page) for page in pages_of(f"{first}\n■見出し\n{item}", "ja")] == [first, f"■見出し\n{item}"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_hold_all_of_the_words_in_every_language(settings: Settings, language: str) -> None:
    for message in everything(settings):
        if info := message.in_language(language):
            pages = pages_of(info.description, language)
            assert squeezed("".join("".join(page) for page in pages)) == squeezed(info.description)
            assert all(characters(page) <= MOST_CHARACTERS for page in pages)


def squeezed(text: str) -> str:
    return "".join(text.split())


def characters(page: Sequence[str]) -> int:
    return len("".join(page).replace("\n", ""))


def test_a_notice_with_no_more_than_a_headline_has_a_page(board: Signage, settings: Settings) -> None:
    notice = a_notice(settings, title="本日休館", body="")
    notice = replace(notice, infos=(replace(notice.info, summary=""),))
    assert shown(board, [notice])["items"][0]["languages"][0]["pages"] == [{"phrases": ["本日休館"], "seconds": 8}]


# The takeover


def test_an_alert_is_never_among_the_items(board: Signage, settings: Settings) -> None:
    messages = everything(settings)
    alerts = {message.identifier for message in messages if message.is_alert}
    assert alerts
    for page in board.compose(messages, NOW):
        document = json.loads(page.body)
        assert not alerts & set(ids(document))
        assert set(alert_ids(document)) <= alerts


def test_the_gravest_is_first_and_stays_longest(board: Signage, settings: Settings) -> None:
    takeover = shown(board, [an_alert(settings, id) for id in ("E09", "E03", "E05", "E04")])["takeover"]
    assert [alert["level"] for alert in takeover["alerts"]] == [5, 4, 3, None]
    assert [alert["seconds"] for alert in takeover["alerts"]] == [12, 8, 8, 8]
    assert [alert["colour"]["hex"] for alert in takeover["alerts"]] == ["#0C000C", "#AA00AA", "#FF2800", "#F2E700"]
    assert takeover["alerts"][3]["colour"]["text"] == "#000000"


def test_a_takeover_always_ends(board: Signage, settings: Settings) -> None:
    for page in board.compose(everything(settings), NOW):
        takeover = json.loads(page.body)["takeover"]
        ends = [alert["expires"] for alert in takeover["alerts"]]
        assert takeover["expires"] == max(ends)
        assert all(NOW < parse_instant(end) <= NOW + hours(3) for end in ends)


def test_an_alert_leaves_after_some_hours_unless_it_is_renewed(settings: Settings) -> None:
    board = Signage.built(a_kit(settings, options={"takeover_hours": 2}))
    order = an_alert(settings)
    assert shown(board, [order])["takeover"]["expires"] == stamp(NOW + hours(2))
    assert shown(board, [order], at=NOW + hours(2) - minutes(1))["takeover"] is not None
    assert shown(board, [order], at=NOW + hours(2))["takeover"] is None
    later = NOW + hours(1.5)
    update = changes.changed(order, Change.UPDATE, words=settings.words, now=later, line="水位が上がっています。")
    assert shown(board, [update.sent(later)], at=NOW + hours(3))["takeover"] is not None


def test_an_alert_that_ends_sooner_leaves_sooner(board: Signage, settings: Settings) -> None:
    missile = an_alert(settings, "E07")
    assert shown(board, [missile])["takeover"]["expires"] == stamp(missile.expires_at) == stamp(NOW + hours(2))


@pytest.mark.parametrize(("change", "word"), [(Change.ALL_CLEAR, "解除"), (Change.CANCEL, "取消")])
def test_that_it_is_over_is_told_in_white_for_half_an_hour(
    board: Signage, settings: Settings, change: Change, word: str
) -> None:
    over = changes.changed(an_alert(settings), change, words=settings.words, now=NOW + hours(1)).sent(NOW + hours(1))
    takeover = shown(board, [over], at=NOW + hours(1))["takeover"]
    assert takeover["expires"] == stamp(NOW + hours(1) + minutes(30))
    assert takeover["alerts"][0]["lines"][0] == word
    assert takeover["alerts"][0]["colour"]["name"] == "白"
    assert shown(board, [over], at=NOW + hours(1) + minutes(30))["takeover"] is None


def test_an_alert_without_a_colour_has_that_of_its_level(board: Signage, settings: Settings) -> None:
    for level, name in ((5, "黒"), (4, "紫"), (3, "赤"), (2, "黄"), (None, "白")):
        alert = replace(an_alert(settings), colour="", level=level)
        assert shown(board, [alert])["takeover"]["alerts"][0]["colour"]["name"] == name


def test_an_alert_without_lines_for_screens_shows_its_headline(board: Signage, settings: Settings) -> None:
    order = an_alert(settings)
    order = replace(order, infos=tuple(replace(info, display=()) for info in order.infos))
    alert = shown(board, [order])["takeover"]["alerts"][0]
    assert alert["lines"] == [order.info.headline]
    assert alert["languages"][2]["lines"] == [order.infos[2].headline]


def test_a_takeover_has_a_new_id_when_an_alert_comes(board: Signage, settings: Settings) -> None:
    order, worse = an_alert(settings, "E04"), an_alert(settings, "E05")
    before, after = shown(board, [order])["takeover"], shown(board, [order, worse])["takeover"]
    assert before["id"] != after["id"]
    assert shown(board, [order, a_notice(settings)])["takeover"]["id"] == before["id"]


# Asking again


def test_screens_ask_at_times_of_their_own_and_always_the_same(board: Signage, settings: Settings) -> None:
    asked = {screen.id: poll_s(screen.id, 20) for screen in settings.ward.screens}
    assert all(16 <= seconds <= 24 for seconds in asked.values())
    assert len(set(asked.values())) > 15
    assert asked["S01"] == 21.4
    assert {
        json.loads(page.body)["screen"]["id"]: json.loads(page.body)["poll_s"] for page in board.compose([], NOW)
    } == asked
    assert all(24 <= poll_s(screen, 30) <= 30 for screen in asked)


# Equal bytes


def test_neither_order_nor_moment_nor_process_changes_the_bytes(settings: Settings, news: list[Message]) -> None:
    twins = [a_notice(settings, identifier=f"twin-{n}") for n in range(3)]
    messages = [*news, an_alert(settings, "E03"), *twins]
    first = Signage.built(a_kit(settings)).compose(messages, NOW)
    second = Signage.built(a_kit(settings)).compose(messages[::-1], NOW + minutes(40))
    assert first == second
    assert [page.etag for page in first] == [page.etag for page in second]


# Hostile words

HOSTILE = st.lists(
    st.one_of(
        st.sampled_from(["<script>alert(1)</script>", '"},{"id":"x"', "\\", "\\u0000", "</style>", "（", "・", "■", "＜あ＞"]),
        st.sampled_from(["\n", " ", "\u3000", "。", "12月29日（火）", "が\u0301\u0302", "👨‍👩‍👧", "𠮷", "\ufe0f", "x" * 90, "あ" * 90]),
        st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30),
    ),
    max_size=8,
).map("".join)  # fmt: skip


@examples(max_examples=30, deadline=None)
@given(words=HOSTILE, language=st.sampled_from(LANGUAGES))
def test_hostile_words_stay_words(settings: Settings, words: str, language: str) -> None:
    board = Signage.built(a_kit(settings))
    words = f"x{words}"
    notice = a_notice(settings, title=words, body=words, images=(a_picture(alt=words),))
    notice = replace(notice, infos=(replace(notice.info, language=language),))
    alert = an_alert(settings)
    alert = replace(alert, infos=tuple(replace(info, headline=words, display=(words,)) for info in alert.infos))
    document = shown(board, [notice, alert])
    SCHEMA.validate(document)
    said = document["items"][0]["languages"][0]
    assert said["headline"] == document["items"][0]["image"]["alt"] == words
    assert squeezed("".join("".join(page["phrases"]) for page in said["pages"])) == squeezed(words)
    assert all(0 < characters(page["phrases"]) <= MOST_CHARACTERS for page in said["pages"])
    assert document["takeover"]["alerts"][0]["lines"] == [words]


def test_a_broken_character_takes_nothing_else_off_the_screen(board: Signage, settings: Settings) -> None:
    document = shown(board, [a_notice(settings, title="前\ud800後"), an_alert(settings)])
    assert document["items"][0]["languages"][0]["headline"] == "前?後"
    assert alert_ids(document) == ["13109-E04"]


# Drill


def test_a_drill_is_framed_at_every_moment(settings: Settings, golden: Callable[[str, str], None]) -> None:
    board = Signage.built(a_kit(settings, mode=Mode.DRILL))
    drill = watermarked(an_alert(settings, mode=Mode.DRILL), settings.words)
    for messages in ([drill], []):
        for page in board.compose(messages, NOW):
            document = json.loads(page.body)
            assert document["mode"] == "drill"
            assert document["drill"]["band"] == "訓練　これは訓練です"
            assert document["drill"]["foot"] == "これは訓練です。避難の必要はありません。"
    document = shown(board, [drill])
    assert document["takeover"]["drill"] == document["drill"]
    for said in document["takeover"]["alerts"][0]["languages"]:
        assert all(line.startswith("【訓練】") for line in said["lines"])
    golden("signage/drill/S01.json", json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True))


def test_a_live_screen_never_speaks_of_a_drill(board: Signage, settings: Settings) -> None:
    for page in board.compose(everything(settings), NOW):
        assert "訓練" not in page.body.decode()
        assert json.loads(page.body)["drill"] is None


# Delivery


async def test_a_page_is_put_where_players_read_it(settings: Settings) -> None:
    shelf: list[Page] = []
    board = Signage.built(a_kit(settings, publish=shelf.append))
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

    board = Signage.built(a_kit(settings, publish=refuse))
    with pytest.raises(failure):
        await board.deliver(board.compose([], NOW)[0])
