"""Finding messages by their words, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from broadcaster.lifecycle import Move
from broadcaster.settings import Settings
from broadcaster.store import messages, search
from broadcaster.store.database import Database
from broadcaster.store.search import Wanted
from tests.makers import NOW, a_sample


@pytest.mark.parametrize(
    ("words", "grams"),
    [
        ("品川区", ["品川", "川区", "区"]),
        ("図書館のカフェ", ["図書", "書館", "館の", "のカ", "カフ", "フェ", "ェ"]),
        ("雨", ["雨"]),
        ("Ｗｉ－Ｆｉ ｶﾌｪ", ["wi", "fi", "カフ", "フェ", "ェ"]),
        ("12月3日", ["12", "月", "3", "日"]),
        ("Café 2026", ["café", "2026"]),
        ("、。!?_'\"", []),
    ],
)
def test_a_text_is_kept_as_pairs_of_letters_and_whole_words(words: str, grams: list[str]) -> None:
    assert search.grams(words) == grams


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.upgrade()
    yield database
    database.close()


def kept(database: Database, settings: Settings, identifier: str, title: str) -> messages.Kept:
    sample = a_sample(settings, "N01")
    message = replace(sample, identifier=identifier, infos=(replace(sample.info, headline=title),))
    with database.write() as connection:
        return messages.add(connection, message, by="writer", at=NOW)


def found(database: Database, words: str) -> list[int]:
    with database.read() as connection:
        return list(search.newest(connection, Wanted(words=words), now=NOW))


def test_a_message_is_found_by_any_of_its_words_newest_first(database: Database, settings: Settings) -> None:
    first = kept(database, settings, "13109-a", "五反田プールの休業 Wi-Fi")
    second = kept(database, settings, "13109-b", "大井町プール再開")
    assert found(database, "プール") == [second.id, first.id]
    assert found(database, "五反田　プール") == [first.id]
    assert found(database, "ｗｉ") == [first.id]
    assert found(database, "町プ") == [second.id]
    assert found(database, "蒲") == found(database, "競馬場の花火") == []


def test_other_words_are_found_in_place_of_the_old_ones(database: Database, settings: Settings) -> None:
    one = kept(database, settings, "13109-a", "五反田プールの休業")
    with database.write() as connection:
        message = replace(one.message, infos=(replace(one.message.info, headline="温水施設の案内"),))
        messages.rewrite(connection, one, message, Move.EDIT)
    assert found(database, "五反田プール") == []
    assert found(database, "温水施設") == [one.id]


@pytest.mark.parametrize(
    "typed", ["'", '"', "a' OR '1", "プール'", "*", "NEAR(", "\\", "プール:*", "\x00", "あ" * 5000]
)
def test_no_sign_that_is_typed_is_a_command(database: Database, settings: Settings, typed: str) -> None:
    kept(database, settings, "13109-a", "お知らせ")
    assert isinstance(found(database, typed), list)
