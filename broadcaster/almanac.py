"""The routine calendar: which notice is due when, and why a run was moved or left out.

Rules come from config/schedule.toml. A *nominal date* is the day that the rule names; a *run* is what becomes of it:
made then, moved off a closed day, or skipped with a reason. A rule and a nominal date make one run and one key,
however often the calendar is asked.

    almanac = load(settings.schedule)
    for run in almanac.runs(rule, after=last_looked_at, until=clock.now()):
        ...  # run.key, run.planned_at, run.shifted, run.skipped

Why not cron expressions: a closed day has no place in them, and their weekday numbers begin on Monday in one program
and on Sunday in the next. Why not a list of holidays in config: it would end one year before anybody noticed. The law
is computed; what it cannot know (`[closed]` extra and open) is written down.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Any

import jpholiday

from broadcaster.clock import JST, local
from broadcaster.manuscript import LANGUAGE_KEYS, canonical_language
from broadcaster.problems import Problem, Refused
from broadcaster.slots import slots_in

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
YEAR_END = ((12, 29), (1, 3))
"""First and last day, both closed (the ward's by-law on its holidays, 地方自治法 4条の2)."""

FURTHEST_MOVE = 31
"""Days within which an open day must be found. A run is never moved into another season."""

SLOTS = ("year", "month", "day")
"""Blanks in a rule's text, filled with the nominal date."""

_DAY = timedelta(days=1)
_SEARCHED = timedelta(days=366 * 9)  # 29 February may be eight years away: 2096, 2104
_WINDOW = timedelta(days=92)
_LEAP_YEAR = 2028
_TIME = re.compile(r"(?P<hour>[01]\d|2[0-3]):(?P<minute>[0-5]\d)|24:00", re.ASCII)
_ID = re.compile(r"[a-z][a-z0-9_]*")
_YEARLY = re.compile(r"\d\d-\d\d", re.ASCII)
_ONCE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_WEEKDAY_KANJI = "月火水木金土日"


class OnClosedDay(StrEnum):
    AS_IS = "as_is"
    SKIP = "skip"
    PREVIOUS = "previous_business_day"
    NEXT = "next_business_day"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why something is not as the rule says, for staff."""

    ja: str
    en: str

    def in_(self, language: str) -> str:
        return self.ja if language == "ja" else self.en


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One line of the calendar. Exactly one of `daily`, `weekdays` and `monthdays` says when; `months` narrows it."""

    id: str
    title: str
    category: str  # its id in ward.toml; empty for what is made by hand
    channels: tuple[str, ...]
    time: timedelta  # since midnight of the day; 24 hours is the next midnight
    language: str = "ja"
    daily: bool = False
    weekdays: tuple[str, ...] = ()
    monthdays: tuple[int, ...] = ()
    months: tuple[int, ...] = ()  # empty: every month
    on_closed_day: OnClosedDay = OnClosedDay.AS_IS
    skip_dates: tuple[str, ...] = ()  # `01-11` every year, `2027-01-11` once
    late_minutes: int  # how late a run may still be made
    known_day: bool = True
    known_time: bool = True
    by_hand: bool = False  # made by people: in the calendar, sent by nobody here
    note: str = ""
    text: Mapping[str, str] = field(default_factory=dict)  # of the notice; empty: staff write it each time
    lasts_hours: int = 24  # how long that notice is in force

    def falls_on(self, day: date) -> bool:
        """Whether the rule names this day. A month without a 31st simply has no such run."""
        if self.months and day.month not in self.months:
            return False
        return self.daily or WEEKDAYS[day.weekday()] in self.weekdays or day.day in self.monthdays

    def leaves_out(self, day: date) -> bool:
        return not {day.isoformat(), f"{day:%m-%d}"}.isdisjoint(self.skip_dates)

    def at(self, day: date) -> datetime:
        return datetime.combine(day, time(), JST) + self.time


@dataclass(frozen=True, kw_only=True)
class Run:
    """What becomes of one nominal date. Never both moved and skipped."""

    rule: Rule
    nominal_date: date
    date: date  # the day on which it counts: the nominal one, or the open day that took its place
    planned_at: datetime
    shifted: Reason | None = None
    skipped: Reason | None = None

    @property
    def key(self) -> str:
        return f"{self.rule.id}/{self.nominal_date}"

    @property
    def latest_at(self) -> datetime:
        """After this the run is too late to be made."""
        return self.planned_at + timedelta(minutes=self.rule.late_minutes)


@dataclass(frozen=True, kw_only=True)
class Almanac:
    rules: tuple[Rule, ...] = ()
    extra_closed: frozenset[date] = frozenset()
    extra_open: frozenset[date] = frozenset()

    def rule(self, id: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.id == id), None)

    def closed(self, day: date) -> Reason | None:
        """Why the office is closed on this day, or None when it is open."""
        if day in self.extra_open:
            return None
        if day in self.extra_closed:
            return Reason(ja="臨時の閉庁日", en="a day of special closure")
        if is_year_end(day):
            return Reason(ja="年末年始", en="the year-end closure")
        if name := holiday_name(day):
            return Reason(ja=f"祝日（{name}）", en="a national holiday")
        if day.weekday() >= WEEKDAYS.index("sat"):
            return Reason(ja=f"{_WEEKDAY_KANJI[day.weekday()]}曜日", en=f"a {day:%A}")
        return None

    def runs(self, rule: Rule, after: datetime, until: datetime) -> Iterator[Run]:
        """Every run planned later than `after` and not later than `until`, in order, skipped ones too.

        Half open, so that asking from one wake-up to the next misses none and repeats none.
        """
        reach = (FURTHEST_MOVE + 1) * _DAY  # a move, and a day for 24:00
        first, last = local(after).date() - reach, local(until).date() + reach
        found = (self._run(rule, day) for day in _days(first, last) if rule.falls_on(day))
        yield from sorted(
            (run for run in found if after < run.planned_at <= until),
            key=lambda run: (run.planned_at, run.nominal_date),
        )

    def next_run(self, rule: Rule, after: datetime) -> Run | None:
        """The first run later than `after` that is not skipped; None when there is none for nine years."""
        begin = local(after)
        end = begin + _SEARCHED
        while begin < end:
            window_end = min(begin + _WINDOW, end)
            for run in self.runs(rule, begin, window_end):
                if run.skipped is None:
                    return run
            begin = window_end
        return None

    def _run(self, rule: Rule, day: date) -> Run:
        if rule.leaves_out(day):
            return self._skipped(
                rule, day, Reason(ja=f"{_ja(day)}は出さない日（skip_dates）です。", en=f"{day} is one of skip_dates.")
            )
        closed = self.closed(day)
        if closed is None or rule.on_closed_day is OnClosedDay.AS_IS:
            return Run(rule=rule, nominal_date=day, date=day, planned_at=rule.at(day))
        if rule.on_closed_day is OnClosedDay.SKIP:
            return self._skipped(
                rule,
                day,
                Reason(ja=f"{_ja(day)}は{closed.ja}なので出しません。", en=f"Not sent: {day} is closed ({closed.en})."),
            )
        return self._moved(rule, day, closed)

    def _moved(self, rule: Rule, day: date, closed: Reason) -> Run:
        step = -1 if rule.on_closed_day is OnClosedDay.PREVIOUS else 1
        open_day = self._open_day(day, step)
        if open_day is None:
            return self._skipped(
                rule,
                day,
                Reason(
                    ja=f"{_ja(day)}は{closed.ja}で、{FURTHEST_MOVE}日以内に開庁日がないので出しません。",
                    en=f"Not sent: {day} is closed ({closed.en}), and no day within {FURTHEST_MOVE} days is open.",
                ),
            )
        moved_ja, moved_en = ("早めます", "earlier") if step < 0 else ("遅らせます", "later")
        return Run(
            rule=rule,
            nominal_date=day,
            date=open_day,
            planned_at=rule.at(open_day),
            shifted=Reason(
                ja=f"{_ja(day)}は{closed.ja}なので、{_ja(open_day)}に{moved_ja}。",
                en=f"{day} is closed ({closed.en}): moved {moved_en}, to {open_day}.",
            ),
        )

    def _open_day(self, day: date, step: int) -> date | None:
        days = (day + step * n * _DAY for n in range(1, FURTHEST_MOVE + 1))
        return next((candidate for candidate in days if self.closed(candidate) is None), None)

    @staticmethod
    def _skipped(rule: Rule, day: date, reason: Reason) -> Run:
        return Run(rule=rule, nominal_date=day, date=day, planned_at=rule.at(day), skipped=reason)


def holiday_name(day: date) -> str | None:
    """The national holiday on this day, 振替休日 and 国民の休日 included; beyond next year it is a forecast."""
    name: str | None = jpholiday.is_holiday_name(day)
    return name


def is_year_end(day: date) -> bool:
    first, last = YEAR_END
    return (day.month, day.day) >= first or (day.month, day.day) <= last


def _days(first: date, last: date) -> Iterator[date]:
    for ordinal in range(first.toordinal(), last.toordinal() + 1):
        yield date.fromordinal(ordinal)


def _ja(day: date) -> str:
    return f"{day.month}月{day.day}日（{_WEEKDAY_KANJI[day.weekday()]}）"


# Reading schedule.toml.


def load(table: Mapping[str, Any]) -> Almanac:
    """The almanac that schedule.toml describes. Raises Refused with every problem at once."""
    reading = _Reading()
    reading.unknown_keys(table, {"closed", "rules"}, "")
    extra_closed, extra_open = reading.closed(table.get("closed", {}))
    rules = reading.rules(table.get("rules", []))
    if reading.problems:
        raise Refused(reading.problems)
    return Almanac(rules=rules, extra_closed=extra_closed, extra_open=extra_open)


@dataclass(kw_only=True)
class _Reading:
    """One pass over schedule.toml, gathering problems."""

    problems: list[Problem] = field(default_factory=list)

    def wrong(self, where: str, ja: str, en: str) -> None:
        self.problems.append(Problem(where=f"schedule.toml: {where}", ja=ja, en=en))

    def unknown_keys(self, table: Mapping[str, Any], known: set[str], where: str) -> None:
        for key in table:
            if key not in known:
                self.wrong(f"{where}{key}", f"「{key}」という項目はありません。", f"There is no key {key!r}.")

    def closed(self, table: object) -> tuple[frozenset[date], frozenset[date]]:
        if not isinstance(table, Mapping):
            self.wrong("closed", "[closed] は表で書いてください。", "[closed] must be a table.")
            return frozenset(), frozenset()
        self.unknown_keys(table, {"extra", "open"}, "closed.")
        extra, open_ = self._dates(table, "extra"), self._dates(table, "open")
        for day in sorted(extra & open_):
            self.wrong("closed", f"{day} が extra と open の両方にあります。", f"{day} stands in both extra and open.")
        return extra, open_

    def _dates(self, table: Mapping[str, Any], key: str) -> frozenset[date]:
        return frozenset(
            day for item in self._list(table, key, "closed.") if (day := self._date(item, f"closed.{key}"))
        )

    def _date(self, value: object, where: str) -> date | None:
        day = _day(str(value))
        if day is None:
            self.wrong(
                where,
                f'「{value}」は日付ではありません。"2027-05-06" のように書いてください。',
                f'{value!r} is no date; write "2027-05-06".',
            )
        return day

    def rules(self, entries: object) -> tuple[Rule, ...]:
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            self.wrong("rules", "[[rules]] は一つずつ表で書いてください。", "Write each rule as a [[rules]] table.")
            return ()
        rules: list[Rule] = []
        for number, entry in enumerate(entries, 1):
            rule = self._rule(entry, f"rules[{entry.get('id', number)}].")
            if rule and any(rule.id == other.id for other in rules):
                self.wrong("rules", f"「{rule.id}」という id が二つあります。", f"The id {rule.id!r} is used twice.")
            elif rule:
                rules.append(rule)
        return tuple(rules)

    def _rule(self, entry: Mapping[str, Any], where: str) -> Rule | None:
        before = len(self.problems)
        self.unknown_keys(entry, _RULE_KEYS, where)
        by_hand = self._flag(entry, "by_hand", where, default=False)
        rule = Rule(
            id=self._id(entry, where),
            title=self._text(entry, "title", where),
            category=self._text(entry, "category", where, needed=not by_hand),
            channels=self._channels(entry, where),
            time=self._time(entry, where),
            language=self._language(entry, where),
            daily=self._flag(entry, "daily", where, default=False),
            weekdays=self._weekdays(entry, where),
            monthdays=self._numbers(entry, "monthdays", where, most=31),
            months=self._numbers(entry, "months", where, most=12),
            on_closed_day=self._on_closed_day(entry, where),
            skip_dates=self._skip_dates(entry, where),
            late_minutes=self._number(entry, "late_minutes", where, most=7 * 24 * 60),
            known_day=self._flag(entry, "known_day", where, default=True),
            known_time=self._flag(entry, "known_time", where, default=True),
            by_hand=by_hand,
            note=self._text(entry, "note", where, needed=False),
            text=self._words(entry, where),
            lasts_hours=self._number(entry, "lasts_hours", where, most=366 * 24, default=24),
        )
        self._exactly_one_when(entry, where)
        if len(self.problems) == before:
            self._dates_that_never_come(rule, where)
        return rule if len(self.problems) == before else None

    def _id(self, entry: Mapping[str, Any], where: str) -> str:
        value = self._text(entry, "id", where)
        if value and not _ID.fullmatch(value):
            self.wrong(
                f"{where}id",
                "id は英小文字・数字・_ で書き、英字で始めてください。",
                "An id holds small letters, digits and _, and begins with a letter.",
            )
        return value

    def _text(self, entry: Mapping[str, Any], key: str, where: str, *, needed: bool = True) -> str:
        value = entry.get(key, "")
        if not isinstance(value, str):
            self.wrong(f"{where}{key}", "引用符で囲んだ文字で書いてください。", "This must be text in quotes.")
            return ""
        if needed and not value.strip():
            self.wrong(f"{where}{key}", f"{key} を書いてください。", f"{key!r} is missing.")
        return value

    def _flag(self, entry: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
        value = entry.get(key, default)
        if not isinstance(value, bool):
            self.wrong(f"{where}{key}", "true か false を書いてください。", "Write true or false.")
            return default
        return value

    def _list(self, entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
        value = entry.get(key, [])
        if not isinstance(value, list):
            self.wrong(f"{where}{key}", "[ ] の中に並べて書いてください。", "This must be a list.")
            return []
        return value

    def _channels(self, entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
        channels = self._list(entry, "channels", where)
        if not channels or not all(isinstance(name, str) and name for name in channels):
            self.wrong(f"{where}channels", "出す媒体の名を並べてください。", "Name at least one medium.")
            return ()
        return tuple(dict.fromkeys(channels))

    def _time(self, entry: Mapping[str, Any], where: str) -> timedelta:
        value = entry.get("time")
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            self.wrong(
                f"{where}time",
                '時刻は "07:00" のように、引用符と二桁ずつで書いてください（"00:00" から "24:00" まで）。',
                'Write the time in quotes with two digits each, "07:00" ("00:00" to "24:00").',
            )
            return timedelta()
        return timedelta(hours=int(match["hour"] or 24), minutes=int(match["minute"] or 0))

    def _language(self, entry: Mapping[str, Any], where: str) -> str:
        value = self._text(entry, "language", where, needed=False) or "ja"
        language = canonical_language(value)
        if language is None:
            self.wrong(
                f"{where}language", f"「{value}」という言葉は扱っていません。", f"Language {value!r} is unknown."
            )
        return language or "ja"

    def _weekdays(self, entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
        days = self._list(entry, "weekdays", where)
        for day in days:
            if isinstance(day, int) or (isinstance(day, str) and day.strip().isdigit()):
                self.wrong(
                    f"{where}weekdays",
                    f'曜日を数字（{day}）で書かないでください。月曜を 0 とも 1 とも読めます。"mon" のように書きます。',
                    f'Do not write a weekday as a number ({day}): Monday is 0 to some and 1 to others. Write "mon".',
                )
            elif day not in WEEKDAYS:
                self.wrong(
                    f"{where}weekdays",
                    f"「{day}」は曜日ではありません。{' '.join(WEEKDAYS)} から選んでください。",
                    f"{day!r} is no weekday; use {' '.join(WEEKDAYS)}.",
                )
        return tuple(day for day in WEEKDAYS if day in days)

    def _numbers(self, entry: Mapping[str, Any], key: str, where: str, *, most: int) -> tuple[int, ...]:
        numbers = self._list(entry, key, where)
        if key in entry and not numbers:
            self.wrong(f"{where}{key}", "一つ以上書いてください。", "Give at least one.")
        for number in numbers:
            if type(number) is not int or not 1 <= number <= most:
                self.wrong(
                    f"{where}{key}",
                    f"「{number}」は使えません。1 から {most} までの数を書いてください。",
                    f"{number!r} cannot be used; write numbers from 1 to {most}.",
                )
                return ()
        return tuple(sorted(set(numbers)))

    def _on_closed_day(self, entry: Mapping[str, Any], where: str) -> OnClosedDay:
        value = entry.get("on_closed_day", OnClosedDay.AS_IS)
        try:
            return OnClosedDay(value)
        except ValueError:
            choices = " ".join(OnClosedDay)
            self.wrong(
                f"{where}on_closed_day",
                f"「{value}」は使えません。{choices} から選んでください。",
                f"{value!r} is unknown; use one of {choices}.",
            )
            return OnClosedDay.AS_IS

    def _skip_dates(self, entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
        dates = [str(value) for value in self._list(entry, "skip_dates", where)]
        for value in dates:
            if _skipped_day(value) is None:
                self.wrong(
                    f"{where}skip_dates",
                    f'「{value}」は日付ではありません。毎年なら "01-11"、一度だけなら "2027-01-11" と書いてください。',
                    f'{value!r} is no date; write "01-11" for every year or "2027-01-11" for once.',
                )
        return tuple(dict.fromkeys(dates))

    def _number(self, entry: Mapping[str, Any], key: str, where: str, *, most: int, default: int | None = None) -> int:
        value = entry.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            self.wrong(
                f"{where}{key}", f"1 から {most} までの数を書いてください。", f"Write a number from 1 to {most}."
            )
            return 1
        return value

    def _words(self, entry: Mapping[str, Any], where: str) -> dict[str, str]:
        table = entry.get("text", {})
        if not isinstance(table, Mapping):
            self.wrong(f"{where}text", "[rules.text] は表で書いてください。", "[rules.text] must be a table.")
            return {}
        if not table:
            return {}
        self.unknown_keys(table, LANGUAGE_KEYS, f"{where}text.")
        words = {key: self._text(table, key, f"{where}text.", needed=key != "speech") for key in sorted(LANGUAGE_KEYS)}
        for key, text in words.items():
            for slot in set(slots_in(text)) - set(SLOTS):
                self.wrong(
                    f"{where}text.{key}",
                    f"「{{{slot}}}」という欄はありません。使えるのは {' '.join(f'{{{s}}}' for s in SLOTS)} です。",
                    f"There is no blank {{{slot}}}; use {' '.join(f'{{{s}}}' for s in SLOTS)}.",
                )
        return words

    def _exactly_one_when(self, entry: Mapping[str, Any], where: str) -> None:
        named = [key for key in ("daily", "weekdays", "monthdays") if entry.get(key)]
        if len(named) != 1:
            self.wrong(
                f"{where}daily, weekdays, monthdays",
                "いつ出すかは、daily・weekdays・monthdays のどれか一つだけで書いてください。",
                "Say when by exactly one of daily, weekdays and monthdays.",
            )

    def _dates_that_never_come(self, rule: Rule, where: str) -> None:
        """A rule or an exception without effect is a slip of the pen: 30 February, a day that the rule never names."""
        if not any(rule.falls_on(day) for day in _days(date(_LEAP_YEAR, 1, 1), date(_LEAP_YEAR, 12, 31))):
            self.wrong(f"{where}monthdays", "この日付は一年のどこにもありません。", "No month has such a day.")
        for value in rule.skip_dates:
            day = _skipped_day(value)
            if day is None or (_YEARLY.fullmatch(value) and rule.weekdays):
                continue  # 01-11 is a Friday in some year
            if not rule.falls_on(day):
                self.wrong(
                    f"{where}skip_dates",
                    f"{value} は、もともと出す日ではありません。",
                    f"{value} is no day of this rule.",
                )


def _skipped_day(value: str) -> date | None:
    """The day that an exception names; a yearly one as in a leap year, so that 29 February can be named."""
    return _day(f"{_LEAP_YEAR}-{value}" if _YEARLY.fullmatch(value) else value)


def _day(text: str) -> date | None:
    """Only `2027-01-11`: Python would take `20270111` and `2027-W02` too, and nobody would find them again."""
    try:
        return date.fromisoformat(text) if _ONCE.fullmatch(text) else None
    except ValueError:
        return None


_RULE_KEYS = {
    "id", "title", "category", "channels", "time", "language", "daily", "weekdays", "monthdays", "months",
    "on_closed_day", "skip_dates", "late_minutes", "known_day", "known_time", "by_hand", "note",
    "text", "lasts_hours",
}  # fmt: skip
