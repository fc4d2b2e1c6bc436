"""Checks while somebody writes: what readers would stumble over. Warnings, never a wall; pure.

What must not go out at all is refused by `manuscript.py`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from broadcaster.clock import local
from broadcaster.text import one_line

WEEKDAYS = "月火水木金土日"
LONG_TITLE = 20
"""So many characters a mail's list and a screen's headline show at once."""

ABOLISHED = {
    "避難勧告": "避難指示",
    "避難準備・高齢者等避難開始": "高齢者等避難",
    "避難準備情報": "高齢者等避難",
    "災害発生情報": "緊急安全確保",
}
"""Terms that ended with the law of 2021; readers would take them for something else."""

JARGON = {
    "周知": "お知らせ",
    "標記": "題のこと",
    "別添": "添えたもの",
    "ご査収": "ご確認",
    "スキーム": "しくみ",
    "アセスメント": "調べて見積もること",
    "ワンストップ": "一か所で",
    "インセンティブ": "ごほうび",
}

_UNREADABLE = {
    "㈱": "（株）",
    "㈲": "（有）",
    "㎡": "平方メートル",
    "㎞": "キロメートル",
    "㎏": "キログラム",
    "№": "番号",
    "℡": "電話",
}
_DATED = re.compile(
    r"(?:(?P<year>20\d\d)年)?(?P<month>\d{1,2})(?:月|/)(?P<day>\d{1,2})日?\s*[（(](?P<weekday>[月火水木金土日])(?:曜日?)?(?:[・、]祝)?[）)]"
)


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Something to look at: a key of `errors` in words.yaml (or of compose.yaml), with its slots."""

    field: str
    key: str
    slots: Mapping[str, str]


def remarks(manuscript: Mapping[str, Any], now: datetime) -> Sequence[Remark]:
    """In the order of the fields."""
    found: list[Remark] = []
    for field in ("title", "summary", "body", "speech"):
        text = manuscript.get(field)
        if isinstance(text, str) and text:
            found.extend(_of_text(field, text, local(now).date()))
    title = str(manuscript.get("title") or "")
    if len(one_line(title)) > LONG_TITLE:
        found.append(
            Remark(field="title", key="compose.long_title", slots={"n": str(len(title)), "most": str(LONG_TITLE)})
        )
    if not manuscript.get("section"):
        found.append(Remark(field="section.name", key="errors.contact_missing", slots={}))
    return found


def _of_text(field: str, text: str, today: date) -> Iterator[Remark]:
    plain = unicodedata.normalize("NFKC", text)
    yield from _terms(field, text)
    yield from _dates(field, plain, today)
    for char in dict.fromkeys(text):
        if instead := _readable(char):
            yield Remark(field=field, key="errors.machine_dependent", slots={"char": char, "use": instead})


def _terms(field: str, text: str) -> Iterator[Remark]:
    for word, use in ABOLISHED.items():
        if word in text:
            yield Remark(field=field, key="errors.abolished", slots={"word": word, "use": use})
    for word, use in JARGON.items():
        if word in text:
            yield Remark(field=field, key="compose.jargon", slots={"word": word, "use": use})


def _dates(field: str, text: str, today: date) -> Iterator[Remark]:
    for found in _DATED.finditer(text):
        day = _meant(found["year"], found["month"], found["day"], today)
        if day is None:
            yield Remark(field=field, key="compose.no_such_day", slots={"date": f"{found['month']}月{found['day']}日"})
            continue
        right = WEEKDAYS[day.weekday()]
        if right != found["weekday"]:
            slots = {"date": f"{day.month}月{day.day}日", "right": right, "wrong": found["weekday"]}
            yield Remark(field=field, key="errors.weekday", slots=slots)
        elif day < today:
            yield Remark(field=field, key="compose.past_day", slots={"date": f"{day.month}月{day.day}日"})


_NAMED = re.compile(
    r"(?:(?P<year>20\d\d)年)?(?P<month>\d{1,2})(?:月(?P<day>\d{1,2})日|/(?P<other>\d{1,2})\s*[（(][月火水木金土日])"
)
"""A day in a text, with its weekday or without; 1/2 alone may be a half."""


def days_named(text: str, today: date) -> Iterator[date]:
    """Every day that a text names, as it is read on `today`; what is no day is left out."""
    for found in _NAMED.finditer(unicodedata.normalize("NFKC", text)):
        day = _meant(found["year"], found["month"], found["day"] or found["other"], today)
        if day is not None:
            yield day


LATELY = timedelta(days=60)
"""A notice speaks of days to come, or of such as have just passed."""


def _meant(year: str | None, month: str, day: str, today: date) -> date | None:
    """The date that is meant: the next one, where no year is written, or one that has just passed."""
    for each in [int(year)] if year else [today.year - 1, today.year, today.year + 1]:
        try:
            found = date(each, int(month), int(day))
        except ValueError:
            continue
        if year or found >= today - LATELY:
            return found
    return None


def _readable(char: str) -> str:
    """What to write instead of a character that some devices cannot show; empty for an ordinary one."""
    if char in _UNREADABLE:
        return _UNREADABLE[char]
    code = ord(char)
    is_special = 0x2460 <= code <= 0x24FF or 0x2160 <= code <= 0x217F or 0x3220 <= code <= 0x33FF
    is_half_kana = 0xFF61 <= code <= 0xFF9F
    if not (is_special or is_half_kana):
        return ""
    plain = unicodedata.normalize("NFKC", char)
    return f"（{plain}）" if is_special and plain.isalnum() and not plain.isalpha() else plain
