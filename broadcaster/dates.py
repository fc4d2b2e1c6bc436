"""Dates as people type them, read one way or not at all; pure.

    12/5 9:00 · 12月5日 午前9時 · 2026-12-05 9:00 · 令和8年12月5日 24:00

A year that is not written is the one that makes the date the nearest to come; a date of the last month is taken as past,
so that it can be said."""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime, timedelta

from broadcaster.clock import JST, local

REIWA = 2018
"""令和元年 is 2019."""

LATELY = timedelta(days=60)

_DAY = re.compile(
    r"(?:(?:(?P<era>令和|R)(?P<reiwa>\d{1,2}|元)年?|(?P<year>\d{4})年?)[-/.\s]*)?"
    r"(?P<month>\d{1,2})(?:[-/.]|月)(?P<day>\d{1,2})日?(?:\([月火水木金土日]\))?"
)
_TIME = re.compile(
    r"(?P<half>午前|午後)?(?:(?P<noon>正午)|(?P<hour>\d{1,2})(?:(?::|時)(?P<minute>\d{2})分?|時(?P<only>半)?))"
)


def read_typed(text: str, now: datetime) -> datetime | None:
    """An instant of the ward, or None where it cannot be read for certain. Without a time it is none."""
    plain = unicodedata.normalize("NFKC", text).strip().replace("T", " ").replace("時間", "")
    day = _DAY.match(plain)
    if day is None:
        return None
    time = _TIME.fullmatch(plain[day.end() :].strip())
    if time is None:
        return None
    clock = _clock(time)
    if clock is None:
        return None
    return _at(day, clock, now)


def _clock(found: re.Match[str]) -> tuple[int, int] | None:
    if found["noon"]:
        return 12, 0
    hour, minute = int(found["hour"]), 30 if found["only"] else int(found["minute"] or 0)
    if found["half"]:
        if hour > 12:
            return None
        hour = hour % 12 + (12 if found["half"] == "午後" else 0)
    return (hour, minute) if (hour <= 23 and minute <= 59) or (hour, minute) == (24, 0) else None


def _at(day: re.Match[str], clock: tuple[int, int], now: datetime) -> datetime | None:
    month, date = int(day["month"]), int(day["day"])
    reiwa = 1 if day["reiwa"] == "元" else int(day["reiwa"] or 0)
    year = REIWA + reiwa if reiwa else int(day["year"] or 0)
    years = [year] if year else [local(now).year + shift for shift in (0, 1)]
    for each in years:
        try:
            found = datetime(each, month, date, tzinfo=JST) + timedelta(hours=clock[0], minutes=clock[1])
        except (ValueError, OverflowError):
            continue
        if year or found > now - LATELY:
            return found
    return None


def typed(at: datetime) -> str:
    """As a field shows it."""
    here = local(at)
    return f"{here:%Y-%m-%d} {here.hour}:{here:%M}"


def read_day(text: str) -> date | None:
    """A day as an address or a date field has it, 2026-12-05, of this century; None for anything else."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  # a day has no zone
    except ValueError:
        return None
    return day if 2000 <= day.year <= 2100 else None
