"""What readers would stumble over is pointed out, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from broadcaster.proofreading import remarks
from broadcaster.settings import Settings
from tests.makers import NOW, sample_notices

WHOLE = {"title": "図書館の休館", "section": {"name": "図書館", "phone": "03-3471-4667"}}


def keys(**fields: Any) -> list[str]:
    return [remark.key for remark in remarks({**WHOLE, **fields}, NOW)]


def test_a_plain_notice_is_left_alone() -> None:
    assert keys(body="12月5日（土）は、休館します。") == []


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ("避難勧告を出しました。", "errors.abolished"),
        ("12月5日（金）に休館します。", "errors.weekday"),
        ("2027年12月5日（土）に休館します。", "errors.weekday"),
        ("２月２９日（月）に休館します。", "compose.no_such_day"),
        ("11月2日（月）に休館しました。", "compose.past_day"),
        ("①番窓口へ", "errors.machine_dependent"),
        ("ﾄｲﾚの工事", "errors.machine_dependent"),
        ("㈱品川", "errors.machine_dependent"),
        ("広く周知します", "compose.jargon"),
    ],
)
def test_what_is_strange_is_pointed_out(body: str, key: str) -> None:
    assert key in keys(body=body)


def test_a_long_title_and_a_missing_contact_are_pointed_out() -> None:
    assert keys(title="あ" * 21) == ["compose.long_title"]
    assert keys(section=None) == ["errors.contact_missing"]


def test_every_remark_has_words_in_both_languages(settings: Settings) -> None:
    body = "避難勧告 12月5日（金） 2月30日（月） 11月2日（月） ① 周知"
    for remark in remarks({"title": "あ" * 30, "body": body}, NOW):
        for language in ("ja", "en"):
            said = settings.words.page(remark.key, language, **remark.slots)
            assert said
            assert "{" not in said


def test_the_ward_s_own_notices_are_hardly_touched(settings: Settings) -> None:
    for id, notice in sample_notices(settings).items():
        found = [remark for remark in remarks(notice, NOW) if remark.key in ("errors.weekday", "errors.abolished")]
        assert not found, (id, found)
